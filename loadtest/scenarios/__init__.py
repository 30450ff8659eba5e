"""The classic questions of load testing, each one command that ends in a verdict.

`python -m loadtest.scenarios NAME`. One module per question; `trends.py` and `recovery.py` are the
pure arithmetic of theirs, `stage.py` what is loaded. README.md says how to read the verdicts.
"""
