"""Pure arithmetic of deployments: placement, KV memory, and what follows from a model's shape.

No I/O; no ray, vllm or HTTP imports. Start with `placement.py` for where replicas run, with
`kv_cache.py` for what fits, with `roofline.py` for how fast it is.
"""
