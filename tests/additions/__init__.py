"""One addition of each kind, as a contributor would write it; `tests/test_additions.py` adds them to a copy."""
