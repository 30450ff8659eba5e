"""What recorded requests amount to: percentiles, goodput, a verdict, comparisons, a capacity.

Pure but for reading an SLO's file: nothing here knows HTTP, processes or the clock. Start with
`summary.py`, then `summarize.py`; `compare.py` and `gate.py` are about two runs, `capacity.py`
about many.
"""
