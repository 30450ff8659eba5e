"""Load tests: Galerne and its peers, measured by the same client on the same machine.

Forbidden here: anything that a served request needs. Start at `bench.py`; `peers/` holds one module
per subject, `benches/` one per bench, `clients/` one per other load generator, `figures.py` and
`accounting.py` the arithmetic.
"""
