"""Experiments in virtual time: what a policy would make of a day of traffic."""
