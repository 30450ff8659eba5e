"""The whole platform, as a client and an operator see it: real vLLM, Ray and HAProxy."""
