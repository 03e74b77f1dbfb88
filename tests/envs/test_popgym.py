"""POPGym's environments: what they show, which of them share their spaces, and suites by name."""

from __future__ import annotations

import random
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from rimrl import RecurrentPPO, make_env
from rimrl.envs.popgym_suites import TASKS, env_id, is_popgym
from rimrl.envs.suites import FAMILIES, get_suite, is_suite
from rimrl.envs.vector import make_vec_env
from rimrl.envs.vector_state import mark, marked_episodes, restore
from rimrl.errors import UsageError

DIFFICULTIES = ("Easy", "Medium", "Hard")
IDS = [env_id(task, difficulty) for task in TASKS for difficulty in DIFFICULTIES]

# Their infos hold arrays that the environment goes on writing to.
SHARED_INFOS = ("CountRecall", "MultiarmedBandit")

needs_popgym = pytest.mark.skipif(
    find_spec("popgym") is None or find_spec("mazelib") is None, reason="needs POPGym: pip install 'rimrl[popgym]'"
)
# Its advice that mazes do not need memory.
mazes_warn = pytest.mark.filterwarnings("ignore:Maze environments have been shown:DeprecationWarning")


@needs_popgym
def test_no_environment_is_missing() -> None:
    make_env(IDS[0])
    assert {each for each in gymnasium.registry if is_popgym(each)} == set(IDS)


@needs_popgym
@mazes_warn
@pytest.mark.parametrize("task", TASKS)
def test_which_difficulties_share_their_spaces(task: str) -> None:
    envs = [make_env(env_id(task, difficulty)) for difficulty in DIFFICULTIES]
    shown = [(env.observation_space, env.action_space) for env in envs]
    assert TASKS[task].same_spaces == (shown[0] == shown[1] == shown[2])
    assert TASKS[task].same_spaces or shown[1] != shown[0] != shown[2]  # else one of them could be held out
    held_out = {"medium": shown[1], "hard": shown[2]} if TASKS[task].same_spaces else {}
    suite = get_suite(f"popgym/{task}")
    assert [split.name for split in suite.splits] == ["train", *held_out]
    for split in suite.splits:
        env = make_env(suite.name, split.name)
        assert (env.observation_space, env.action_space) == ({"train": shown[0]} | held_out)[split.name]


@needs_popgym
@mazes_warn
@pytest.mark.parametrize("id_", [each for each in IDS if not any(task in each for task in SHARED_INFOS)])
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version.*")
@pytest.mark.filterwarnings("ignore:.*not having a wrapper.*")
@pytest.mark.filterwarnings("ignore:.*infinity.*")  # velocities have no bounds
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized.*")  # torques from -2 to 2
def test_ids_keep_gymnasiums_contract(id_: str) -> None:
    env = make_env(id_)
    check_env(env, skip_render_check=True)
    assert isinstance(env.observation_space, spaces.Box)
    assert env.observation_space.dtype == np.float32


@needs_popgym
@pytest.mark.parametrize("task", [task for task in TASKS if "Labyrinth" not in task])
def test_observations_are_those_of_popgyms_own_wrappers(task: str) -> None:
    from popgym.wrappers import Antialias, Flatten, PreviousAction  # noqa: PLC0415 (an extra)

    env = make_env(env_id(task, "Easy"))
    plain: gymnasium.Env[Any, Any] = gymnasium.make(env_id(task, "Easy"), disable_env_checker=True)
    theirs = Flatten(Antialias(PreviousAction(plain)))
    env.action_space.seed(0)
    outcome: list[Any] = [0.0, True, False]
    for step in range(300):
        if outcome[1] or outcome[2]:
            seed = None if step else 7
            np.testing.assert_array_equal(env.reset(seed=seed)[0], np.float32(theirs.reset(seed=seed)[0]))
        action = env.action_space.sample()
        (ours, *outcome), (other, *same, _) = env.step(action), theirs.step(action)
        np.testing.assert_array_equal(ours, np.float32(other))
        assert outcome[:3] == same


@needs_popgym
def test_previous_action_and_start_can_be_left_out() -> None:
    def shown(**kwargs: Any) -> list[list[float]]:
        env = make_env("popgym/RepeatFirst", **kwargs)
        return [env.reset(seed=0)[0].tolist(), env.step(3)[0].tolist()]

    first, second = shown()
    assert first[4:] == [1, 0, 0, 0, 0, 1]  # action 0 has not been taken: it is the first observation
    assert second[4:] == [0, 0, 0, 1, 1, 0]
    assert shown(episode_start=False) == [first[:8], second[:8]]
    assert shown(previous_action=False) == [first[:4] + first[8:], second[:4] + second[8:]]
    assert shown(previous_action=False, episode_start=False) == [first[:4], second[:4]]


@needs_popgym
def test_repeat_previous_is_solved_by_who_remembers() -> None:
    env = make_env("popgym/RepeatPrevious")
    suits, total, done = [int(env.reset(seed=0)[0][:4].argmax())], 0.0, False
    while not done:
        observation, reward, done, _, _ = env.step(suits[-4] if len(suits) > 3 else 0)
        suits.append(int(observation[:4].argmax()))
        total += float(reward)
    assert total == pytest.approx(1.0)


@needs_popgym
@mazes_warn
@pytest.mark.parametrize("task", ["LabyrinthEscape", "LabyrinthExplore"])
def test_mazes_come_from_the_seed_and_change_nothing_else(task: str) -> None:
    def mazes(seed: int) -> list[str]:
        env = make_env(f"popgym/{task}")
        return [str(env.reset(seed=None if episode else seed)[1]["maze"]) for episode in range(3)]

    def shared() -> str:
        return str((random.getstate(), np.random.get_state(legacy=False)["state"]))

    before = shared()
    first = mazes(1)
    assert shared() == before
    random.random()
    np.random.random()
    assert mazes(1) == first
    assert len({*first, *mazes(2)}) == 6


@needs_popgym
@mazes_warn
@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_run_finds_its_environments_where_they_were(task: str) -> None:
    def play(venv: Any, steps: int, seed: int) -> list[Any]:
        venv.action_space.seed(seed)
        return [venv.step(np.array([venv.action_space.sample() for _ in range(2)]))[:3] for _ in range(steps)]

    one, other = (make_vec_env(f"popgym/{task}", n_envs=2, seed=seed, replayable=True) for seed in (3, 99))
    one.reset()
    play(one, 150, seed=1)
    counts = mark(one)
    going_on = play(one, 60, seed=2)
    restore(other, counts, marked_episodes(one))
    for ours, theirs in zip(going_on, play(other, 60, seed=2), strict=True):
        np.testing.assert_equal(ours, theirs)


@needs_popgym
@mazes_warn
@pytest.mark.parametrize("task", TASKS)
def test_an_agent_learns_from_each(task: str) -> None:
    difficulties = DIFFICULTIES[:1] if TASKS[task].same_spaces else DIFFICULTIES
    for difficulty in difficulties:
        venv = make_vec_env(env_id(task, difficulty), n_envs=2, seed=0)
        agent = RecurrentPPO(
            "MlpPolicy",
            venv,
            n_steps=16,
            batch_size=32,
            n_epochs=1,
            policy_kwargs={"core": "rim", "core_kwargs": {"hidden_size": 12, "num_units": 3, "num_active": 2}},
            device="cpu",
        )
        before = [parameter.detach().clone() for parameter in agent.policy.parameters()]
        agent.learn(32)
        assert any((old != new).any() for old, new in zip(before, agent.policy.parameters(), strict=True))


@needs_popgym
def test_a_time_limit() -> None:
    env = make_env("popgym/RepeatFirst", max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


@needs_popgym
def test_the_reward_is_shown_on_request() -> None:
    env = make_env("popgym/RepeatFirst", efference_copies=True, previous_action=False)
    first, _ = env.reset(seed=0)
    assert first.keys() == {"observation", "previous_action", "previous_reward"}
    observation, reward, *_ = env.step(int(first["observation"][:4].argmax()))
    assert reward == pytest.approx(1 / 51)
    assert observation["previous_reward"] == pytest.approx(1 / 51)


@needs_popgym
@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("popgym-RepeatPrevius-v0", {}, r"unknown environment 'popgym-RepeatPrevius-v0'; did you mean 'popgym-Repeat"),
        ("popgym/RepeatPrevious", {"k": 8}, r"'k'.*'popgym-RepeatPreviousEasy-v0'"),
        ("popgym/RepeatPrevious", {"previous_action": 1}, r"previous_action.*true.*false.*1"),
        ("popgym/RepeatPrevious", {"max_episode_steps": 0}, r"max_episode_steps.*integer.*1"),
        ("popgym/RepeatPrevious", {"backend": "envpool"}, "'envpool' needs a MiniGrid or BabyAI id"),
    ],
)
def test_mistakes_are_named(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_vec_env(name, **kwargs)


@pytest.mark.parametrize("spelling", ["RepeatPrevious", "repeat_previous", "repeatprevious", "repeat-previous"])
def test_environments_are_found_in_any_spelling(spelling: str) -> None:
    suite = get_suite(f"popgym/{spelling}")
    assert suite.name == "popgym/RepeatPrevious"
    assert [split.env_id for split in suite.splits] == [env_id("RepeatPrevious", each) for each in DIFFICULTIES]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("popgym", "train", r"'popgym'.*'popgym/RepeatPrevious'"),
        (
            "popgym/RepeatPrevius",
            "train",
            r"'RepeatPrevius'.*'popgym/RepeatPrevius'.*'RepeatPrevious'\?",
        ),
        (
            "popgym/battleship",
            "medium",
            r"'popgym/Battleship'.*'medium': .*'popgym-BattleshipMedium-v0'",
        ),
        ("popgym/RepeatFirst", "easy", r"'easy'.*'popgym/RepeatFirst'.*hard"),
    ],
)
def test_suites_that_do_not_exist_are_named(name: str, split: str, message: str) -> None:
    assert is_suite(name)
    with pytest.raises(UsageError, match=message):
        make_env(name, split)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("popgym/RepeatPrevious", "popgym"),
        ("popgym-CountRecallHard-v0", "popgym"),
        ("popgym/LabyrinthEscape", "mazelib"),
    ],
)
def test_it_says_how_to_install_what_is_missing(name: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError) as caught:
        make_env(name)
    assert caught.value.kind == "not_installed"
    assert str(caught.value.key).startswith("popgym-")
    assert caught.value.valid == "pip install 'rimrl[popgym]'"
    assert missing in str(caught.value)


def test_the_outline_names_every_environment_and_imports_none() -> None:
    code = (
        "import sys, rimrl.listings as l; l.listing('suites'); "
        "print({'popgym', 'mazelib', 'torch', 'minigrid'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
    outline = FAMILIES["popgym"].outline
    assert all(task in outline.description for task in TASKS)
    assert [split.name for split in outline.splits] == [split.name for split in get_suite("popgym/RepeatFirst").splits]
