"""Reports that people look at: plots, a page that holds them all, and progress in the terminal.

Everything here only reads: records, a summary, what a run was. Figures are concluded in
`loadtest.verdict`, never here. Nothing that is drawn grows with the number of requests.
Start at `files.py`, which writes a report; `plots.py` lists its pictures.
"""
