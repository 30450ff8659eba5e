"""Experiments in virtual time: what a policy or a deployment would make of a day of traffic."""
