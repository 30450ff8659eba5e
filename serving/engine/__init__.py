"""The engine replica: a Ray Serve deployment around vLLM.

`deployment.py` is the replica, `guard.py` what its listener demands of callers, `arguments.py` the
settings as vLLM options, `kv_event_feed.py` what vLLM tells of its cache. Only `vllm_shim.py` may
import vllm.
"""
