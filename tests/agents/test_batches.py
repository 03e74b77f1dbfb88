"""Observations, recurrent states and episode starts must be of the same environments; nothing is guessed from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates

import rimrl
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.saved.exported import write_exported
from rimrl.errors import UsageError
from tests.sb3.helpers import OBSERVATION_SPACES, SMALL_RIM, randomize, short_episodes


def made(sharing: str = "shared") -> rimrl.RecurrentPPO:
    agent = rimrl.RecurrentPPO(
        "MlpPolicy",
        short_episodes(2),
        n_steps=8,
        batch_size=8,
        policy_kwargs={"core_kwargs": SMALL_RIM, "core_sharing": sharing},
        device="cpu",
    )
    randomize(agent.policy)
    return agent


def saved(folder: Path) -> Any:
    made().save(folder / "agent.zip")
    return rimrl.load(folder / "agent.zip", device="cpu")


def exported(folder: Path) -> Any:
    write_exported(made(), folder)
    return rimrl.load(folder, device="cpu")


def in_contrib(_: Path) -> Any:
    kwargs = {"core": "rim", "core_kwargs": SMALL_RIM}
    return ContribRecurrentPPO(RecurrentCorePolicy, short_episodes(2), policy_kwargs=kwargs, device="cpu")


AGENTS: dict[str, Callable[[Path], Any]] = {
    "made": lambda _: made(),
    "separate": lambda _: made("separate"),
    "actor_only": lambda _: made("actor_only"),
    "saved": saved,
    "exported": exported,
    "in contrib": in_contrib,
    "policy alone": lambda _: made().policy,
}
every_agent = pytest.mark.parametrize("agent", AGENTS)


def seen(number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).normal(size=(number, 3)).astype(np.float32)


@every_agent
@pytest.mark.parametrize(("observations", "environments"), [(4, 1), (4, 2), (4, 8), (1, 4), (3, 2)])
def test_a_state_of_other_environments_is_refused(
    agent: str, observations: int, environments: int, tmp_path: Path
) -> None:
    played = AGENTS[agent](tmp_path)
    _, state = played.predict(seen(environments))
    with pytest.raises(UsageError) as caught:
        played.predict(seen(observations), state)
    assert (caught.value.kind, caught.value.found) == ("mismatch", str(environments))
    assert str(observations) in str(caught.value.valid)
    assert "\n" not in str(caught.value)


@every_agent
@pytest.mark.parametrize(
    "starts", [np.ones(1), np.ones(3, bool), np.ones((4, 1)), np.ones((1, 4)), np.array(True)], ids=str
)
def test_episode_starts_of_other_environments_are_refused(agent: str, starts: Any, tmp_path: Path) -> None:
    played = AGENTS[agent](tmp_path)
    _, state = played.predict(seen(4))
    for given in (None, state):
        with pytest.raises(UsageError, match=r"flag.*4 observations"):
            played.predict(seen(4), given, starts)


@every_agent
def test_one_observation_goes_with_a_state_and_a_start_of_one(agent: str, tmp_path: Path) -> None:
    played = AGENTS[agent](tmp_path)
    _, state = played.predict(seen(1)[0])
    expected, _ = played.predict(seen(1), state, np.ones(1, bool), deterministic=True)
    for start in (np.ones(1), [True], True, np.array(True)):
        found, _ = played.predict(seen(1)[0], state, start, deterministic=True)
        assert found.shape == ()
        assert found == expected[0]
    _, of_two = played.predict(seen(2))
    with pytest.raises(UsageError, match=r"1 environments.*observations, got 2"):
        played.predict(seen(1)[0], of_two)


def test_several_environments_are_what_each_is_alone() -> None:
    """The property that states of others broke: environments do not see each other."""
    agent = made()
    _, state = agent.predict(seen(4), episode_start=np.ones(4))
    starts = np.array([False, True, False, True])
    _, together = agent.predict(seen(4) + 1.0, state, starts, deterministic=True)
    assert state is not None
    assert together is not None
    for env in range(4):
        own = tuple(part[:, [env]] for part in state)
        _, alone = agent.predict((seen(4) + 1.0)[[env]], own, starts[[env]], deterministic=True)
        assert alone is not None
        for whole, part in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[:, [env]], part, atol=1e-6)


def test_traces_are_of_the_same_environments() -> None:
    agent = made()
    _, state = agent.predict(seen(4))
    assert agent.policy.trace(seen(4), state, np.ones(4, bool)).active.shape[:2] == (1, 4)
    with pytest.raises(UsageError, match=r"^the state .* got 4;"):
        agent.policy.trace(seen(2), state)
    with pytest.raises(UsageError, match=r"flag.*4"):
        agent.policy.trace(seen(4), state, np.ones(2, bool))


def test_parts_of_a_dict_are_of_the_same_environments() -> None:
    env = short_episodes(2, observation_space=OBSERVATION_SPACES["dict"])
    agent = rimrl.RecurrentPPO("MultiInputPolicy", env, policy_kwargs={"core_kwargs": SMALL_RIM}, device="cpu")
    observation: Any = env.reset()
    observation["place"] = observation["place"][:1]
    with pytest.raises(UsageError, match="2 of 'kind' and 1 of 'place'"):
        agent.predict(observation)


def test_tensors_of_contribs_interface_are_checked() -> None:
    policy = made().policy
    obs, two, three = th.zeros(4, 3), policy.initial_states(2), policy.initial_states(3)
    with pytest.raises(UsageError, match=r"^the state .* got 2;"):
        policy(obs, two, th.zeros(4))
    with pytest.raises(UsageError, match=r"4 observations.*sequences.*3"):
        policy.evaluate_actions(obs, th.zeros(4), three, th.zeros(4))
    with pytest.raises(UsageError, match=r"equally.*sequences"):
        policy.get_distribution(obs, three.pi, th.zeros(4))
    with pytest.raises(UsageError, match=r"flag.*4"):
        policy.predict_values(obs, two.vf, th.zeros(2))
    # Two sequences of two steps are what contrib's training asks for.
    values, _, _ = policy.evaluate_actions(obs, th.zeros(4), two, th.zeros(4))
    assert values.shape == (4, 1)


def test_a_critic_of_its_own_is_checked_too() -> None:
    policy = made("separate").policy
    two, four = policy.initial_states(2), policy.initial_states(4)
    with pytest.raises(UsageError, match=r"^the state .* got 2;"):
        policy(th.zeros(4, 3), RNNStates(four.pi, two.vf), th.zeros(4))


@pytest.mark.parametrize(
    "state",
    [
        (np.zeros((1, 2, 8)),),
        (None, None),
        (np.zeros((2, 8)), np.zeros((2, 8))),
        np.zeros((1, 2, 8)),
        "state",
    ],
    ids=["one part", "none", "two axes", "an array", "text"],
)
def test_what_is_no_state_is_named(state: Any) -> None:
    model = rimrl.RecurrentPPO("MlpPolicy", short_episodes(2), policy_kwargs={"core_kwargs": SMALL_RIM}, device="cpu")
    with pytest.raises(UsageError, match="state"):
        model.predict(np.zeros((2, 3), np.float32), state)
