"""Slow transcriptions of the equations that the cores are held to."""
