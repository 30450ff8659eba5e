"""Pure arithmetic of placement: which bundles and which executor a replica needs.

No I/O; no ray, vllm or HTTP imports. Start with `placement.py`.
"""
