"""Whole sequences in one autograd node: what makes the cores fast.

`loop` drives a cell over time. `rim` and `riglstm` are the cells of those cores, made of stages: `reading`, `dynamics`
and `messages` for RIM, in the same file for RigLSTM. `native` and `riglstm_native` are their twins on the compiled kernels
of ``kernels.cpp``, which `library` finds.
"""

from rimrl.cores.scan.loop import enabled, step_by_step

__all__ = ["enabled", "step_by_step"]
