"""One module per subject of a bench, all with the interface of `base.Peer`.

A new subject: a module with a `Peer`, and its place in one of the tuples of `registry.py`.
"""
