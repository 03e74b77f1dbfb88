"""Whole sequences in one autograd node: what makes the cores fast.

`loop` drives a cell over time. `rim` and `riglstm` are the cells of those cores on torch's operations, made of
stages: `reading`, `dynamics` and `messages` for RIM, in the same file for RigLSTM. Where `library` finds the compiled
kernels of ``kernels.cpp``, `native` (RIM, LSTM) and `riglstm_native` take their place.
"""

from rimrl.cores.scan.loop import enabled, step_by_step

__all__ = ["enabled", "step_by_step"]
