"""Saved agents as plain data: read, checked and rebuilt without running anything that a file brings along."""
