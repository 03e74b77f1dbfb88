"""What is recorded for probes is what the policy saw, remembered and expected, stepped by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib.common.recurrent.type_aliases import RNNStates

import rimrl
from rimrl.errors import UsageError
from rimrl.experiments.evaluate import DEFAULT_SEED
from rimrl.experiments.inspect import record
from rimrl.experiments.probing import RECORDABLE
from rimrl.experiments.run import Run
from rimrl.runs.recording import Recording
from tests.commands import SMALL_PPO, succeed

EPISODES = 3


def small_run(folder: Path, core: str, env: str, *options: str) -> Run:
    words = ("--env.id", env, "--core.name", core, *options, "--total-timesteps", "64", "--run-dir", str(folder))
    succeed("train", "distractors/lstm", *SMALL_PPO, "--core.hidden_size", "12", *words)
    return Run.open(folder)


@pytest.fixture(scope="module")
def recording(trained: Path) -> Recording:
    return record(Run.open(trained), episodes=EPISODES, progress_bar=False, also=RECORDABLE)


def test_every_array_is_that_of_a_policy_stepped_by_hand(trained: Path, recording: Recording) -> None:
    policy, env, arrays = rimrl.load(trained).policy, rimrl.make_env("distractors"), recording.arrays
    observation, _ = env.reset(seed=DEFAULT_SEED)
    h, c = (state.numpy() for state in policy.core.initial_state(1))
    begins = h, c
    for t, action in enumerate(arrays["action"]):
        parts = {f"observation.{name}" for name in observation}
        assert parts == {name for name in arrays if name.startswith("observation")}
        for name, part in observation.items():
            np.testing.assert_array_equal(arrays[f"observation.{name}"][t], part)
        obs, _ = policy.obs_to_tensor(observation)
        with th.no_grad():
            value = policy.predict_values(obs, (th.tensor(h), th.tensor(c)), th.zeros(1, dtype=th.bool))
        assert arrays["value"][t] == pytest.approx(value.item(), abs=1e-6)
        _, state = policy.predict(observation, (h, c))
        assert state is not None
        h, c = state
        np.testing.assert_array_equal(arrays["state_h"][t], h[:, 0])
        np.testing.assert_array_equal(arrays["state_c"][t], c[:, 0])
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset()
            h, c = begins
    assert terminated or truncated
    assert arrays["state_h"].shape == (len(arrays["action"]), 1, 24)
    assert not any(name.startswith("critic_state") for name in arrays)  # it is the actor's


def test_what_the_agent_does_stays_the_same(trained: Path, recording: Recording) -> None:
    """Actions are sampled: whatever drew another number would change them."""
    plain = record(Run.open(trained), episodes=EPISODES, progress_bar=False)
    assert plain.facts == recording.facts
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(array, recording.arrays[name])


@pytest.mark.parametrize(
    ("sharing", "env"), [("separate", "CartPole-v1"), ("actor_only", "CartPole-v1"), ("separate", "Pendulum-v1")]
)
def test_critics_of_other_kinds(sharing: str, env: str, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "lstm", env, "--agent.core_sharing", sharing)
    arrays = record(run, episodes=2, progress_bar=False, also=["observations", "values", "states"]).arrays
    agent = rimrl.load(run.path)
    policy = agent.policy
    starts = th.as_tensor(arrays["fresh"])[:, None]
    sequence = th.as_tensor(arrays["observation"])[:, None]
    actions = th.as_tensor(arrays["action"].astype(np.float32))[:, None]
    with th.no_grad():
        found = policy.evaluate_sequences(sequence, actions, policy.initial_states(1), starts)
    np.testing.assert_allclose(arrays["value"], found.values[:, 0].numpy(), rtol=1e-4, atol=1e-5)
    assert arrays["value"].shape == (len(starts),)
    assert arrays["value"].std() > 0
    names = {name for name in arrays if name.startswith("critic_state")}
    assert names == ({"critic_state_h", "critic_state_c"} if sharing == "separate" else set())
    if sharing != "separate":
        return
    # From each recorded memory of the critic, one step leads to the next value.
    memory = tuple(th.as_tensor(arrays[f"critic_state_{part}"])[:-1].transpose(0, 1) for part in "hc")
    with th.no_grad():
        values = policy.predict_values(sequence[1:, 0], RNNStates(memory, memory).vf, starts[1:, 0])
    np.testing.assert_allclose(arrays["value"][1:], values[:, 0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("also", [["state"], ["states", "rewards"]])
def test_other_names_are_refused(also: list[str], trained: Path) -> None:
    with pytest.raises(UsageError, match="states"):
        record(Run.open(trained), episodes=1, progress_bar=False, also=also)


def test_as_much_as_was_asked_for(trained: Path, recording: Recording) -> None:
    def names(*also: str) -> set[str]:
        found: dict[str, Any] = record(Run.open(trained), episodes=1, progress_bar=False, also=also).arrays
        return set(found)

    plain = names()
    assert names("states") - plain == {"state_h", "state_c"}
    assert names("values") - plain == {"value"}
    assert names("observations") - plain == {name for name in recording.arrays if name.startswith("observation")}
