"""Who may call: pure rules for API keys.

No I/O; no HTTP or database imports. Start with `access.py`.
"""
