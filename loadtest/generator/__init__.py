"""The open-loop generator: sends a workload's requests when they are due, whatever the answers do.

Start with `run.py`, which starts worker processes and gathers what they record; `sender.py` is the
loop of one worker.
"""
