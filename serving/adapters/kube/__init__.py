"""The Kubernetes API: what the commands and the node watcher ask of it.

Objects go in and out as the API's own JSON, so that fields this release does not know survive.
No decisions here. Start with `client.py`; `connection.py` finds the cluster, `watching.py` follows
changes, `failures.py` has every error and its hint.
"""
