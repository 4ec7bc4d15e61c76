"""The instrument: which backend is fastest on this machine, for this model, and why."""
