"""Recurrent cores: networks over ``[T, B, I]`` that need torch and nothing else."""
