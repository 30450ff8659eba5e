"""One external system each: Ray, HAProxy, the key file, the model cache, settings files.

Adapters translate vendor exceptions into `serving.errors` and never decide policy.
"""
