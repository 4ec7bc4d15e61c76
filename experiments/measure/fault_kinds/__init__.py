"""The kinds of faults that `experiments.measure.faults` tries, and the judge of what they got."""
