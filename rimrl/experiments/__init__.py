"""Experiments: typed configuration, run folders, and one verb a file."""
