"""The sequence tasks: each against independent derivations, training, what it leaves."""
