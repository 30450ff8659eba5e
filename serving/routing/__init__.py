"""Which replica gets a request: filter, score and pick over frozen snapshots.

No I/O; no ray, vllm or HTTP imports. Start with `pipeline.py`.
"""
