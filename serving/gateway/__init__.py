"""The ingress: authenticate, admit, choose a replica, relay bytes both ways.

Never parses a token on the way back. `api.py` is the walk of a request, `routes.py` what is served,
`guards.py` what a request must show first, `error_table.py` the one place where errors become HTTP.
"""
