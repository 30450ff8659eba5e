"""What recorded requests amount to: percentiles, goodput, a verdict, comparisons. Pure.

Start with `summary.py`.
"""
