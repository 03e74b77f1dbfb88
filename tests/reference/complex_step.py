"""Exact directional derivatives: a step of 1e-30 along the imaginary axis loses no digits to cancellation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tests.reference.rim_numpy import Array

STEP = 1e-30

Function = Callable[[Mapping[str, Array]], complex]


def directional_derivative(f: Function, at: Mapping[str, Array], direction: Mapping[str, Array]) -> float:
    """Derivative of f at a point along a direction; tensors missing from the direction stay put.

    Args:
        f: From named arrays to a number, holding for complex arrays as well.
        at: The real point.
        direction: Real arrays, shaped as those of the same name in ``at``.
    """
    moved = {name: value.astype(np.complex128) for name, value in at.items()}
    for name, along in direction.items():
        moved[name] = moved[name] + 1j * STEP * along
    return float(np.imag(f(moved))) / STEP
