"""What is sent and when: arrival processes, lengths, traces, sessions, prompts.

Pure but for reading files: nothing here knows HTTP, processes or the clock. Start with
`request.py`, then `spec.py`, which turns a workload's description into requests.
"""
