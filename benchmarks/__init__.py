"""What the speed tables of the documentation come from: ``make bench``, or each file with ``python -m``."""
