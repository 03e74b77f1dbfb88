"""Evaluation: what is counted, against plain loops over the environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

import rimrl
from rimrl.envs.atari import LearningSignal
from rimrl.envs.suites import DISTRACTORS
from rimrl.envs.vector import make_vec_env
from rimrl.errors import UsageError
from rimrl.experiments.evaluate import DEFAULT_SEED, Episodes, evaluate, evaluation_file, play
from rimrl.experiments.played import suite_name
from rimrl.experiments.run import Run
from tests.commands import files, read_json, rewrite, succeed


class Lasts(gymnasium.Env[np.ndarray[Any, Any], np.int64]):
    """Episodes of a fixed length; pays its length once, at the end, and shouts success at every step of some."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int, succeeds: bool | None) -> None:
        self.length, self.succeeds = length, succeeds
        self.left = length

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.left = self.length
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        self.left -= 1
        done = self.left == 0
        info = {} if self.succeeds is None else {"is_success": self.succeeds}
        return np.zeros(1, np.float32), float(self.length) if done else 0.0, done, False, info


def lasting(*lengths: int, succeeds: Callable[[int], bool | None]) -> Callable[[], VecEnv]:
    """Environments side by side, of which each has another length."""
    return lambda: VecMonitor(DummyVecEnv([lambda n=n: Lasts(n, succeeds(n)) for n in lengths]))  # type: ignore[misc]


@pytest.mark.parametrize("episodes", [1, 2, 3, 7, 12])
def test_every_environment_plays_its_share(episodes: int) -> None:
    lengths = (1, 4, 9)
    outcome = play(None, lasting(*lengths, succeeds=lambda n: n == 4), episodes, deterministic=True, seed=0)
    assert len(outcome.returns) == len(outcome.lengths) == len(outcome.successes) == episodes
    shares = [outcome.lengths.count(n) for n in lengths]
    assert sum(shares) == episodes
    assert max(shares) - min(shares) <= 1  # though the short ones could have played many more
    assert outcome.returns == outcome.lengths
    # Success is said at every step, and counts once an episode.
    assert sum(outcome.successes) == outcome.lengths.count(4)


def test_no_success_where_none_is_reported() -> None:
    outcome = play(None, lasting(2, 3, succeeds=lambda _: None), 4, deterministic=True, seed=0)
    assert outcome.successes == []
    assert outcome.summary()["success_rate"] is None


def test_summary() -> None:
    summary = Episodes([1.0, 0.0, 0.5, 0.5], [3, 5, 4, 4], [True, False, True, True]).summary()
    assert summary == {
        "return_mean": 0.5,
        "return_std": pytest.approx(0.125**0.5),
        "length_mean": 4.0,
        "success_rate": 0.75,
    }


class ThreeLives(gymnasium.Env[np.ndarray[Any, Any], np.int64]):
    """A game of three lives, each two steps longer than the last; every step scores 5, a loss costs 2."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.lives, self.steps = 3, 0
        return np.zeros(1, np.float32), {"lives": self.lives}

    def step(self, action: np.int64) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        lost = self.steps in (2, 2 + 4, 2 + 4 + 6)
        self.lives -= lost
        info = {"lives": self.lives, "is_success": self.lives == 0}
        return np.zeros(1, np.float32), -2.0 if lost else 5.0, self.lives == 0, False, info


class Remembers:
    """A recurrent player that notes when it was told to begin anew, and counts the steps since then in its state."""

    def __init__(self) -> None:
        self.starts: list[bool] = []
        self.counts: list[int] = []

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...]]:
        assert episode_start is not None
        before = np.zeros(len(episode_start)) if state is None else state[0]
        now = np.where(episode_start, 0, before) + 1
        self.starts.append(bool(episode_start[0]))
        self.counts.append(int(now[0]))
        return np.zeros(len(episode_start), np.int64), (now,)


def test_lost_lives_begin_anew_for_the_agent_and_games_are_counted_whole() -> None:
    def make() -> VecEnv:
        return LearningSignal(VecMonitor(DummyVecEnv([ThreeLives])), terminal_on_life_loss=True, clip_rewards=True)

    # What training tells the agent: an episode starts after every `done`, as in Stable-Baselines3's rollouts.
    env, starts = make(), [True]
    env.reset()
    for _ in range(2 * 12 - 1):
        starts.append(bool(env.step(np.zeros(1, np.int64))[2][0]))
    assert [i for i, start in enumerate(starts) if start] == [0, 2, 6, 12, 14, 18]

    player = Remembers()
    outcome = play(player, make, 2, deterministic=True, seed=0)
    assert player.starts == starts
    assert player.counts == [*range(1, 3), *range(1, 5), *range(1, 7)] * 2
    # Two games of 12 steps, nine of which score 5 and three cost 2: neither clipped nor cut into lives.
    assert outcome == Episodes([39.0, 39.0], [12, 12], [True, True], [0, 0], [0, 1], [None, None])


def test_a_game_that_goes_on_after_a_lost_life_keeps_its_state() -> None:
    player = Remembers()
    env = LearningSignal(VecMonitor(DummyVecEnv([ThreeLives])), terminal_on_life_loss=False)
    outcome = play(player, lambda: env, 1, deterministic=True, seed=0)
    assert player.counts == list(range(1, 13))
    assert outcome.returns == [39.0]


@pytest.mark.parametrize("split", ["train", "all_novel"])
def test_the_agent_plays_as_in_a_plain_loop(split: str, trained: Path) -> None:
    agent, episodes, seed = rimrl.load(trained), 5, 77
    env = rimrl.make_env("distractors", split=split)
    returns, lengths, successes = [], [], []
    observation, _ = env.reset(seed=seed)
    for _ in range(episodes):
        state, start, total, length, done = None, np.ones(1, bool), 0.0, 0, False
        while not done:
            action, state = agent.predict(observation, state, start, deterministic=True)
            observation, reward, terminated, truncated, info = env.step(int(action))
            start = np.zeros(1, bool)
            total, length, done = total + float(reward), length + 1, terminated or truncated
        returns.append(total)
        lengths.append(length)
        successes.append(info["is_success"])
        observation, _ = env.reset()

    outcome = play(agent, lambda: make_vec_env("distractors", split, n_envs=1, seed=seed), episodes, True, seed)
    assert outcome.returns == pytest.approx(returns)
    assert outcome.lengths == lengths
    assert outcome.successes == successes


def test_the_random_policy_plays_as_in_a_plain_loop() -> None:
    episodes, seed = 8, 5
    env = rimrl.make_env("distractors")
    actions = env.action_space
    actions.seed(seed)
    env.reset(seed=seed)
    returns = []
    for _ in range(episodes):
        total, done = 0.0, False
        while not done:
            _, reward, terminated, truncated, _ = env.step(actions.sample())
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
        env.reset()

    def make() -> VecEnv:
        return make_vec_env("distractors", n_envs=1, seed=seed)

    outcome = play(None, make, episodes, deterministic=True, seed=seed)
    assert outcome.returns == pytest.approx(returns)
    assert play(None, make, episodes, deterministic=True, seed=seed) == outcome
    assert play(None, make, episodes, deterministic=True, seed=seed + 1) != outcome


def test_every_split_is_played_in_its_own_environment(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[str, int, int]] = []

    def record(env_id: str, split: str, n_envs: int, seed: int, **kwargs: Any) -> VecEnv:
        played.append((split, n_envs, seed))
        return make_vec_env(env_id, split, n_envs=n_envs, seed=seed, **kwargs)

    monkeypatch.setattr("rimrl.experiments.evaluate.make_vec_env", record)
    evaluate(Run.open(run), episodes=3, seed=9, n_envs=2, progress_bar=False)
    # First the agent, then the random policy.
    assert played == [(split.name, 2, 9) for split in DISTRACTORS.splits for _ in range(2)]


def test_evaluation_repeats(run: Path) -> None:
    words = ("evaluate", run, "--episodes", "3", "--split", "train", "--quiet")
    for extra in ([], ["--deterministic"]):
        succeed(*words, *extra)
        first = (run / "evaluation.json").read_bytes()
        succeed(*words, *extra)
        assert (run / "evaluation.json").read_bytes() == first


def test_evaluation_touches_nothing_but_its_file(run: Path) -> None:
    before = files(run)
    succeed("evaluate", run, "--episodes", "2", "--quiet")
    after = files(run)
    assert before.keys() == after.keys()
    assert [name for name in after if after[name] != before[name]] == ["evaluation.json"]


def test_evaluation_plays_levels_that_training_did_not(trained: Path) -> None:
    evaluation = read_json(trained / "evaluation.json")
    config = Run.open(trained).config
    assert evaluation["seed"] == DEFAULT_SEED > config.train.seed + config.env.n_envs


def test_fewer_episodes_than_environments(run: Path) -> None:
    succeed("evaluate", run, "--episodes", "1", "--n-envs", "8", "--split", "train", "--no-random", "--quiet")
    result = read_json(run / "evaluation.json")["splits"]["train"]
    assert result["episodes"] == 1
    assert result["return_std"] == 0.0


def episodes_by_split(run: Path) -> dict[str, int]:
    return {name: result["episodes"] for name, result in read_json(run / "evaluation.json")["splits"].items()}


def test_one_split_is_put_among_the_others(run: Path) -> None:
    before = episodes_by_split(run)
    succeed("evaluate", run, "--split", "all_novel", "--episodes", "2", "--quiet")
    assert episodes_by_split(run) == {**before, "all_novel": 2}
    assert list(episodes_by_split(run)) == list(before)


@pytest.mark.parametrize("words", [["--deterministic"], ["--seed", "5"], ["--best"]])
def test_one_split_is_not_put_among_those_of_another_evaluation(words: list[str], run: Path) -> None:
    succeed("evaluate", run, "--split", "all_novel", "--episodes", "2", "--quiet", *words)
    assert episodes_by_split(run) == {"all_novel": 2}


def test_one_split_is_not_put_among_those_of_another_agent(run: Path) -> None:
    evaluation = read_json(run / "evaluation.json")
    (run / "evaluation.json").write_text(json.dumps(evaluation | {"num_timesteps": 1}))
    succeed("evaluate", run, "--split", "train", "--episodes", "2", "--quiet")
    assert episodes_by_split(run) == {"train": 2}


@pytest.mark.parametrize("earlier", ["", "[]", "{}", '{"splits": 3}'])
def test_a_damaged_evaluation_is_replaced(earlier: str, run: Path) -> None:
    (run / "evaluation.json").write_text(earlier)
    succeed("evaluate", run, "--split", "train", "--episodes", "2", "--no-random", "--quiet")
    assert episodes_by_split(run) == {"train": 2}


def test_from_python(run: Path) -> None:
    returned = evaluate(Run.open(run), episodes=2, split="more_objects", random_policy=False, progress_bar=False)
    assert returned == read_json(run / "evaluation.json")
    assert "random_return_mean" not in returned["splits"]["more_objects"]
    assert "random_return_mean" in returned["splits"]["train"]


def test_every_episode_is_kept(trained: Path) -> None:
    text = (trained / "evaluation.json").read_text()
    for result in json.loads(text)["splits"].values():
        assert np.mean(result["episode_returns"]) == pytest.approx(result["return_mean"])
        assert np.std(result["episode_returns"]) == pytest.approx(result["return_std"], abs=1e-6)
        assert np.mean(result["episode_lengths"]) == result["length_mean"]
        assert np.mean(result["episode_successes"]) == result["success_rate"]
        assert {len(result[f"episode_{what}"]) for what in ("returns", "lengths", "successes")} == {result["episodes"]}
    # A line for each list, however many episodes there are.
    assert text.count("\n") < 40 * len(DISTRACTORS.splits)


def test_what_was_played_can_be_made_again_from_the_file(run: Path) -> None:
    succeed("evaluate", run, "--episodes", "2", "--n-envs", "1", "--split", "all_novel", "--deterministic", "--quiet")
    evaluation = read_json(run / "evaluation.json")
    result = evaluation["splits"]["all_novel"]
    assert evaluation["deterministic"] is True
    env = rimrl.make_env(result["env_id"], **result["env_kwargs"])
    agent = rimrl.load(run)
    observation, _ = env.reset(seed=evaluation["seed"])
    returns = []
    for _ in range(2):
        state, start, total, done = None, np.ones(1, bool), 0.0, False
        while not done:
            action, state = agent.predict(observation, state, start, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(int(action))
            start, total, done = np.zeros(1, bool), total + float(reward), terminated or truncated
        returns.append(total)
        observation, _ = env.reset()
    assert result["episode_returns"] == pytest.approx(returns, abs=1e-6)


OTHER = "rimrl/Distractors-AllNovel-v0"


def test_another_suite_goes_to_a_file_of_its_own(run: Path) -> None:
    own = (run / "evaluation.json").read_bytes()
    before = set(files(run))
    answer = succeed("evaluate", run, "--suite", OTHER, "--episodes", "3", "--quiet")
    assert set(files(run)) - before == {"evaluation-rimrl-Distractors-AllNovel-v0.json"}
    assert (run / "evaluation.json").read_bytes() == own
    other = read_json(run / "evaluation-rimrl-Distractors-AllNovel-v0.json")
    assert other["suite"] == OTHER
    # The only split of a single environment is called train, but this agent has never trained on it.
    assert other["splits"]["train"]["held_out"] is True
    assert f"{OTHER}: success rate" in answer.out
    assert succeed("compare", run, "--suite", OTHER).out == answer.out
    # The same levels as the split of the suite, which is the same environment.
    succeed("evaluate", run, "--split", "all_novel", "--episodes", "3", "--quiet")
    again = read_json(run / "evaluation.json")["splits"]["all_novel"]
    assert again["episode_returns"] == other["splits"]["train"]["episode_returns"]


def test_files_of_a_suite_do_not_depend_on_its_spelling() -> None:
    assert [suite_name(name) for name in ("modes/pong", "distractors", "CartPole-v1")] == [
        "modes/Pong",
        "distractors",
        "CartPole-v1",
    ]
    assert evaluation_file("modes/Pong", "modes/Pong") == "evaluation.json"
    assert evaluation_file("modes/Pong", "ALE/Pong-v5") == "evaluation-modes-Pong.json"


def test_the_training_environment_under_another_name_is_not_held_out(run: Path) -> None:
    trained_on = read_json(run / "evaluation.json")["splits"]["train"]
    rewrite(run, "id: distractors", f"id: {trained_on['env_id']}")
    evaluation = evaluate(Run.open(run), episodes=1, suite="distractors", random_policy=False, progress_bar=False)
    held_out = {name: result["held_out"] for name, result in evaluation["splits"].items()}
    assert held_out == {split.name: split.held_out for split in DISTRACTORS.splits}


@pytest.mark.parametrize(
    ("suite", "named"),
    [
        ("CartPole-v1", r"'CartPole-v1'.*'distractors'.*float32 \[4\]"),
        ("rimrl/RepeatPrevious-v0", "^observations of"),
    ],
)
def test_a_suite_of_other_observations_or_actions_is_refused(suite: str, named: str, run: Path) -> None:
    before = files(run)
    with pytest.raises(UsageError, match=named):
        evaluate(Run.open(run), episodes=1, suite=suite, progress_bar=False)
    assert files(run) == before


# -- which episodes were played ----------------------------------------------------------------------------------------


def test_every_episode_can_be_played_again_on_its_own(run: Path) -> None:
    words = ("--episodes", "7", "--n-envs", "3", "--split", "all_novel", "--deterministic", "--no-random", "--quiet")
    succeed("evaluate", run, *words, "--seed", "40")
    result = read_json(run / "evaluation.json")["splits"]["all_novel"]
    played = list(zip(result["episode_seeds"], result["episode_numbers"], strict=True))
    assert sorted(played) == [(40, 0), (40, 1), (41, 0), (41, 1), (42, 0), (42, 1), (42, 2)]
    assert "episode_levels" not in result  # its levels have no numbers
    agent, env = rimrl.load(run), rimrl.make_env(result["env_id"], **result["env_kwargs"])
    for k, (seed, number) in enumerate(played):
        observation, _ = env.reset(seed=seed)
        for _ in range(number):  # all chance of this environment is in its levels
            observation, _ = env.reset()
        state, start, total, length, done = None, np.ones(1, bool), 0.0, 0, False
        while not done:
            action, state = agent.predict(observation, state, start, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(int(action))
            start, total, done = np.zeros(1, bool), total + float(reward), terminated or truncated
            length += 1
        assert result["episode_lengths"][k] == length
        assert result["episode_returns"][k] == pytest.approx(total, abs=1e-6)


def test_levels_that_have_numbers_are_kept() -> None:
    seed, n_envs, episodes = 3, 2, 5
    outcome = play(None, lambda: make_vec_env("layouts", n_envs=n_envs, seed=seed), episodes, True, seed)
    expected = {}
    for i in range(n_envs):
        env = rimrl.make_env("layouts")
        _, info = env.reset(seed=seed + i)
        for number in range(episodes):
            expected[seed + i, number] = info["level"]
            _, info = env.reset()
    assert outcome.levels == [expected[played] for played in zip(outcome.seeds, outcome.numbers, strict=True)]
    assert len(set(outcome.levels)) > 1
    assert outcome.log()["episode_levels"] == outcome.levels


class Odd(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Reports a level that is no number."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, _ = self.env.reset(seed=seed, options=options)
        return observation, {"level": "cave"}


def test_levels_that_are_no_numbers_are_left_out() -> None:
    def make() -> VecEnv:
        return VecMonitor(DummyVecEnv([lambda: Odd(Lasts(1, None))]))

    outcome = play(None, make, 2, True, 8)
    assert (outcome.seeds, outcome.numbers, outcome.levels) == ([8, 8], [0, 1], [None, None])
    assert set(outcome.log()) == {"episode_returns", "episode_lengths", "episode_seeds", "episode_numbers"}


def test_an_evaluation_without_seeds_of_episodes_is_still_read(run: Path) -> None:
    evaluation = read_json(run / "evaluation.json")
    for result in evaluation["splits"].values():
        for name in ("episode_seeds", "episode_numbers"):
            del result[name]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    before = list(evaluation["splits"])
    assert succeed("compare", run).err == ""
    succeed("evaluate", run, "--split", "all_novel", "--episodes", "2", "--quiet")
    after = read_json(run / "evaluation.json")["splits"]
    assert list(after) == before  # with the others, which are as they were
    assert [name for name in after if "episode_seeds" in after[name]] == ["all_novel"]
