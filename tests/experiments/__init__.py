"""Configurations, run folders, train and evaluate."""
