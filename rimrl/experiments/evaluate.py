"""``rimrl evaluate``: play every split of a suite and write ``evaluation.json``.

A run is evaluated on its own suite, or on any other with the same observations and actions, which goes to a file of its
own. Every episode is kept, with what is needed to play it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from rimrl.agents.masked_play import PLAYED, player_of
from rimrl.agents.masks import ask, check_offered, sample_valid
from rimrl.agents.saved.names import CARD
from rimrl.cores.unchanging import unchanging_weights
from rimrl.envs.splits import EnvSplit, Suite
from rimrl.envs.suites import get_suite, is_own, is_suite
from rimrl.envs.vector import default_arguments, make_vec_env, resolve
from rimrl.errors import UsageError, invalid_value, mismatch, shorten, wrong
from rimrl.experiments.config_files import load_config
from rimrl.experiments.factory import env_arguments
from rimrl.experiments.levels import Levels
from rimrl.experiments.loading import core_settings, load_agent
from rimrl.experiments.played import find_played, refusing_what_breaks, splits_to_play, suite_name
from rimrl.experiments.run import Run
from rimrl.runs.evaluations import ablation_suffix, arguments_suffix, splits_of_same, to_json
from rimrl.runs.settings import split_overrides
from rimrl.spaces import describe_space

# Episodes that no training, whose seeds are small, has met.
DEFAULT_SEED = 1_000_000
DEFAULT_EPISODES = 100
MOST_EPISODES = 100_000
MOST_ENVS = 4096
_ARGUMENT = "env.kwargs."


@dataclass
class Episodes:
    """Outcomes of the episodes of one split.

    Attributes:
        returns: Undiscounted, one an episode.
        lengths: In steps.
        successes: Empty where the environment does not report success.
        seeds: What the environment that played it was seeded with.
        numbers: Which one it was since then in that environment, from 0.
        levels: Its ``info["level"]``; None where the environment does not report any.
    """

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    levels: list[int | None] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Means over episodes, under the names that ``evaluation.json`` uses."""
        return {
            "return_mean": float(np.mean(self.returns)),
            "return_std": float(np.std(self.returns)),
            "length_mean": float(np.mean(self.lengths)),
            "success_rate": float(np.mean(self.successes)) if self.successes else None,
        }

    def log(self) -> dict[str, Any]:
        """Every episode, under the names that ``evaluation.json`` uses."""
        # The monitor adds up in float32, which has no seventh digit.
        kept: dict[str, Any] = {
            "episode_returns": [round(float(each), 6) for each in self.returns],
            "episode_lengths": [int(length) for length in self.lengths],
            "episode_seeds": self.seeds,
            "episode_numbers": self.numbers,
        }
        if any(level is not None for level in self.levels):
            kept["episode_levels"] = self.levels
        return kept | ({"episode_successes": self.successes} if self.successes else {})


def evaluate(
    run: Run,
    episodes: int = DEFAULT_EPISODES,
    split: str | None = None,
    deterministic: bool = False,
    seed: int = DEFAULT_SEED,
    n_envs: int = 16,
    random_policy: bool = True,
    best: bool = False,
    trust: bool = False,
    progress_bar: bool = True,
    suite: str | None = None,
    num_active: int | list[int] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a run's agent on the training split and every held-out split of a suite.

    Episodes are whole games with true scores, whatever the agent learned from. Where a lost life was the end of an
    episode in training, recurrent state begins anew there in evaluation, too.

    Args:
        run: A run that has been trained.
        episodes: Episodes per split.
        split: Only this split; default: all of them.
        deterministic: Take the mode of the policy instead of a sample. Default False, as rl-baselines3-zoo plays
            MiniGrid and Atari: where not all is seen, the mode alone can turn in circles.
        seed: Seed of levels and actions; the same for every split and run.
        n_envs: Environments played side by side.
        random_policy: Also play as many episodes with uniformly random actions: the chance level.
        best: Evaluate ``best_model.zip`` instead of ``model.zip``.
        trust: Run code that the file of the agent brings along (`rimrl.load`). Default False.
        progress_bar: Show progress on standard error.
        suite: A suite, the YAML file of one, or a gymnasium id with the same observations and actions; default: what
            the run was trained on.
        num_active: Let another number of units be active than in training, an ablation of the trained core; a list
            gives one number for each layer of a BRIMs. Default: as trained.
        env_kwargs: Arguments for every environment, over those of the split and of the run. Default: none.

    Returns:
        What was written: to ``evaluation.json``, for another suite, number of active units or arguments to a file of
        its own (`evaluation_file`).

    Raises:
        UsageError: For no episodes, an unknown suite, split or argument, other observations or actions than the
            agent's, a model that is missing, damaged or not what the configuration describes, or a number of active
            units that its core cannot have.
    """
    check_episodes(episodes, seed)
    if not 1 <= n_envs <= MOST_ENVS:
        raise invalid_value("n_envs", f"from 1 to {MOST_ENVS}", n_envs)
    changed = dict(env_kwargs or {})
    splits = check_suite(run, suite, split, changed)
    played = _what_to_play(run, suite)
    model_file = run.agent_file(best)
    file = evaluation_file(suite_name(played), suite_name(run.config.env.id), num_active, changed)
    run.check_writable(file)
    th.set_num_threads(run.config.train.num_threads)
    agent = load_agent(run, best, trust, num_active=num_active)

    test = _Test(run, agent, model_file, played, changed, episodes, deterministic, seed, min(n_envs, episodes))
    bar = tqdm(splits, desc=f"evaluate {run.path.name}", unit="split", disable=not progress_bar)
    results = {current.name: test.score(current, random_policy) for current in bar}
    evaluation: dict[str, Any] = {
        "kind": run.kind.name,
        "suite": suite_name(played),
        "config": run.config.name,
        "core": run.config.core.name,
        "core_options": core_settings(agent),
        "model": model_file.name,
        "num_timesteps": agent.num_timesteps,
        "deterministic": deterministic,
        "seed": seed,
        "n_envs": n_envs,
    }
    if num_active is not None:
        evaluation["num_active"] = num_active
    if changed:
        evaluation["changed_kwargs"] = _plain(changed)
    if split is not None:
        results = splits_of_same(run.path / file, evaluation) | results
    evaluation["splits"] = results
    run.write(file, to_json(evaluation))
    return evaluation


@dataclass
class _Test:
    """What an agent is tested on, whatever the split; ``changed`` are arguments over those of the run."""

    run: Run
    agent: BaseAlgorithm
    model_file: Path
    played: str | Suite
    changed: Mapping[str, Any]
    episodes: int
    deterministic: bool
    seed: int
    n_envs: int

    def score(self, split: EnvSplit, random_policy: bool) -> dict[str, Any]:
        """What ``evaluation.json`` says about a split."""
        config = self.run.config
        kwargs = config.env.kwargs | dict(self.changed)
        env_id, made_with = resolve(self.played, split.name, **kwargs)
        # Of arguments that nobody has trained with an environment may think better later than when it is made.
        with refusing_what_breaks(env_id, made_with, "play") if self.changed else nullcontext():
            outcome = self._play(self.agent, split, kwargs)
        result: dict[str, Any] = {
            "held_out": self._is_held_out(split, env_id, made_with),
            "episodes": self.episodes,
            **outcome.summary(),
        }
        if random_policy:
            chance = self._play(None, split, kwargs, use_masking=config.agent.use_masking).summary()
            result |= {f"random_{name}": chance[name] for name in ("return_mean", "success_rate")}
        # Who compares scores has to know what was put around the environment.
        around = {key: getattr(config.env, key) for key in ("env_wrapper", "frame_stack")}
        around = {key: value for key, value in around.items() if value not in ([], 1)}
        return result | {"env_id": env_id, "env_kwargs": _plain(made_with | around), **outcome.log()}

    def _play(
        self, player: BaseAlgorithm | None, split: EnvSplit, kwargs: dict[str, Any], use_masking: bool = False
    ) -> Episodes:
        make = partial(self._environments, split.name, kwargs)
        return play(player, make, self.episodes, self.deterministic, self.seed, use_masking)

    def _environments(self, split: str, kwargs: dict[str, Any]) -> VecEnv:
        """A split, seeded; refused if it is not what the agent was trained on."""
        config = self.run.config.env
        env = make_vec_env(
            self.played,
            split=split,
            n_envs=self.n_envs,
            seed=self.seed,
            # Whatever a run was trained with: all of them are asked the same levels, by the original.
            backend="subproc" if config.backend == "subproc" else "dummy",
            **env_arguments(replace(config, kwargs=kwargs)),
        )
        try:
            check_plays(self.agent, env, self.model_file, suite_name(self.played))
        except UsageError:
            env.close()
            raise
        return env

    def _is_held_out(self, split: EnvSplit, env_id: str, made_with: Mapping[str, Any]) -> bool:
        if suite_name(self.played) == suite_name(self.run.config.env.id) and not self.changed:
            return split.held_out
        # A split that another suite trains on is new to this agent, unless it is the very same once it is made.
        trained_id, trained_kwargs = resolve(self.run.config.played, **self.run.config.env.kwargs)
        brought = default_arguments(env_id)
        return env_id != trained_id or _plain({**brought, **made_with}) != _plain({**brought, **trained_kwargs})


def check_suite(run: Run, suite: str | None, split: str | None, env_kwargs: Mapping[str, Any]) -> tuple[EnvSplit, ...]:
    """Refuse what a run's agent cannot play.

    Args:
        run: A run that has been trained.
        suite: As for `evaluate`.
        split: As for `evaluate`.
        env_kwargs: As for `evaluate`.

    Returns:
        The splits to be played.

    Raises:
        UsageError: For an unknown suite, split or argument, or other observations or actions than the agent's.
    """
    played = _what_to_play(run, suite)
    splits = splits_to_play(played, split)
    if suite_name(played) != suite_name(run.config.env.id) or env_kwargs:
        # Those of rimrl's own suites are all alike.
        for each in splits if is_own(played) or env_kwargs else splits[:1]:
            _check_spaces(run, played, each.name, dict(env_kwargs))
    return splits


def _what_to_play(run: Run, suite: str | None) -> str | Suite:
    """What the run was trained on, or the suite that was named.

    One with the name of the run's own, but other splits, is refused: results of one would be taken for the other's.
    """
    own = run.config.played
    if suite is None or suite == run.config.env.id:
        return own
    other = find_played(suite)
    if suite_name(other) != suite_name(own):
        return other
    if isinstance(other, Suite) and not (is_suite(own) and _same_splits(other, get_suite(own))):
        raise wrong(
            suite, f"has the name of the suite of {run.path}, {other.name!r}, and other splits", "rename it", "conflict"
        )
    return own


def _same_splits(one: Suite, other: Suite) -> bool:
    ours, theirs = ([replace(split, description="") for split in suite.splits] for suite in (one, other))
    return ours == theirs


def environment_arguments(run: Run, words: Sequence[str]) -> dict[str, Any]:
    """Arguments of the environment that overrides such as ``--env.kwargs.size 9`` give.

    Args:
        run: Whose configuration says of which types they are.
        words: Of the command line.

    Raises:
        UsageError: For any other override.
    """
    names = []
    for key, _ in split_overrides(words):
        if not key.startswith(_ARGUMENT):
            raise wrong(
                "unexpected argument", f"'--{key}'", "of the configuration it takes --env.kwargs.NAME VALUE", "name"
            )
        names.append(key.removeprefix(_ARGUMENT).partition(".")[0])
    file = run.path / (CARD if run.is_export else "config.yaml")
    kwargs = load_config(str(file), words, of_others=True, to_train=False).env.kwargs if names else {}
    return {name: kwargs[name] for name in names}


def check_episodes(episodes: int, seed: int) -> None:
    """Refuse numbers of episodes and seeds that cannot be played.

    Raises:
        UsageError: Gives the bounds.
    """
    if not 1 <= episodes <= MOST_EPISODES:
        raise invalid_value("episodes", f"at least 1 and at most {MOST_EPISODES}", episodes)
    if not 0 <= seed < 2**32:
        raise invalid_value("seed", f"between 0 and {2**32 - 1}", seed)


def check_plays(agent: BaseAlgorithm, env: VecEnv, file: Path, suite: str) -> None:
    """Refuse an agent that was trained on something else than its configuration says.

    Args:
        agent: Who is to play.
        env: What it is to play.
        file: The agent's file, for the refusal.
        suite: Name of the environment, for the refusal.

    Raises:
        UsageError: If the agent's spaces are of other kinds, shapes or numbers, or it needs masks that the environment
            does not offer.
    """
    both = {
        "observations": (agent.observation_space, env.observation_space),
        "actions": (agent.action_space, env.action_space),
    }
    for what, (known, shown) in both.items():
        if not _alike(known, shown):
            raise mismatch(
                f"{what} of {file}",
                f"those of {suite!r}, {describe_space(shown)}",
                describe_space(known),
                "restore it or config.yaml",
            )
    player_of(agent, env)


def _alike(known: spaces.Space[Any], shown: spaces.Space[Any]) -> bool:
    """Whether an agent of one space can play in another, whose bounds may differ."""
    if isinstance(known, spaces.Dict) and isinstance(shown, spaces.Dict):
        same = known.spaces.keys() == shown.spaces.keys()
        return same and all(_alike(known[name], shown[name]) for name in known.spaces)
    if isinstance(known, spaces.Box) and isinstance(shown, spaces.Box):
        turned = (*shown.shape[-1:], *shown.shape[:-1])  # images of agents have their channels first
        return known.shape == shown.shape or (len(shown.shape) == 3 and known.shape == turned)
    return known == shown


def evaluation_file(
    suite: str,
    trained_on: str,
    num_active: int | list[int] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Name of the file that an evaluation goes to.

    Args:
        suite: What was played.
        trained_on: What the run was trained on.
        num_active: Of an ablation.
        env_kwargs: Arguments that were given besides those of the suite and the run.

    Returns:
        ``evaluation.json``, or ``evaluation-SUITE.json`` with ``-`` for each ``/``, so that what a run shows on its own
        suite is not lost to another. An ablation adds the number of active units, arguments are added by their names.
    """
    other = "" if suite == trained_on else f"-{suite.replace('/', '-')}"
    return f"evaluation{other}{ablation_suffix(num_active)}{arguments_suffix(env_kwargs or {})}.json"


def play(
    agent: PolicyPredictor | None,
    make_env: Callable[[], VecEnv],
    episodes: int,
    deterministic: bool,
    seed: int,
    use_masking: bool = False,
) -> Episodes:
    """Play whole episodes, as many in each environment as in the others, so that short ones are not favoured.

    Args:
        agent: Who plays, under masks where it was trained with masks; None for uniformly random actions.
        make_env: Makes the seeded environments; they are closed afterwards.
        episodes: How many.
        deterministic: Take the mode of the policy instead of a sample.
        seed: Seed of the actions, with which the environments were seeded, too: environment i with `seed` + i.
        use_masking: Of random actions take only valid ones. Default False.

    Returns:
        The outcome of each episode.
    """
    set_random_seed(seed)
    env = Levels(make_env())
    outcome = Episodes()

    def note(local: dict[str, Any], _: dict[str, Any]) -> None:
        i = local["i"]
        # A lost life is an end for the agent alone: the monitor tells that of the game.
        if "episode" in local["info"] and local["episode_counts"][i] < local["episode_count_targets"][i]:
            success = local["info"].get("is_success")
            if success is not None:
                outcome.successes.append(bool(success))
            outcome.seeds.append(seed + i)
            outcome.numbers.append(int(local["episode_counts"][i]))
            outcome.levels.append(env.ended[i])

    with closing(env), unchanging_weights():
        player = _RandomPlayer(env, seed, use_masking) if agent is None else player_of(agent, env)
        returns, lengths = evaluate_policy(
            player,
            env,
            n_eval_episodes=episodes,
            deterministic=deterministic,
            callback=note,
            return_episode_rewards=True,
            warn=False,
        )
    assert isinstance(returns, list)
    assert isinstance(lengths, list)
    outcome.returns, outcome.lengths = returns, lengths
    return outcome


class _RandomPlayer:
    """Uniformly random actions, or valid ones alone, behind SB3's ``predict``."""

    def __init__(self, env: VecEnv, seed: int, use_masking: bool) -> None:
        self._env = env
        self._space = env.action_space
        self._space.seed(seed)
        self._use_masking = use_masking
        self._steps = 0
        if use_masking:
            check_offered(env, PLAYED)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], None]:
        assert episode_start is not None
        if self._use_masking:
            masks = ask(self._env, self._steps)
            self._steps += len(masks)
            return np.stack([sample_valid(self._space, mask) for mask in masks]), None
        return np.stack([self._space.sample() for _ in episode_start]), None


def _check_spaces(run: Run, played: str | Suite, split: str, env_kwargs: dict[str, Any]) -> None:
    """Refuse what shows or takes something else than what the agent was trained with."""
    known, shown = _spaces(run, run.config.played, "train", {}), _spaces(run, played, split, env_kwargs)
    what_is_played = repr(suite_name(played)) if split == "train" else f"{split!r} of {suite_name(played)!r}"
    if env_kwargs:
        what_is_played += f" with {', '.join(f'{name}={shorten(value)}' for name, value in env_kwargs.items())}"
    for what, space in shown.items():
        if space != known[what]:
            raise mismatch(
                f"{what} of {what_is_played}",
                f"those of {run.path} on {run.config.env.id!r}, {describe_space(known[what])}",
                describe_space(space),
            )


def _spaces(run: Run, played: str | Suite, split: str, env_kwargs: dict[str, Any]) -> dict[str, spaces.Space[Any]]:
    config = run.config.env
    kwargs = config.kwargs | env_kwargs
    with refusing_what_breaks(suite_name(played), kwargs):
        env = make_vec_env(played, split=split, **env_arguments(replace(config, kwargs=kwargs)))
    env.close()
    return {"observations": env.observation_space, "actions": env.action_space}


def _plain(value: Any) -> Any:
    """Arguments as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
