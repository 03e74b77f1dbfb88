"""A trained agent that plays one environment step by step while its core is looked at.

What `rimrl.experiments.inspect` records and `rimrl.experiments.watch` shows. An episode is a whole game and rewards are
the game's own, also where the agent learned from clipped rewards and single lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import EnumMeta
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from rimrl.agents.masked_play import player_of
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.cores.base import CoreTrace
from rimrl.envs.screens import screen_of
from rimrl.envs.splits import EnvSplit, Suite
from rimrl.envs.vector import make_vec_env
from rimrl.errors import trying, wrong
from rimrl.experiments.evaluate import DEFAULT_SEED, check_episodes, check_plays
from rimrl.experiments.factory import env_arguments
from rimrl.experiments.loading import load_agent
from rimrl.experiments.played import splits_to_play
from rimrl.experiments.run import Run


@dataclass(frozen=True)
class Outcome:
    """How an episode ended.

    Attributes:
        length: In steps.
        total: The undiscounted return.
        success: None where the environment does not report success.
        out_of_time: Whether a time limit cut it off.
    """

    length: int
    total: float
    success: bool | None
    out_of_time: bool


@dataclass(frozen=True)
class Step:
    """What was seen, thought and done in one step.

    Attributes:
        episode: Which episode, from 0.
        number: Which step of it, from 0.
        fresh: Whether the core started from an empty memory: in an episode's first step, and after a lost life where
            the agent learned that it ends an episode.
        task: What the agent is told to do, where the environment puts it into words.
        observation: What the agent is shown before it acts, a batch of one.
        state: The actor's recurrent state after the step, ``(h, c)``, each ``[num_layers, 1, hidden_size]``.
        picture: ``[H, W, 3]`` uint8, what the environment shows before the action; None unless it is rendered.
        seen: ``[H, W, 3]`` uint8, the image in the observation (`rimrl.envs.screens`); None unless there is one and the
            environment is rendered.
        trace: What the units of the actor's core did, T = B = 1.
        action: For discrete actions the index of its name.
        reward: What came of it.
        outcome: How the episode ended; None before its last step.
        event: What the environment says of the step in ``info["event"]``, if that is a text or an integer; else None.
    """

    episode: int
    number: int
    fresh: bool
    task: str | None
    observation: NDArray[Any] | dict[str, NDArray[Any]]
    state: tuple[NDArray[Any], ...]
    picture: NDArray[np.uint8] | None
    seen: NDArray[np.uint8] | None
    trace: CoreTrace
    action: Any
    reward: float
    outcome: Outcome | None
    event: str | None


@dataclass(frozen=True)
class Player:
    """An agent in front of one environment.

    Attributes:
        split: What is played.
        episodes: How many.
        model_file: The agent's file.
        agent: The agent.
        env: A vector of one environment.
        action_names: Of discrete actions; None for other kinds.
        deterministic: Whether the mode of the policy is taken instead of a sample.
        seed: Seed of levels and actions.
    """

    split: EnvSplit
    episodes: int
    model_file: Path
    agent: BaseAlgorithm
    env: VecEnv
    action_names: list[str] | None
    deterministic: bool
    seed: int

    def steps(self, title: str | None = None) -> Iterator[Step]:
        """Play the episodes, one after the other.

        Args:
            title: Of the progress bar on standard error; None for none.

        Yields:
            Every step.
        """
        with tqdm(total=self.episodes, desc=title, unit="episode", disable=title is None) as bar:
            for step in self._steps():
                yield step
                if step.outcome is not None:
                    bar.update()

    def _steps(self) -> Iterator[Step]:
        env, policy, player = self.env, self.agent.policy, player_of(self.agent, self.env)
        assert isinstance(policy, RecurrentCorePolicy)
        rendered = env.render_mode == "rgb_array"
        screen = screen_of(env) if rendered else None
        first_action = env.action_space.start if isinstance(env.action_space, spaces.Discrete) else 0
        set_random_seed(self.seed)
        observation, state, start = env.reset(), None, np.ones(1, dtype=bool)
        for episode in range(self.episodes):
            task, outcome, number = _task(env), None, 0
            while outcome is None:
                picture = self._picture() if rendered else None
                fresh, before = bool(start[0]), _score(env)
                trace = policy.trace(observation, state, start)  # type: ignore[arg-type]
                action, state = player.predict(observation, state, start, self.deterministic)  # type: ignore[arg-type]
                assert state is not None
                assert not isinstance(observation, tuple)
                shown, seen = observation, None if screen is None else screen.latest(observation)
                observation, _, start, infos = env.step(action)
                # The monitor counts whole games and true scores; what is learned from may be clipped and cut.
                ended = infos[0].get("episode")
                score = _score(env) if ended is None else float(ended["r"])
                if ended is not None:
                    outcome = _outcome(number + 1, score, infos[0])
                taken, reward, event = action[0] - first_action, score - before, _event(infos[0])
                yield Step(
                    episode, number, fresh, task, shown, state, picture, seen, trace, taken, reward, outcome, event
                )
                number += 1

    def _picture(self) -> NDArray[np.uint8]:
        with trying("draw", self.split.env_id, DependencyNotInstalled):
            (picture,) = self.env.get_images()
        assert picture is not None
        return picture


@contextmanager
def make_player(
    run: Run,
    episodes: int,
    split: str = "train",
    deterministic: bool = False,
    seed: int = DEFAULT_SEED,
    best: bool = False,
    trust: bool = False,
    render: bool = False,
    num_active: int | list[int] | None = None,
) -> Iterator[Player]:
    """Put a run's agent in front of a split of its suite.

    Args:
        run: A run that has been trained.
        episodes: How many are to be played.
        split: Which split.
        deterministic: Take the mode of the policy instead of a sample.
        seed: Seed of levels and actions.
        best: ``best_model.zip`` instead of ``model.zip``.
        trust: Run code that the file of the agent brings along (`rimrl.load`). Default False.
        render: Let the environment draw itself.
        num_active: Let another number of units be active than in training. Default: as trained.

    Raises:
        UsageError: For no episodes, an unknown split, a model that is missing, damaged or not what the configuration
            describes, a number of active units that its core cannot have, or an environment that cannot draw itself.
    """
    check_episodes(episodes, seed)
    config = run.config
    (played,) = splits_to_play(config.played, split)
    model_file = run.agent_file(best)
    th.set_num_threads(config.train.num_threads)
    agent = load_agent(run, best, trust, num_active=num_active)
    kwargs = env_arguments(config.env)
    if render:
        _check_draws_itself(config.played, played)
        kwargs["render_mode"] = "rgb_array"
    set_random_seed(seed)
    env = make_vec_env(
        config.played,
        split=played.name,
        n_envs=1,
        seed=seed,
        **kwargs,
    )
    with closing(env):
        check_plays(agent, env, model_file, config.env.id)
        yield Player(played, episodes, model_file, agent, env, _action_names(env), deterministic, seed)


def _check_draws_itself(id_or_suite: str | Suite, split: EnvSplit) -> None:
    with closing(make_vec_env(id_or_suite, split=split.name)) as env:
        modes = env.get_attr("metadata")[0].get("render_modes", [])
    if "rgb_array" not in modes:
        raise wrong(split.env_id, "draws no pictures (it has no render mode 'rgb_array')", "try rimrl inspect")


def _score(env: VecEnv) -> float:
    """What `VecMonitor` has counted in this episode so far."""
    return float(env.getattr_recursive("episode_returns")[0])  # type: ignore[attr-defined]


def _outcome(length: int, total: float, info: dict[str, Any]) -> Outcome:
    success = info.get("is_success")
    out_of_time = bool(info.get("TimeLimit.truncated", False))
    return Outcome(length, total, None if success is None else bool(success), out_of_time)


def _event(info: dict[str, Any]) -> str | None:
    event = info.get("event")
    return str(event) if isinstance(event, int | str | np.integer) else None


def _task(env: VecEnv) -> str | None:
    mission = getattr(env.get_attr("unwrapped")[0], "mission", None)
    return mission if isinstance(mission, str) else None


def _action_names(env: VecEnv) -> list[str] | None:
    """Names of discrete actions, numbers where the environment gives none; None for other kinds of action."""
    space = env.action_space
    if not isinstance(space, spaces.Discrete):
        return None
    names: list[str] = []
    unwrapped = env.get_attr("unwrapped")[0]
    if isinstance(enum := getattr(unwrapped, "actions", None), EnumMeta):  # MiniGrid
        names = list(enum.__members__)
    elif callable(meanings := getattr(unwrapped, "get_action_meanings", None)):  # Atari
        names = [str(meaning).lower() for meaning in meanings()]
    known = space.start == 0 and len(names) >= space.n
    return names[: space.n] if known else [str(space.start + i) for i in range(space.n)]
