"""The SB3 border: policies, rollouts and algorithms over recurrent cores."""
