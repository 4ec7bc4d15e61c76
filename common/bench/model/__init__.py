"""The report of a run: its schema, its statistics, and what may be concluded from it."""
