"""Which clients there are beside ours."""

from loadtest.clients import aiperf, locust, vllm_bench

OTHERS = (vllm_bench.CLIENT, aiperf.CLIENT, locust.CLIENT)
