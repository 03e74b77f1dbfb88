"""Recall: remembering the cues solves every split, and no policy without memory beats chance."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from rimrl.envs.recall import RecallEnv
from rimrl.envs.suites import RECALL
from rimrl.envs.vector import make_env, make_vec_env
from rimrl.errors import UsageError

SPLITS = [split.name for split in RECALL.splits]
# Written down a second time: k, A, and what each split shows.
K, A, D = 2, 4, 8
DELAYS = {
    **{"train": range(21), "always": range(21), "unseen": range(21)},
    **{f"d{delay}": range(delay, delay + 1) for delay in (40, 80, 160, 320)},
}
Policy = Callable[[Sequence[Any]], int]  # the observations of the episode so far -> action


def play(env: Any, policy: Policy) -> tuple[list[Any], float, bool]:
    """Observations before each action, return, and success of one episode."""
    obs, _ = env.reset()
    seen, total, ended = [obs], 0.0, False
    while not ended:
        obs, reward, ended, truncated, info = env.step(np.int64(policy(seen)))
        assert not truncated
        assert ended == ("is_success" in info)
        total += reward
        seen.append(obs)
    assert not seen.pop().any()
    return seen, total, info["is_success"]


def seeded(split: str, seed: int = 0, **kwargs: Any) -> Any:
    env = make_env("recall", split=split, **kwargs)
    env.reset(seed=seed)
    return env


def remember(seen: Sequence[Any]) -> int:
    marker = seen[-1][A + D :]
    return int(seen[marker.argmax()][:A].argmax()) if marker.any() else 0


@pytest.mark.parametrize("split", SPLITS)
def test_remembering_earns_the_optimum(split: str) -> None:
    env = seeded(split)
    for _ in range(20):
        _, total, success = play(env, remember)
        assert total == pytest.approx(1.0)
        assert success


@pytest.mark.parametrize("split", SPLITS)
def test_episodes_have_the_stated_parts(split: str) -> None:
    env, delays = seeded(split), set()
    for _ in range(40):
        seen = np.array(play(env, lambda _: 0)[0])
        assert set(np.unique(seen)) <= {0.0, 1.0}
        assert seen.shape[1] == A + D + K
        cues, stretch, markers = seen[:K], seen[K:-K], seen[-K:]
        assert (cues[:, :A].sum(axis=1) == 1).all()
        assert (cues.sum(axis=1) == 1).all()
        np.testing.assert_array_equal(markers, np.eye(A + D + K)[-K:])
        assert not stretch[:, :A].any()
        assert not stretch[:, A + D :].any()
        assert (stretch.sum(axis=1) <= 1).all()
        if split == "always":
            assert (stretch.sum(axis=1) == 1).all()
        kinds = set(np.flatnonzero(stretch.any(axis=0)) - A)
        assert kinds <= (set(range(4, 8)) if split == "unseen" else set(range(4)))
        delays.add(len(stretch))
    assert delays <= set(DELAYS[split])
    assert len(delays) > 10 or len(DELAYS[split]) == 1


def test_what_is_drawn_is_drawn_uniformly() -> None:
    env, episodes = seeded("train"), 4200
    delays, cues, kinds = np.zeros(21), np.zeros((A, A)), np.zeros(D + 1)
    for _ in range(episodes):
        seen = np.array(play(env, lambda _: 0)[0])
        first, second = seen[:K, :A].argmax(axis=1)
        cues[first, second] += 1
        delays[len(seen) - 2 * K] += 1
        stretch = seen[K:-K, A : A + D]
        kinds[:D] += stretch.sum(axis=0)
        kinds[D] += (1 - stretch.sum(axis=1)).sum()

    def agrees(counts: Any, chances: Any) -> bool:
        total = counts.sum()
        return bool((np.abs(counts - total * chances) <= 4 * np.sqrt(total * chances * (1 - chances))).all())

    assert agrees(delays, np.full(21, 1 / 21))
    assert agrees(cues, np.full((A, A), 1 / A**2))
    assert agrees(kinds, np.array([1 / 8] * 4 + [0] * 4 + [1 / 2]))


def test_no_answer_without_memory_beats_chance() -> None:
    # Two observations ask for an answer, so a policy without memory is a pair of answers, or draws one.
    env, episodes = seeded("train", max_delay=3), 600
    returns, successes = [], []
    for pair in product(range(A), repeat=K):

        def policy(seen: Sequence[Any], pair: Sequence[int] = pair) -> int:
            return pair[int(seen[-1][A + D :].argmax())]

        played = [play(env, policy) for _ in range(episodes)]
        returns.append(np.mean([total for _, total, _ in played]))
        successes.append(np.mean([success for *_, success in played]))
    # Five standard errors, for the most extreme of sixteen.
    assert np.abs(np.array(returns) - 1 / A).max() < 5 * np.sqrt(3 / 16 / K / episodes)
    assert np.abs(np.array(successes) - 1 / A**K).max() < 5 * np.sqrt(15 / 16**2 / episodes)


def test_actions_change_nothing_that_is_shown() -> None:
    rng = np.random.default_rng(0)
    one, other = seeded("train", seed=4), seeded("train", seed=4)
    for _ in range(30):
        np.testing.assert_array_equal(play(one, lambda _: 0)[0], play(other, lambda _: int(rng.integers(A)))[0])


@pytest.mark.parametrize("delay", [0, 30])
def test_efference_copies_carry_one_cue_without_memory(delay: int) -> None:
    env = seeded("train", min_delay=delay, max_delay=delay, efference_copies=True)

    def repeat(seen: Sequence[Any]) -> int:
        """Name what is shown if it is the first cue, else do the same again."""
        now = seen[-1]
        done = now["previous_action"]
        return int(done.argmax() if done.any() else now["observation"][:A].argmax())

    outcomes = []
    for _ in range(600):
        obs, _ = env.reset()
        ended, total = False, 0.0
        while not ended:
            obs, reward, ended, _, info = env.step(np.int64(repeat([obs])))
            total += reward
        assert total >= 1 / K
        outcomes.append(info["is_success"])
    assert np.mean(outcomes) == pytest.approx(1 / A, abs=5 * np.sqrt(3 / 16 / 600))


def test_each_right_answer_pays_its_share() -> None:
    env = RecallEnv(num_cues=3, num_symbols=2, max_delay=0)
    rng, outcomes = np.random.default_rng(0), set()
    for episode in range(60):
        shown, _ = env.reset(seed=episode)
        cues, rewards, answers = [], [], []
        for step in range(6):
            if step < 3:
                cues.append(int(shown[:2].argmax()))
            answers.append(int(rng.integers(2)))
            shown, reward, ended, _, info = env.step(np.int64(answers[-1]))
            rewards.append(reward)
            assert ended == (step == 5)
        right = [answer == cue for answer, cue in zip(answers[3:], cues, strict=True)]
        assert rewards == [0, 0, 0, *(hit / 3 for hit in right)]
        assert info["is_success"] == all(right)
        outcomes.add(sum(right))
    assert outcomes == {0, 1, 2, 3}


@pytest.mark.parametrize("split", ["train", "d40", "always", "unseen"])
def test_seed_decides_the_episodes(split: str) -> None:
    def episodes(seed: int) -> bytes:
        env = seeded(split, seed)
        return b"".join(np.array(play(env, lambda _: 0)[0]).tobytes() for _ in range(5))

    assert episodes(1) == episodes(1)
    assert episodes(1) != episodes(2)


def test_vector_counts_successes() -> None:
    venv = make_vec_env("recall", split="d40", n_envs=2, seed=0)
    venv.reset()
    for _ in range(2 * K + 40):
        _, _, dones, infos = venv.step(np.zeros(2, dtype=np.int64))
    assert dones.all()
    assert all(info["episode"]["l"] == 2 * K + 40 and "is_success" in info["episode"] for info in infos)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_cues": 0}, "num_cues.*integer.*1.*0"),
        ({"num_symbols": 1}, "num_symbols.*integer.*2.*1"),
        ({"min_delay": -1}, "min_delay.*integer.*0.*-1"),
        ({"min_delay": 21}, "max_delay.*integer.*21.*20"),
        ({"max_delay": 2.5}, r"max_delay.*integer.*0.*2\.5"),
        ({"distractor_probability": 1.5}, r"distractor_probability.*number.*0.*1.*1\.5"),
        ({"distractor_probability": float("nan")}, "distractor_probability.*number.*0.*1.*nan"),
        ({"distractor_probability": "often"}, "distractor_probability.*number.*0.*1.*'often'"),
        ({"num_distractors": 3}, "shown_distractors.*below num_distractors 3, got 3"),
        ({"num_distractors": 0}, "shown_distractors.*below num_distractors 0, got 0"),
        ({"shown_distractors": [7, 8]}, "shown_distractors.*below num_distractors 8, got 8"),
        ({"shown_distractors": ["a"]}, "shown_distractors.*0.*8.*'a'"),
        ({"shown_distractors": [1, 1]}, r"shown_distractors.*twice: \[1, 1\]"),
        ({"shown_distractors": 3}, "shown_distractors.*list.*3"),
        ({"shown_distractors": []}, "shown_distractors names none, but distractor_probability is above 0"),
    ],
)
def test_bad_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        RecallEnv(**kwargs)
    assert re.search(message, str(error.value))


def test_stretches_can_be_blank() -> None:
    env = RecallEnv(distractor_probability=0, num_distractors=0, shown_distractors=[], min_delay=5)
    env.reset(seed=0)
    seen, *_ = play(env, lambda _: 0)
    assert seen[0].shape == (A + K,)
    assert not np.array(seen[K:-K]).any()


def test_unknown_action_is_refused() -> None:
    env = RecallEnv()
    env.reset(seed=0)
    with pytest.raises(UsageError, match="action 4 is unknown; valid: 0 to 3"):
        env.step(np.int64(4))


def test_every_step_says_what_was_acted_upon() -> None:
    """Read off the observation: which block of channels its one is in."""
    env = RecallEnv(min_delay=5, max_delay=9)
    met = set()
    for seed in range(20):
        obs, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            blocks = np.split(obs, [A, A + D])
            shown = [name for name, block in zip(("cue", "distractor", "marker"), blocks, strict=True) if block.any()]
            obs, _, ended, _, info = env.step(np.int64(0))
            assert [info["event"]] == (shown or ["blank"])
            met.add(info["event"])
    assert met == {"cue", "distractor", "blank", "marker"}
