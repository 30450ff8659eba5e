"""From a request's body to the token ids of its prompt, as vLLM would make them.

`bodies.py` and its neighbours read what each dialect sends, `conversations.py` turns that into chat
messages, `model_tokenizer.py` renders and tokenizes those as the model's own files say.
`tokenizer.py` holds what all of them agree on, and a tokenizer for models that do not exist.
Simulated engines use it to have prompts at all, gateways to know which blocks a prompt consists of.
"""
