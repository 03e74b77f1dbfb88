"""Environments: what agents are trained on, what is held out, and probes of single abilities."""
