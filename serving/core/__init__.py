"""Shared vocabulary: identifiers, frozen snapshots, wire names, and when an engine hangs.

Standard library only; no I/O. Start with `types.py`.
"""
