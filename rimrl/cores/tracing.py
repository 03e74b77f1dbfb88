"""Tells whether a core is being turned into a graph."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether `torch.jit.trace`, an ONNX exporter or `torch.export` is recording.

    What they record is to hold for other values, too: nothing may then depend on the values of a tensor, or leave
    torch's operations.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_exporting()
