"""The instrument: which backend, on this machine, for this model, and why. Knows no backend; they
come by name.
"""
