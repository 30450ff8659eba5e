"""Other people's load generators against Galerne, and what they make of the same server.

Forbidden here: changing a client. Each module says how one is installed, which command runs it and
where its figures stand; `base.py` has what they have in common, `registry.py` which there are.
"""
