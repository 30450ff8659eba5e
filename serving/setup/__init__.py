"""What runs before Galerne is installed: standard library only, and no import of `serving`.

Start with `bootstrap.py`, which the Makefile calls with the system's Python.
"""
