"""Galerne: a self-hosted inference platform for Mistral-style open-weight models.

Start with ARCHITECTURE.md; `app.py` is the only place where adapters are constructed.
"""

__version__ = "0.1.0"
