"""Whole sequences in one autograd node: what makes the cores fast.

`loop` drives a cell over time. `rim` is the cell of RIM, made of stages, a file each: `reading`, `dynamics` and
`messages`; `native` is the same on the compiled kernels of ``kernels.cpp``, which `library` finds.
"""

from rimrl.cores.scan.loop import enabled, step_by_step

__all__ = ["enabled", "step_by_step"]
