"""Wire formats: what clients send and what they are answered.

No sockets and no engine imports. `envelope.py` is all the gateway reads of a request body,
`openai.py` the shapes it writes.
"""
