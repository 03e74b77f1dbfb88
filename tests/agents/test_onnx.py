"""The ONNX graph and torch's graph of one step are the policy, over whole episodes, or are not written."""

from __future__ import annotations

import json
import re
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rimrl.agents.graph import check
from rimrl.agents.graph.card import section
from rimrl.agents.graph.check import PolicyComparison, answers
from rimrl.agents.graph.drawing import draw
from rimrl.agents.graph.onnx_file import named_inputs, write_onnx
from rimrl.agents.graph.step import PolicyStep, traced
from rimrl.cores.base import CoreTrace, State
from rimrl.cores.feedforward import FeedForward
from rimrl.cores.registry import CORES
from rimrl.errors import UsageError
from tests.agents.test_exported import make_agent
from tests.agents.test_space_table import make
from tests.cores.builders import small_options
from tests.sb3.helpers import SMALL_RIM
from tests.space_table import ACTIONS, OBSERVATIONS, WORKING_ACTIONS, WORKING_OBSERVATIONS, box

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SEVERAL = spaces.Dict({"place": box(3), "kind": spaces.Discrete(4, start=2), "bits": spaces.MultiBinary(2)})


def agent_of(core: Any = "feedforward", observations: Any = None, actions: Any = None, **options: Any) -> Any:
    """An agent with weights of some size; a quick core unless told otherwise."""
    core_kwargs = small_options(core) if isinstance(core, str) else {"hidden_size": 6}
    kwargs = {"core": core, "core_kwargs": core_kwargs, **options.pop("policy_kwargs", {})}
    return make(observations or box(3), actions or spaces.Discrete(3), policy_kwargs=kwargs, **options)[0]


def assert_plays_like(agent: Any, graph: check.Graph, rows: int = 2, steps: int = 30) -> None:
    """Over whole episodes each goes on from its own state, and the graph starts in one that it must reset."""
    rng = np.random.default_rng(7)
    policy = agent.policy
    shapes = PolicyStep(policy).state_shapes
    known = tuple(np.zeros((n, rows, d), np.float32) for n, _, d in shapes)
    found = tuple(np.full((n, rows, d), 3.0, np.float32) for n, _, d in shapes)
    starts = np.ones(rows, bool)
    for _ in range(steps):
        observation = draw(policy.observation_space, policy.observation_statistics, rows, rng)
        expected, got = answers(policy, observation, known, starts), graph(observation, found, starts)
        assert got.keys() == expected.keys()
        for name, array in expected.items():
            assert got[name].shape == array.shape, name
            assert got[name].dtype == array.dtype, name
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
        names = [name for name in expected if name.startswith("next_")]
        known, found = tuple(expected[name] for name in names), tuple(got[name] for name in names)
        starts = rng.random(rows) < 0.15


def in_onnxruntime(file: Path) -> check.Graph:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def graph(observation: Any, state: tuple[NDArray[Any], ...], starts: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, named_inputs(observation, state, starts)), strict=True))

    return graph


def in_torch(policy: Any) -> check.Graph:
    module = traced(PolicyStep(policy)).module()

    def graph(observation: Any, state: tuple[NDArray[Any], ...], starts: NDArray[Any]) -> dict[str, NDArray[Any]]:
        tensors, _ = policy.obs_to_tensor(observation)
        found = module(tensors, tuple(map(th.as_tensor, state)), th.as_tensor(starts))
        return {name: each.numpy() for name, each in found.items()}

    return graph


def test_the_graph_of_torch_plays_the_same() -> None:
    """Files in ONNX are made from it, so that the other tests show it of every core."""
    agent = agent_of("gru", policy_kwargs={"core_sharing": "separate"})
    assert_plays_like(agent, in_torch(agent.policy), rows=3)


KINDS: dict[str, dict[str, Any]] = {
    "separate": {"core": "lstm", "policy_kwargs": {"core_sharing": "separate", "share_features_extractor": False}},
    "actor_only": {"core": "gru", "policy_kwargs": {"core_sharing": "actor_only"}, "actions": spaces.MultiBinary(3)},
    "choices": {
        "core": "feedforward",
        "observations": SEVERAL,
        "actions": spaces.MultiDiscrete([2, 3], start=[4, -1]),
    },
    "squashed": {
        "core": "entnet",
        "actions": box(2, low=-5, high=9),
        "use_sde": True,
        "policy_kwargs": {"squash_output": True},
    },
}
MORE_KINDS: dict[str, dict[str, Any]] = {
    "progressive": {"core": "lstm", "policy_kwargs": {"trunk": "progressive"}},
    "frozen": {"core": "rim", "policy_kwargs": {"trunk": "frozen", "core_sharing": "separate"}},
    "bounds": {"actions": box(2, low=-0.1, high=0.2)},
    "sde of whole numbers": {"actions": box(2, low=-5, high=9, dtype=np.int8), "use_sde": True},
    "learned start": {"core": "rim", "policy_kwargs": {"core_kwargs": {**SMALL_RIM, "learn_initial_state": True}}},
}


def assert_same_as_onnx(agent: Any, folder: Path) -> None:
    """The file plays like the agent, which stays as it was."""
    policy = agent.policy
    policy.set_training_mode(True)
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    learned = [weight.requires_grad for weight in policy.parameters()]
    facts = write_onnx(policy, folder / "policy.onnx")
    assert facts["checked"]["largest_difference"] < 1e-5
    assert policy.training
    assert [weight.requires_grad for weight in policy.parameters()] == learned
    assert all(th.equal(weight, before[name]) for name, weight in policy.state_dict().items())
    for rnn in (module for module in policy.modules() if isinstance(module, th.nn.RNNBase)):
        assert all(a is b for a, b in zip(rnn._flat_weights, rnn.parameters(), strict=True))
    policy.set_training_mode(False)
    assert_plays_like(agent, in_onnxruntime(folder / "policy.onnx"))


# An export takes seconds: a fast test exports the cores that a kind of policy has.
OTHER_CORES = sorted(CORES.keys() - {kind["core"] for kind in KINDS.values()})


@pytest.mark.slow
@pytest.mark.parametrize("core", OTHER_CORES)
def test_every_core_plays_the_same_as_onnx(core: str, tmp_path: Path) -> None:
    assert_same_as_onnx(agent_of(core), tmp_path)


@pytest.mark.parametrize(
    "kind", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_KINDS)], ids=str
)
def test_every_kind_of_policy_plays_the_same_as_onnx(kind: str, tmp_path: Path) -> None:
    assert_same_as_onnx(agent_of(**deepcopy({**KINDS, **MORE_KINDS}[kind])), tmp_path)


@pytest.mark.slow
def test_images_play_the_same_as_onnx(tmp_path: Path) -> None:
    agent = make_agent("image", "lstm")
    with th.no_grad():
        for weight in agent.policy.parameters():
            weight.mul_(0.3)
    write_onnx(agent.policy, tmp_path / "policy.onnx")
    assert_plays_like(agent, in_onnxruntime(tmp_path / "policy.onnx"))


def test_normalised_observations_are_normalised_in_the_graph(tmp_path: Path) -> None:
    agent = agent_of(observations=box(3, low=-np.inf, high=np.inf), policy_kwargs={"normalize_observations": True})
    moments = agent.policy.observation_statistics.parts[0]
    moments.mean.fill_(500.0)
    moments.var.fill_(900.0)
    write_onnx(agent.policy, tmp_path / "policy.onnx")
    assert_plays_like(agent, in_onnxruntime(tmp_path / "policy.onnx"))
    graph, given = in_onnxruntime(tmp_path / "policy.onnx"), (np.zeros((1, 1, 12), np.float32),) * 2
    mean, above = (graph(np.full((1, 3), x, np.float32), given, np.ones(1, bool))["logits"] for x in (500.0, 530.0))
    assert not np.allclose(mean, above, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKING_OBSERVATIONS)
def test_every_observation_space_plays_the_same_as_onnx(name: str, tmp_path: Path) -> None:
    agent = agent_of(observations=OBSERVATIONS[name].space)
    with th.no_grad():
        for weight in agent.policy.parameters():
            weight.mul_(0.3)
    write_onnx(agent.policy, tmp_path / "policy.onnx")
    assert_plays_like(agent, in_onnxruntime(tmp_path / "policy.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKING_ACTIONS)
def test_every_action_space_plays_the_same_as_onnx(name: str, tmp_path: Path) -> None:
    agent = agent_of(actions=ACTIONS[name].space)
    write_onnx(agent.policy, tmp_path / "policy.onnx")
    assert_plays_like(agent, in_onnxruntime(tmp_path / "policy.onnx"))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, dict[str, Any]]:
    """An agent that sees several parts, its graph and what is said of it."""
    agent, file = agent_of(observations=SEVERAL), tmp_path_factory.mktemp("several") / "policy.onnx"
    return agent, file, write_onnx(agent.policy, file)


def test_the_card_says_what_the_file_says(several: tuple[Any, Path, dict[str, Any]]) -> None:
    _, file, facts = several
    session = onnxruntime.InferenceSession(file)
    for described, ends in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        assert [each["name"] for each in facts[described]] == [each.name for each in ends]
        assert [each["shape"] for each in facts[described]] == [list(each.shape) for each in ends]
    assert {each["name"]: (each["dtype"], each["shape"]) for each in facts["inputs"]} == {
        "observation.bits": ("int8", ["batch", 2]),
        "observation.kind": ("int64", ["batch"]),
        "observation.place": ("float32", ["batch", 3]),
        "h": ("float32", [1, "batch", 12]),
        "c": ("float32", [1, "batch", 12]),
        "episode_start": ("bool", ["batch"]),
    }
    assert json.loads(json.dumps(facts)) == facts
    assert facts["checked"]["by"] == f"onnxruntime {onnxruntime.__version__}"
    assert str(Path(check.__file__).parents[3]).encode() not in file.read_bytes()


def test_the_program_of_the_readme_plays(
    several: tuple[Any, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, file, facts = several
    monkeypatch.chdir(file.parent)
    text = section(facts)
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    rng, state, starts = np.random.default_rng(0), None, np.ones(1, bool)
    for _ in range(8):
        observation = draw(agent.policy.observation_space, None, 1, rng)
        known, state = agent.predict(observation, state, starts, deterministic=True)
        np.testing.assert_array_equal(names["act"](observation, starts), known)
        starts = rng.random(1) < 0.3


# -- what must not be written ------------------------------------------------------------------------------------------


class Counting(FeedForward):
    """What it computes depends on how often it was called, which no graph sees."""

    calls = 0

    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        self.calls += 1
        y, state, trace = super()._scan(x, state, episode_starts, return_trace)
        return y * (self.calls % 5), state, trace


class Choosing(FeedForward):
    """Chooses by the values of its input."""

    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        y, state, trace = super()._scan(x, state, episode_starts, return_trace)
        return (y if x.sum() > 0 else -y), state, trace


class FreezingAChoice(FeedForward):
    """Chooses by its input where it is played, and always alike where it is traced."""

    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        y, state, trace = super()._scan(x, state, episode_starts, return_trace)
        return (y if th.compiler.is_exporting() or bool(x.sum() > 0) else -y), state, trace


class KeepingRows(FeedForward):
    """Works with the number of rows that it was traced with."""

    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        y, state, trace = super()._scan(x, state, episode_starts, return_trace)
        return y + len(x[0]), state, trace


@pytest.mark.parametrize("core", [Counting, Choosing, FreezingAChoice, KeepingRows])
def test_what_would_be_wrong_is_refused(core: type[FeedForward], tmp_path: Path) -> None:
    agent = agent_of(core)
    with pytest.raises(UsageError, match=r"cannot trace|not the policy") as refusal:
        write_onnx(agent.policy, tmp_path / "policy.onnx")
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["action", "logits", "value", "next_h", "next_c"])
def test_the_referee_sees_every_output(name: str) -> None:
    agent = agent_of("lstm")
    referee = PolicyComparison(PolicyStep(agent.policy))
    calls = 0

    def wrong(observation: Any, state: tuple[NDArray[Any], ...], starts: NDArray[Any]) -> dict[str, NDArray[Any]]:
        nonlocal calls
        calls += 1
        found = answers(agent.policy, observation, state, starts)
        if calls == 60:  # one answer, in the midst
            found[name] = found[name].copy()
            found[name].flat[-1] += 1 if name == "action" else np.float32(2e-4)
        return found

    right = referee.check(lambda *given: answers(agent.policy, *given))
    assert right.excused == 0
    assert right.largest_difference == 0.0
    calls = 60 - 30  # 24 steps of one row, then 24 of several
    with pytest.raises(UsageError, match=f"'{name}' differs"):
        referee.check(wrong)


def test_a_policy_that_hangs_on_rounding_is_not_vouched_for() -> None:
    agent = agent_of("lstm")
    with th.no_grad():
        agent.policy.value_net.weight.mul_(1e9)
        agent.policy.value_net.bias.fill_(0.0)
        agent.policy.mlp_extractor.value_net[0].bias.fill_(30.0)
        agent.policy.value_net.weight.copy_(agent.policy.value_net.weight - agent.policy.value_net.weight.mean())
    referee = PolicyComparison(PolicyStep(agent.policy))
    other = next(referee._perturbed())
    with pytest.raises(UsageError, match="rounded weights change"):
        referee.check(lambda *given: answers(other, *given))


def test_distributions_without_a_form_are_refused_by_name() -> None:
    policy = agent_of().policy
    policy.action_dist = th.nn.Identity()
    with pytest.raises(UsageError, match=r"distribution.*Identity"):
        PolicyStep(policy)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_extra_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=r"pip install 'rimrl\[onnx\]'"):
        write_onnx(agent_of().policy, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_torch_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    facts = write_onnx(agent_of().policy, tmp_path / "policy.onnx")
    assert facts["checked"]["by"] == f"torch {th.__version__}"
    assert (tmp_path / "policy.onnx").stat().st_size > 0
