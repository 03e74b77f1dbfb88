"""Whether a graph is the policy it was made from: both play, and every answer is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch as th
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from torch.distributions import Bernoulli, Categorical

from rimrl.agents.graph.drawing import draw
from rimrl.agents.graph.step import PolicyStep
from rimrl.errors import cannot, wrong

Answers: TypeAlias = dict[str, NDArray[Any]]
Observation: TypeAlias = "NDArray[Any] | dict[str, NDArray[Any]]"
Graph: TypeAlias = Callable[[Observation, tuple[NDArray[Any], ...], NDArray[Any]], Mapping[str, NDArray[Any]]]
"""Observation, parts of the state and episode starts to the outputs of `PolicyStep.forward`."""

TOLERANCE = 1e-5
"""Of every number, relative where it is above 1."""
_STEPS = 24
_EPISODE_STARTS = 0.1
# Where rounding is amplified, or decides which units win or which action is taken, no two programs agree. So much
# weights are changed to find out how far the policy itself moves then.
_ROUNDING, _NEIGHBOURS = 1e-6, 8
_MOST_EXCUSED = 0.5


class ComparisonResult(NamedTuple):
    """How a graph and a policy compared.

    Attributes:
        answers: How many were compared, each the outputs of one step for one row.
        excused: Of those, how many differ by more than `TOLERANCE`, but no more than the policy does from itself when
            its weights are changed by about their rounding.
        largest_difference: Of the others; relative where numbers are above 1.
    """

    answers: int
    excused: int
    largest_difference: float


class PolicyComparison:
    """Holds graphs against the policy itself, through its own ``predict``, ``forward`` and distribution.

    Args:
        step: What the graphs were made from; its policy is asked, not the step.
    """

    def __init__(self, step: PolicyStep) -> None:
        self.step = step

    def check(self, graph: Graph, seed: int = 0) -> ComparisonResult:
        """Play with a graph, which feeds on its own states, and compare every step with the policy.

        Observations are random; episodes start at the first step and at random later; the first state is random, too,
        so that a graph must reset it. One row and several are played.

        Args:
            graph: The graph.
            seed: Of observations and episode starts.

        Returns:
            How they compared.

        Raises:
            UsageError: If an output differs by more than `TOLERANCE` and rounding does not explain it, or rounding has
                to explain more than half of all answers.
        """
        rng = np.random.default_rng(seed)
        one, several = (self._play(graph, rows, rng) for rows in (1, 3))
        found = ComparisonResult(
            one.answers + several.answers,
            one.excused + several.excused,
            max(one.largest_difference, several.largest_difference),
        )
        if found.excused > _MOST_EXCUSED * found.answers:
            raise cannot(
                "check",
                "the graph",
                f"rounded weights change {found.excused} of {found.answers} answers",
                "has it diverged?",
            )
        return found

    def _play(self, graph: Graph, rows: int, rng: np.random.Generator) -> ComparisonResult:
        policy = self.step.policy
        state = tuple(rng.standard_normal((n, rows, d)).astype(np.float32) for n, _, d in self.step.state_shapes)
        starts, excused, largest = np.ones(rows, bool), 0, 0.0
        for number in range(_STEPS):
            observation = draw(policy.observation_space, policy.observation_statistics, rows, rng)
            expected = answers(policy, observation, state, starts)
            found = graph(observation, state, starts)
            difference = _difference(found, expected)
            same = difference <= TOLERANCE
            if not same.all():
                if (~same & (difference > self._rounding(expected, (observation, state, starts)))).any():
                    raise wrong(
                        "the graph", f"is not the policy: {_worst(found, expected)} at step {number}", kind="mismatch"
                    )
                excused += int((~same).sum())
            largest = max(largest, float(difference[same].max(initial=0.0)))
            state = tuple(
                np.where(same[None, :, None], found[f"next_{name}"], expected[f"next_{name}"])
                for name in self.step.state_names
            )
            starts = rng.random(rows) < _EPISODE_STARTS
        return ComparisonResult(rows * _STEPS, excused, largest)

    def _rounding(self, expected: Answers, given: tuple[Any, ...]) -> NDArray[np.float64]:
        """How far the policy moves in each row when its weights are changed by about their rounding."""
        moved = [_difference(answers(neighbour, *given), expected) for neighbour in self._neighbours]
        return np.asarray(np.max(moved, axis=0), dtype=np.float64)

    @cached_property
    def _neighbours(self) -> list[Any]:
        return list(self._perturbed())

    def _perturbed(self) -> Iterator[Any]:
        generator = th.Generator().manual_seed(0)
        for _ in range(_NEIGHBOURS):
            twin = deepcopy(self.step.policy)
            with th.no_grad():
                for weight in twin.parameters():
                    weight.mul_(1.0 + _ROUNDING * th.randn(weight.shape, generator=generator))
            yield twin


def answers(policy: Any, observation: Observation, state: tuple[NDArray[Any], ...], starts: NDArray[Any]) -> Answers:
    """What a policy says of one step, under the names of the outputs of `PolicyStep.forward`.

    Args:
        policy: A `RecurrentCorePolicy` on the CPU.
        observation: ``[B, *observation shape]``, or a dict of such.
        state: The actor's ``h`` and ``c``, then those of a critic's core of its own; each
            ``[num_layers, B, hidden_size]``.
        starts: ``[B]`` bool.
    """
    with th.no_grad():
        tensors, _ = policy.obs_to_tensor(observation)
        given = tuple(th.as_tensor(part) for part in state)
        pi, vf = given[:2], given[2:] or given[:2]
        flags = th.as_tensor(starts)
        distribution, _ = policy.get_distribution(tensors, pi, flags)
        found = _parameters(distribution)
        _, values, _, after = policy(tensors, RNNStates(pi, vf), flags, deterministic=True)
    found["action"], _ = policy.predict(observation, state[:2], starts, deterministic=True)
    found["value"] = values.squeeze(1).numpy()
    names = ("h", "c", "critic_h", "critic_c")[: len(given)]
    parts = (*after.pi, *after.vf) if len(given) > 2 else after.pi
    return found | {f"next_{name}": part.numpy() for name, part in zip(names, parts, strict=True)}


def _parameters(distribution: Distribution) -> Answers:
    inner: Any = distribution.distribution
    if isinstance(inner, list):
        return {"logits": th.cat([each.logits for each in inner], -1).numpy()}
    if isinstance(inner, Categorical | Bernoulli):
        return {"logits": inner.logits.numpy()}
    return {"mean": inner.mean.numpy(), "std": inner.stddev.numpy()}


def _difference(found: Mapping[str, NDArray[Any]], expected: Answers) -> NDArray[np.float64]:
    """The largest of each row, over all outputs; infinite where something is missing or of another shape or dtype."""
    rows = len(expected["value"])
    if found.keys() != expected.keys():
        return np.full(rows, np.inf)
    each = [_of_rows(name, found[name], expected[name]) for name in expected]
    return np.asarray(np.max(each, axis=0), dtype=np.float64)


def _of_rows(name: str, found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    rows_first = np.moveaxis(expected, 1, 0) if name.startswith("next_") else expected
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return np.full(len(rows_first), np.inf)
    a, b = (
        (np.moveaxis(part, 1, 0) if name.startswith("next_") else part).reshape(len(rows_first), -1).astype(np.float64)
        for part in (found, expected)
    )
    off = np.abs(a - b) / np.maximum(1.0, np.abs(b))
    return np.asarray(np.where(np.isnan(off), np.inf, off).max(axis=1, initial=0.0), dtype=np.float64)


def _worst(found: Mapping[str, NDArray[Any]], expected: Answers) -> str:
    if found.keys() != expected.keys():
        return f"it has the outputs {', '.join(found)} instead of {', '.join(expected)}"
    name = max(expected, key=lambda each: float(_of_rows(each, found[each], expected[each]).max()))
    return f"{name!r} differs by {float(_of_rows(name, found[name], expected[name]).max()):.3g}"
