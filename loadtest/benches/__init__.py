"""One module per bench: `run(plan) -> list[Line]`. What each measures: `loadtest/README.md`."""
