"""Tells whether a core is being turned into a graph."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether `torch.jit.trace`, an ONNX exporter or `torch.export` is recording.

    What they record is to hold for other values, too: nothing may then depend on the values of a tensor, or leave
    torch's operations.
    """
    return torch.jit.is_tracing() or torch.compiler.is_exporting()
