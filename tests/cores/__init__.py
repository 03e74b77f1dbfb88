"""The contract of the cores and what must hold whatever the weights are."""
