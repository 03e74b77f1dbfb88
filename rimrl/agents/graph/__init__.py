"""Policies as graphs for other programs: one step, traced, written and checked."""
