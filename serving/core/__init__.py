"""Shared vocabulary: identifiers, frozen snapshots and ports.

Standard library only; no I/O. Start with `types.py`.
"""
