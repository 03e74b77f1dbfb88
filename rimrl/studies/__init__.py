"""Studies: many trials in one folder, worked on side by side; what a trial does is its own affair."""
