"""Behaviour cloning: which steps it learns from, its loss against one worked out by hand, and what it refuses."""

from __future__ import annotations

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

import rimrl
from rimrl.agents.bc import RecurrentBC
from rimrl.agents.demonstrations import read_demonstrations
from rimrl.agents.episode_streams import EpisodeStreams
from rimrl.agents.normalization import RunningMoments
from rimrl.errors import NotFiniteError, UsageError
from tests.demonstrations import PENDULUM, Episode, expert, linear_episodes, write

CORES: dict[str, dict[str, Any]] = {
    "lstm": {"hidden_size": 8},
    "rim": {"hidden_size": 12, "num_units": 3, "num_active": 2},
}
every_core = pytest.mark.parametrize("core", CORES)


def build(data: str, core: str = "lstm", n_envs: int = 2, env: Any = "Pendulum-v1", **options: Any) -> RecurrentBC:
    make = (lambda: gymnasium.make(env)) if isinstance(env, str) else env
    policy_kwargs = {"core": core, "core_kwargs": CORES[core], "net_arch": [], **options.pop("policy_kwargs", {})}
    dict_space = isinstance(make().observation_space, spaces.Dict)
    agent = RecurrentBC(
        "MultiInputPolicy" if dict_space else "MlpPolicy",
        DummyVecEnv([make] * n_envs),
        data=data,
        policy_kwargs=policy_kwargs,
        device="cpu",
        **{"seed": 0, **options},
    )
    agent.set_logger(configure(None, []))
    return agent


def losses_of(agent: RecurrentBC, steps: int) -> list[float]:
    """The losses of a training."""
    found: list[float] = []
    before = agent.logger.record

    def record(key: str, value: Any, exclude: Any = None) -> None:
        before(key, value, exclude)
        if key == "train/loss":
            found.append(value)

    agent.logger.record = record  # type: ignore[method-assign]
    agent.learn(steps)
    return found


def likelihood_by_hand(agent: RecurrentBC, episodes: list[Episode]) -> NDArray[np.float64]:
    """Negative log-likelihood of each step of each episode, one step of one episode after the other."""
    found = []
    deviation = agent.policy.log_std.exp().item()
    for observations, actions in episodes:
        state = None
        for step, action in enumerate(actions):
            mean, state = agent.policy.predict(observations[step], state, np.array([step == 0]), deterministic=True)
            # Within the bounds of the action space, where nothing is clipped.
            z = (float(action[0]) - float(mean[0])) / deviation
            found.append(0.5 * z**2 + math.log(deviation) + 0.5 * math.log(2 * math.pi))
    return np.array(found)


# -- which steps, in which order --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lengths", "n_streams"), [((5,), 3), ((2, 7, 1), 2), ((4, 4, 4, 4), 4), ((1, 1), 5)])
def test_streams_show_whole_episodes_equally_often(lengths: tuple[int, ...], n_streams: int) -> None:
    steps = 60
    episodes, within = EpisodeStreams(np.array(lengths), n_streams, seed=7).take(steps)
    assert episodes.shape == within.shape == (steps, n_streams)
    assert (within[0] == 0).all()
    for t in range(1, steps):
        for b in range(n_streams):
            ended = within[t - 1, b] == lengths[episodes[t - 1, b]] - 1
            assert within[t, b] == (0 if ended else within[t - 1, b] + 1)
            assert ended or episodes[t, b] == episodes[t - 1, b]
    begun = np.bincount(episodes[within == 0], minlength=len(lengths))
    assert begun.max() - begun.min() <= n_streams  # the rounds that the streams are in differ


def test_a_round_shows_each_episode_once_and_the_next_one_in_another_order() -> None:
    episodes, _ = EpisodeStreams(np.full(12, 3), 4, seed=0).take(18)
    rounds = [episodes[:9:3].ravel(), episodes[9::3].ravel()]
    assert all(sorted(each) == list(range(12)) for each in rounds)
    assert rounds[0].tolist() != rounds[1].tolist()


@pytest.mark.parametrize("steps", [0, 1, 13, 40])
def test_streams_that_skip_are_where_others_went(steps: int) -> None:
    one, other = (EpisodeStreams(np.array([3, 5, 2, 9]), 3, seed=1) for _ in range(2))
    one.take(steps)
    other.skip(steps)
    assert one.position == other.position == steps
    for ours, theirs in zip(one.take(11), other.take(11), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_update_sees_episodes_as_they_were_and_carries_the_state(tmp_path: Path) -> None:
    """Observations say of which episode and step they are, and actions say it of the observation before them."""
    lengths = [6, 3, 4, 9]
    episodes = []
    for number, length in enumerate(lengths):
        seen = np.zeros((length + 1, 3), dtype=np.float32)
        seen[:, 0], seen[:, 1] = number / 8, np.arange(length + 1) / 16
        episodes.append((seen, (seen[:-1, :1] + seen[:-1, 1:2])))
    agent = build(write(tmp_path / "data", episodes), n_steps=4, validation_share=0.0)
    calls: list[tuple[th.Tensor, ...]] = []
    evaluate = agent.policy.evaluate_sequences

    def spy(obs: Any, actions: Any, states: Any, starts: Any, **rest: Any) -> Any:
        result = evaluate(obs, actions, states, starts, **rest)
        calls.append((obs, actions, starts, states.pi[0].clone(), result.states.pi[0].detach().clone()))
        return result

    agent.policy.evaluate_sequences = spy  # type: ignore[assignment]
    agent.learn(2 * 4 * 10)
    assert len(calls) == 10
    obs, actions, starts = (th.cat([call[part] for call in calls]) for part in range(3))
    episode, step = (obs[..., 0] * 8).round().long(), (obs[..., 1] * 16).round().long()
    th.testing.assert_close(actions[..., 0], obs[..., 0] + obs[..., 1])
    assert th.equal(starts, step == 0)
    goes_on = ~starts[1:]
    assert th.equal(episode[1:][goes_on], episode[:-1][goes_on])
    assert th.equal(step[1:][goes_on], step[:-1][goes_on] + 1)
    ends = starts[1:]
    assert th.equal(step[:-1][ends], th.tensor(lengths)[episode[:-1][ends]] - 1)
    for before, after in pairwise(calls):
        assert th.equal(before[4], after[3])


# -- the loss ---------------------------------------------------------------------------------------------------------


@every_core
@pytest.mark.parametrize("sequence_length", [None, 3])
def test_the_loss_is_the_mean_negative_log_likelihood(core: str, sequence_length: int | None, tmp_path: Path) -> None:
    """Over all steps of all episodes; with a learning rate that changes nothing, halves of them in two updates."""
    episodes = linear_episodes([12, 12, 12])
    data = write(tmp_path / "data", episodes)
    agent = build(
        data,
        core,
        n_envs=3,
        n_steps=6,
        validation_share=0.0,
        learning_rate=1e-30,
        sequence_length=sequence_length,
        policy_kwargs={"log_std_init": -1.0},
    )
    expected = likelihood_by_hand(agent, episodes).mean()
    assert np.mean(losses_of(agent, 36)) == pytest.approx(expected, rel=1e-5)


@every_core
def test_the_validation_loss_counts_each_held_out_step_once(core: str, tmp_path: Path) -> None:
    """Of episodes of any length, in batches that have to be filled up."""
    episodes = linear_episodes([3, 11, 6, 1, 8, 5])
    agent = build(write(tmp_path / "data", episodes), core, n_steps=4, validation_share=0.5)
    held_out = [episodes[number] for number in agent._held_out]
    assert len(held_out) == 3
    assert agent.validation_loss() == pytest.approx(likelihood_by_hand(agent, held_out).mean(), rel=1e-5)


def test_held_out_episodes_are_the_same_for_every_seed_and_never_learned_from(tmp_path: Path) -> None:
    data = write(tmp_path / "data", linear_episodes([4] * 10))
    one, other = (build(data, seed=seed, validation_share=0.3) for seed in (1, 2))
    np.testing.assert_array_equal(one._held_out, other._held_out)
    assert sorted([*one._held_out, *one._learned]) == list(range(10))


def test_observations_are_normalised_by_the_demonstrations_that_are_learned_from(tmp_path: Path) -> None:
    episodes = linear_episodes([4, 9, 6, 2])
    data = write(tmp_path / "data", episodes)
    agent = build(data, n_steps=4, validation_share=0.25, policy_kwargs={"normalize_observations": True})
    seen = np.concatenate([episodes[number][0][:-1] for number in agent._learned]).astype(np.float64)
    statistics = agent.policy.observation_statistics
    assert statistics is not None
    (moments,) = statistics.parts
    assert isinstance(moments, RunningMoments)
    np.testing.assert_allclose(moments.mean, seen.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(moments.var, seen.var(axis=0), rtol=1e-3)
    before = moments.mean.clone()
    agent.learn(16)
    assert th.equal(moments.mean, before)


@every_core
def test_the_clone_does_what_the_expert_does(core: str, tmp_path: Path) -> None:
    agent = build(write(tmp_path / "data", linear_episodes([20] * 24)), core, n_envs=8, n_steps=20, learning_rate=1e-2)
    new = np.random.default_rng(99).uniform(-1, 1, (64, 3)).astype(np.float32)

    def error() -> float:
        done, _ = agent.predict(new, deterministic=True)
        return float(np.abs(done - expert(new)).mean())

    before = error()
    agent.learn(8 * 20 * 90)
    assert error() < 0.4 * before


class Choices(gymnasium.Env[Any, Any]):
    """Shows a dictionary and takes choices that count from 2."""

    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
    action_space = spaces.Discrete(4, start=2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, True, {}


def test_dictionaries_and_choices_can_be_cloned(tmp_path: Path) -> None:
    """The action is what the observation says, counted from 2."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(16):
        said = rng.integers(0, 3, 11)
        episodes.append(({"a": rng.uniform(-1, 1, (11, 2)).astype(np.float32), "b": said}, said[:-1] + 2))
    data = write(tmp_path / "data", episodes, Choices.observation_space, Choices.action_space)
    agent = build(data, env=Choices, n_envs=4, n_steps=10, learning_rate=2e-2)
    agent.learn(4 * 10 * 40)
    shown: dict[str, NDArray[Any]] = {"a": np.zeros((3, 2), dtype=np.float32), "b": np.arange(3)}
    assert agent.predict(shown, deterministic=True)[0].tolist() == [2, 3, 4]


def test_images_are_turned_as_those_of_the_environment(tmp_path: Path) -> None:
    class Images(Choices):
        observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)  # type: ignore[assignment]

    rng = np.random.default_rng(0)
    seen = rng.integers(0, 256, (2, 5, 36, 40, 3), dtype=np.uint8)
    data = str(tmp_path / "data")
    episodes = [(list(each), np.array([2, 3, 4, 5])) for each in seen]
    write(tmp_path / "data", episodes, Images.observation_space, Images.action_space)
    agent = RecurrentBC(
        "CnnPolicy", Images(), data=data, validation_share=0.0, n_steps=4, policy_kwargs={"core": "lstm"}, seed=0
    )
    assert agent._demonstrations is not None
    recorded = read_demonstrations(data, Images.observation_space, Images.action_space).observations
    assert isinstance(recorded, np.ndarray)
    np.testing.assert_array_equal(agent._demonstrations.observations, recorded.transpose(0, 3, 1, 2))


def test_a_saved_clone_goes_on_and_needs_the_demonstrations_only_for_that(tmp_path: Path) -> None:
    data = write(tmp_path / "data", linear_episodes([6] * 4))
    agent = build(data, n_steps=4, validation_freq=7)
    agent.learn(16)
    agent.save(tmp_path / "agent.zip")
    Path(data).rename(tmp_path / "elsewhere")
    loaded = rimrl.load(tmp_path / "agent.zip", env=DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * 2))
    assert isinstance(loaded, RecurrentBC)
    assert (loaded.data, loaded.validation_freq) == (data, 7)
    seen = np.zeros((5, 3), dtype=np.float32)
    np.testing.assert_array_equal(
        loaded.predict(seen, deterministic=True)[0], agent.predict(seen, deterministic=True)[0]
    )
    with pytest.raises(UsageError, match="unknown data set"):
        loaded.learn(8)
    loaded.data = str(tmp_path / "elsewhere")
    before = [parameter.clone() for parameter in loaded.policy.core.parameters()]
    loaded.learn(8, reset_num_timesteps=False)
    assert loaded.num_timesteps == 24
    assert all(not th.equal(a, b) for a, b in zip(before, loaded.policy.core.parameters(), strict=True))


def test_a_loaded_clone_begins_episodes_anew(tmp_path: Path) -> None:
    """It has forgotten what it remembered in the middle of one."""
    data = write(tmp_path / "data", linear_episodes([6] * 4))
    agent = build(data, n_steps=4)
    agent.learn(8)
    agent.save(tmp_path / "agent.zip")
    loaded = rimrl.load(tmp_path / "agent.zip", env=agent.env)
    for learner, begins in ((agent, False), (loaded, True)):
        starts: list[th.Tensor] = []
        evaluate = learner.policy.evaluate_sequences

        def spy(*words: Any, evaluate: Any = evaluate, starts: Any = starts, **rest: Any) -> Any:
            starts.append(words[3])
            return evaluate(*words, **rest)

        learner.policy.evaluate_sequences = spy  # type: ignore[method-assign]
        learner.learn(8, reset_num_timesteps=False)
        assert bool(starts[0][0].all()) == begins


# -- refusals ---------------------------------------------------------------------------------------------------------


def damaged(name: str) -> Any:
    """Episodes of which the first observation or action is not one of Pendulum's."""
    observations, actions = linear_episodes([4])[0]
    if name == "observations":
        observations[2, 1] = np.nan
    else:
        actions[1] = np.inf
    return [(observations, actions)]


@pytest.mark.parametrize("what", ["observations", "actions"])
def test_numbers_that_are_not_finite_are_refused(what: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{what} of .* in episode 0"):
        build(write(tmp_path / "data", damaged(what)), validation_share=0.0)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "said"),
    [
        (spaces.Box(-1, 1, (4,), np.float32), PENDULUM.action_space, r"observations.*\[3\].*\[4\]"),
        (PENDULUM.observation_space, spaces.Box(-1, 1, (1,), np.float32), "actions.*from -2 to 2.*from -1 to 1"),
        (PENDULUM.observation_space, spaces.Discrete(3), r"actions.*Discrete\(3\)"),
        (spaces.Dict({"a": PENDULUM.observation_space}), PENDULUM.action_space, "observations.*a: float32"),
    ],
)
def test_demonstrations_of_another_task_are_refused(
    observation_space: Any, action_space: Any, said: str, tmp_path: Path
) -> None:
    data = write(tmp_path / "data", [], observation_space, action_space)
    with pytest.raises(UsageError, match=said):
        build(data)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"a": spaces.Box(-1, 1, (2,), np.float32)}, "lacks the observations 'b'"),
        ({**Choices.observation_space.spaces, "c": spaces.Discrete(2)}, "environment lacks the observations 'c'"),
        ({"a": spaces.Box(-1, 1, (5,), np.float32), "b": spaces.Discrete(3)}, r"observations 'a'.*\[2\].*\[5\]"),
    ],
)
def test_the_key_that_does_not_fit_is_named(parts: Any, said: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data", [], spaces.Dict(parts), Choices.action_space)
    with pytest.raises(UsageError, match=said):
        build(data, env=Choices)


def test_a_choice_that_is_none_is_refused(tmp_path: Path) -> None:
    seen = {"a": np.zeros((3, 2), dtype=np.float32), "b": np.zeros(3, dtype=np.int64)}
    data = write(tmp_path / "data", [(seen, np.array([2, 6]))], Choices.observation_space, Choices.action_space)
    with pytest.raises(UsageError, match=r"actions of .* in episode 0"):
        build(data, env=Choices)


def test_an_empty_data_set_and_one_that_leaves_nothing_to_learn_from_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no episodes"):
        build(write(tmp_path / "empty", []))
    one = write(tmp_path / "one", linear_episodes([5]))
    with pytest.raises(UsageError, match="validation_share"):
        build(one)
    build(one, validation_share=0.0).learn(4)


def test_what_is_no_data_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write(tmp_path / "pendulum" / "expert-v0" / "data", linear_episodes([4, 4]))
    build("pendulum/expert-v0")
    with pytest.raises(UsageError, match="did you mean 'pendulum/expert-v0'"):
        build("pendulum/expert-v1")
    with pytest.raises(UsageError, match="lacks a Minari data set"):
        build(str(tmp_path))
    with pytest.raises(UsageError, match="needs demonstrations"):
        RecurrentBC("MlpPolicy", "Pendulum-v1")


def test_a_damaged_data_set_is_one_line(tmp_path: Path) -> None:
    folder = Path(write(tmp_path / "data", linear_episodes([4, 4])))
    (folder / "main_data.hdf5").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot read the demonstrations"):
        build(str(folder))
    metadata = json.loads((folder / "metadata.json").read_text())
    # Minari would make the environment that the file names, whatever that runs.
    del metadata["observation_space"]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UsageError, match="lacks the observation space"):
        build(str(folder))


def test_without_minari_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UsageError, match=r"rimrl\[imitate\]"):
        build(str(tmp_path))


@pytest.mark.parametrize("option", ["use_sde", "use_masking"])
def test_what_demonstrations_do_not_hold_is_refused(option: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=option):
        RecurrentBC("MlpPolicy", "Pendulum-v1", data=str(tmp_path), **{option: True})  # type: ignore[arg-type]


def test_a_policy_that_diverges_is_said_so(tmp_path: Path) -> None:
    agent = build(write(tmp_path / "data", linear_episodes([8] * 3)), n_steps=8)
    with th.no_grad():
        agent.policy.log_std.fill_(-200.0)
    with pytest.raises((NotFiniteError, ValueError)):
        agent.learn(16)
