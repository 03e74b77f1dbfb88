"""Properties of spaces of any kind, bounds and dtype: what is accepted is stored, read, saved and loaded as it was."""

from __future__ import annotations

import json
import math
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from gymnasium import spaces
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from hypothesis.strategies import SearchStrategy

from rimrl.agents.actions import cast_to_space, unscale_actions
from rimrl.agents.preparation import Preparation
from rimrl.agents.rollout import SequenceRolloutBuffer
from rimrl.agents.saved.inert import read_inert, to_plain
from rimrl.agents.saved.spaces import space_from_json, space_to_json
from rimrl.errors import UsageError
from rimrl.spaces import DTYPES, check_spaces
from tests.agents.test_space_table import answers, assert_comes_back, assert_in_space, batch, make, stacked
from tests.sb3.helpers import check_rollouts
from tests.space_table import encoded

# The same examples every time: a test that fails now and then tells nobody anything.
quick = settings(derandomize=True, database=None, deadline=None, max_examples=150)
slow = settings(quick, max_examples=8)
ANY = spaces.Discrete(2)
INTEGERS = [name for name in DTYPES if "int" in name]


@st.composite
def boxes(draw: st.DrawFn, bounded: bool = False, least_axes: int = 0) -> spaces.Box:
    dtype: np.dtype[Any] = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(arrays.array_shapes(min_dims=least_axes, max_dims=3, min_side=1, max_side=3))
    if dtype.kind == "b":
        return spaces.Box(0, 1, shape, dtype.type)
    if dtype.kind == "f":
        elements: Any = st.floats(-1000, 1000, width=16, allow_nan=False)
    else:
        limits = np.iinfo(dtype)
        elements = st.integers(max(int(limits.min), -(2**40)), min(int(limits.max), 2**40))
    same = draw(st.booleans())
    ends = [
        np.full(shape, draw(elements), dtype) if same else draw(arrays.arrays(dtype, shape, elements=elements))
        for _ in range(2)
    ]
    low, high = np.minimum(*ends), np.maximum(*ends)
    if dtype.kind == "f" and not bounded and draw(st.booleans()):
        low, high = np.full(shape, -np.inf, dtype), np.full(shape, np.inf, dtype)
    return spaces.Box(low, high, shape, dtype.type)


@st.composite
def choices(draw: st.DrawFn) -> spaces.Discrete[Any] | spaces.MultiDiscrete[Any]:
    dtype: np.dtype[Any] = np.dtype(draw(st.sampled_from(INTEGERS)))
    limits = np.iinfo(dtype)
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    lowest, highest = max(int(limits.min), -(2**62)), min(int(limits.max) - 6, 2**62)
    starts = [
        draw(st.just(0) | st.integers(-9, 9).filter(lambda x: x >= lowest) | st.integers(lowest, highest))
        for _ in counts
    ]
    if draw(st.booleans()):
        return spaces.Discrete(counts[0], start=starts[0], dtype=dtype.type)
    return spaces.MultiDiscrete(counts, start=starts, dtype=dtype.type)


def bits(most_axes: int = 2) -> SearchStrategy[spaces.MultiBinary]:
    one = st.integers(1, 5).map(spaces.MultiBinary)
    return one if most_axes == 1 else one | arrays.array_shapes(max_dims=most_axes, max_side=3).map(spaces.MultiBinary)


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=8).filter(
    lambda key: not hasattr(th.nn.ModuleDict(), key)
)
LEAVES = boxes() | choices() | bits()
ACTIONS = boxes(bounded=True) | choices() | bits(most_axes=1)
OBSERVATIONS = LEAVES | st.dictionaries(KEYS, LEAVES, min_size=1, max_size=5).map(
    lambda parts: spaces.Dict(OrderedDict(parts))
)
# Also what no agent learns with.
EVERYTHING = st.recursive(
    LEAVES
    | st.builds(spaces.Text, st.integers(1, 5))
    | arrays.arrays(np.int64, (2, 2), elements=st.integers(1, 3)).map(spaces.MultiDiscrete)
    | st.builds(lambda: spaces.Box(-1.0, 1.0, (0,))),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
        | st.lists(inner, min_size=1, max_size=3).map(spaces.OneOf)
        | inner.map(spaces.Sequence)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(spaces.Dict)
    ),
    max_leaves=5,
)


def seeded(space: spaces.Space[Any]) -> spaces.Space[Any]:
    space.seed(0)
    return space


def refusal(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> str | None:
    try:
        check_spaces(observations, actions, "here")
    except UsageError as error:
        return str(error)
    return None


@quick
@given(EVERYTHING)
def test_what_is_accepted_comes_back_and_the_rest_is_refused_in_one_line(space: spaces.Space[Any]) -> None:
    problems = [refusal(space, ANY), refusal(ANY, space)]
    for kind, problem in zip(("observation", "action"), problems, strict=True):
        assert problem is None or (problem.startswith(f"here has the {kind} space ") and "\n" not in problem)
    if None not in problems:
        return
    written = json.loads(json.dumps(space_to_json(space), allow_nan=False))
    pickled = json.loads(json.dumps(to_plain(read_inert(cloudpickle.dumps(space)), {}), allow_nan=False))
    for content in (written, pickled):
        found = space_from_json(content, "here")
        assert type(found) is type(space)
        assert found == space
        if isinstance(space, spaces.Dict):
            assert isinstance(found, spaces.Dict)
            assert list(found.spaces) == list(space.spaces)


@quick
@given(OBSERVATIONS.map(seeded))
def test_observations_are_stored_as_they_were_and_read_as_their_space_says(space: spaces.Space[Any]) -> None:
    rollout = SequenceRolloutBuffer(3, space, ANY, "cpu", n_envs=2)
    seen: list[list[Any]] = []
    for t in range(3):
        rollout.pos = t
        seen.append([space.sample() for _ in range(2)])
        rollout.observe(stacked(space, seen[-1]))
    stored = rollout.observations
    prepare = Preparation(space, normalize_images=False)
    for t in range(3):
        for env in range(2):
            kept: Any = {k: v[t, env] for k, v in stored.items()} if isinstance(stored, dict) else stored[t, env]
            for part, known in (
                ((kept[key], seen[t][env][key]) for key in kept) if isinstance(kept, dict) else ((kept, seen[t][env]),)
            ):
                assert part.dtype == np.asarray(known).dtype
                np.testing.assert_array_equal(part, known)
    flat: Any = (
        {k: th.as_tensor(v).flatten(0, 1) for k, v in stored.items()}
        if isinstance(stored, dict)
        else th.as_tensor(stored).flatten(0, 1)
    )
    prepared = prepare(flat)
    parts = [prepared[key] for key in flat] if isinstance(prepared, dict) else [prepared]
    features = np.concatenate([part.flatten(1).numpy() for part in parts], axis=1)
    expected = np.stack([encoded(space, each) for step in seen for each in step]).astype(np.float32)
    np.testing.assert_array_equal(features, expected)


@quick
@given(boxes(bounded=True), st.data())
def test_what_a_gaussian_draws_becomes_the_nearest_action(space: spaces.Box, data: st.DataObject) -> None:
    numbers = st.floats(-2000, 2000, width=32)
    drawn = np.array(data.draw(st.lists(numbers, min_size=math.prod(space.shape), max_size=math.prod(space.shape))))
    actions = drawn.astype(np.float32).reshape(1, *space.shape)
    found = cast_to_space(np.clip(actions, space.low, space.high), space)
    assert space.contains(np.asarray(found[0]))
    nearest = np.clip(actions.astype(float), space.low.astype(float), space.high.astype(float))
    step = 0.0 if space.dtype.kind == "f" else 0.5
    np.testing.assert_allclose(found.astype(float), nearest, atol=step + 1e-6, rtol=1e-3)
    for end, bound in ((-1.0, space.low), (1.0, space.high)):
        reached = cast_to_space(unscale_actions(np.full((1, *space.shape), end, np.float32), space), space)
        np.testing.assert_allclose(reached[0].astype(float), bound.astype(float), rtol=1e-5, atol=1e-3)
        assert space.contains(np.asarray(reached[0]))


@slow
@given(OBSERVATIONS.map(seeded), ACTIONS.map(seeded))
def test_agents_learn_act_and_come_back(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
    if isinstance(actions, spaces.Box) and actions.dtype.kind == "f":
        assume(bool((actions.high - actions.low < 1e4).all()))
    agent, _ = make(observations, actions)  # whose environments refuse what is none of their actions
    check_rollouts(agent, rollouts=1, tol=1e-3)
    seen = batch(agent.observation_space, 3)
    assert_in_space(agent, seen, actions)
    assert len(answers(agent, [seen, seen])) == 6
    with tempfile.TemporaryDirectory() as folder:
        assert_comes_back(agent, Path(folder))
