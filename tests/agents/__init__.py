"""The rollout, the policies and the algorithms on their own."""
