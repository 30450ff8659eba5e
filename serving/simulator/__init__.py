"""An engine without a model: what vLLM would schedule, cache and evict, step by step.

Start with `scheduler.py`; `kv_cache.py` and `block_pool.py` lie below it. These and `timing.py` are
pure: no I/O, no clock. `tests/integration/test_simulator_agrees_with_vllm.py` proves them. Around
them, `engine.py` runs the steps in time, `api.py` is vLLM's HTTP surface, `launch.py` builds all.
"""
