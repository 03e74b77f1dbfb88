"""The papers' supervised sequence tasks: data, models, training."""
