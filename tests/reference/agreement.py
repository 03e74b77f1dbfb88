"""Compare a core with its transcription: outputs, final state, trace and gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rimrl.cores.base import CoreTrace, RecurrentCore
from tests.reference.complex_step import directional_derivative
from tests.reference.rim_numpy import Array

TOLERANCE = 1e-9
ENTRY_BY_ENTRY = 3
"""Tensors up to this many entries are differentiated along each of them, larger ones along random directions.

A wrong entry shows along a random direction as well; only its place does not.
"""


class SequenceResult(Protocol):
    """What a transcription returns."""

    @property
    def y(self) -> Array: ...
    @property
    def h(self) -> Array: ...
    @property
    def c(self) -> Array: ...


Transcription = Callable[[Mapping[str, Array], NDArray[np.bool_]], SequenceResult]


class Case(NamedTuple):
    """A core with random weights, and a sequence with random initial state and resets.

    Attributes:
        point: Every parameter by name, and ``"x"``, ``"h"``, ``"c"``.
        starts: ``[T, B]``.
        functional: Weights of ``y``, ``h`` and ``c`` in the number that is differentiated.
    """

    core: RecurrentCore
    point: dict[str, Array]
    starts: NDArray[np.bool_]
    functional: tuple[Array, Array, Array]


def as_sets(point: Mapping[str, Array]) -> dict[str, Array]:
    """A point whose ``"x"`` is ``[T, B, M, I]``: one element a step where it was a vector."""
    x = point["x"]
    return {**point, "x": x if x.ndim == 4 else x[:, :, None]}


def resets(num_steps: int, batch_size: int) -> NDArray[np.bool_]:
    """Row 0 starts again in the middle; row 1 at the first step and later twice in a row; others never."""
    starts = np.zeros((num_steps, batch_size), np.bool_)
    starts[num_steps // 2, 0] = True
    if batch_size > 1:
        starts[[0, num_steps - 2, num_steps - 1], 1] = True
    return starts


def make_case(
    core: RecurrentCore, seed: int, *, num_steps: int = 5, batch_size: int = 3, scale: float = 0.7, memory: bool = True
) -> Case:
    """Draw weights, inputs and a state for a core; ``memory=False`` leaves the cell state at zero."""
    rng = np.random.default_rng(seed)
    core.double()
    point = {name: scale * rng.standard_normal(p.shape) for name, p in core.named_parameters()}
    with torch.no_grad():
        for name, p in core.named_parameters():
            p.copy_(torch.from_numpy(point[name]))
    elements = () if core.num_inputs == 1 else (core.num_inputs,)
    state_shape = (core.num_layers, batch_size, core.hidden_size)
    point["x"] = rng.standard_normal((num_steps, batch_size, *elements, core.input_size))
    point["h"] = rng.standard_normal(state_shape)
    point["c"] = rng.standard_normal(state_shape) if memory else np.zeros(state_shape)
    functional = (
        rng.standard_normal((num_steps, batch_size, core.output_size)),
        rng.standard_normal(state_shape),
        rng.standard_normal(state_shape),
    )
    return Case(core, point, resets(num_steps, batch_size), functional)


class CoreResult(NamedTuple):
    """Everything the core itself returned for a case, and the gradient of the functional by name."""

    y: Array
    h: Array
    c: Array
    trace: CoreTrace
    gradients: dict[str, Array]


def run_core(case: Case) -> CoreResult:
    """Run the core with and without a trace, check that both agree, and differentiate the run without."""
    leaves = {name: torch.from_numpy(case.point[name]).requires_grad_() for name in ("x", "h", "c")}
    leaves |= dict(case.core.named_parameters())
    starts = torch.from_numpy(case.starts)
    y, (h, c) = case.core(leaves["x"], (leaves["h"], leaves["c"]), starts)
    a, b, d = (torch.from_numpy(f) for f in case.functional)
    loss = (a * y).sum() + (b * h).sum() + (d * c).sum()
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    gradients = {
        name: np.zeros(leaf.shape) if g is None else g.numpy()
        for (name, leaf), g in zip(leaves.items(), found, strict=True)
    }
    y_traced, (h_traced, c_traced), trace = case.core(
        leaves["x"], (leaves["h"], leaves["c"]), starts, return_trace=True
    )
    assert torch.equal(y, y_traced)
    assert torch.equal(h, h_traced)
    assert torch.equal(c, c_traced)
    return CoreResult(y.detach().numpy(), h.detach().numpy(), c.detach().numpy(), trace, gradients)


def assert_close(actual: Array, expected: Array, what: str) -> None:
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


def directions(shape: tuple[int, ...], rng: np.random.Generator, count: int) -> list[Array]:
    """Every unit direction of a tiny tensor, a few random ones of a larger tensor."""
    size = int(np.prod(shape))
    if size <= ENTRY_BY_ENTRY:
        return [np.eye(size)[i].reshape(shape) for i in range(size)]
    return [rng.standard_normal(shape) for _ in range(count)]


def functional_of(case: Case, transcription: Transcription) -> Callable[[Mapping[str, Array]], complex]:
    """The number to differentiate, as the transcription computes it."""

    def value(point: Mapping[str, Array]) -> complex:
        result = transcription(point, case.starts)
        outputs = (result.y, result.h, result.c)
        return complex(sum(np.sum(f * o) for f, o in zip(case.functional, outputs, strict=True)))

    return value


def assert_values_agree(found: CoreResult, expected: SequenceResult) -> None:
    assert_close(found.y, expected.y, "y")
    assert_close(found.h, expected.h, "h")
    assert_close(found.c, expected.c, "c")


def assert_gradients_agree(
    case: Case, found: CoreResult, transcription: Transcription, *, count: int = 3, skip: tuple[str, ...] = ()
) -> None:
    """Compare the gradient of every tensor, each on its own, along several directions.

    A tensor whose gradient is zero throughout would prove little, so that counts as a failure.
    """
    rng = np.random.default_rng(0)
    value = functional_of(case, transcription)
    for name, gradient in found.gradients.items():
        if name in skip:
            continue
        assert np.abs(gradient).max() > 1e-4, f"no gradient reaches {name}"
        for direction in directions(gradient.shape, rng, count):
            expected = directional_derivative(value, case.point, {name: direction})
            assert_close(np.sum(gradient * direction), np.array(expected), f"gradient of {name}")


def assert_joint_gradient_agrees(case: Case, found: CoreResult, transcription: Transcription) -> None:
    """Compare the gradient along one random direction of all tensors together."""
    rng = np.random.default_rng(0)
    direction = {name: rng.standard_normal(value.shape) for name, value in case.point.items()}
    expected = directional_derivative(functional_of(case, transcription), case.point, direction)
    actual = sum(np.sum(found.gradients[name] * along) for name, along in direction.items())
    assert_close(np.array(actual), np.array(expected), "gradient of everything")
