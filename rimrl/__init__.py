"""Modular recurrent policies for reinforcement learning."""
