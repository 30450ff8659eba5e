"""The `galerne` command. One module per group of commands; no decisions here.

Start with `main.py`. Read commands take `--json`; errors are one line plus a hint.
"""
