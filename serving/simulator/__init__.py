"""An engine without a model: what vLLM would schedule, cache and evict, step by step.

Start with `scheduler.py`; `kv_cache.py` and `block_pool.py` lie below it, `request.py` is what all
of them know of a request. These and `timing.py` are pure: no I/O, no clock.
`tests/integration/test_simulator_agrees_with_vllm.py` proves them. Around them, `engine.py` runs
the steps in time. vLLM's HTTP surface is `api.py` and `service.py`; what comes in is read by
`serving.rendering`, what goes out is in the files named reply, one for each dialect. `launch.py`
builds all.
"""
