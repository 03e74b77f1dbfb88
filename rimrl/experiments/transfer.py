"""``rimrl transfer``: train sources, then targets by every method, and score what the sources were good for; a study.

transfer.yaml     the complete configuration; ``rimrl transfer FOLDER/transfer.yaml --run-dir FOLDER`` goes on with it
transfer.json     every run with its state and learning curve, scores and counts
matrix.png        scores, sources by targets; matrix_raw.png without offset
sources/CORE/SOURCE/seed_N           run folders
targets/CORE/TARGET/METHOD/seed_N    run folders; METHOD is METHOD-from-SOURCE where there is a source
logs/                                what each run said, and its attempts
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from gymnasium import spaces
from tqdm import tqdm

from rimrl.envs.atari_games import actions_of
from rimrl.envs.vector import make_vec_env, resolve
from rimrl.errors import UsageError, mismatch, wrong
from rimrl.experiments.config import EnvConfig, ExperimentConfig
from rimrl.experiments.config_files import load_config
from rimrl.experiments.evaluate import DEFAULT_SEED, play
from rimrl.experiments.factory import env_arguments
from rimrl.experiments.run import Run
from rimrl.experiments.transfer_config import METHODS, Task, TransferConfig
from rimrl.experiments.trials import RunTrial
from rimrl.files import refuse_links
from rimrl.reading import read_json
from rimrl.runs.tracking import Tracking
from rimrl.spaces import describe_space
from rimrl.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class TransferTrial(RunTrial):
    """One run of a transfer.

    Attributes:
        core: Label of the core.
        method: How the target starts; None for the training of a source.
        source: Name of the source; None for a method without one.
        target: Name of the target; None for the training of a source.
        seed: Of the run.
        given: The run folder, if it was trained before; it is no trial then.
    """

    core: str
    method: str | None = None
    source: str | None = None
    target: str | None = None
    seed: int
    given: Path | None = None


class Transfer(Study[TransferTrial]):
    """A transfer in its folder.

    Args:
        config: What to do.
        folder: Where its runs are, or will be.
        scored: Adds scores to the content of ``transfer.json``; default: none.
        tracking: Where the runs are logged beside TensorBoard; default: nowhere.

    Attributes:
        all_trials: Every run, also those that were trained before.

    Raises:
        UsageError: For what cannot be trained: a key or name that does not exist, a source run that is missing or of
            another core, observations or actions that do not fit, a folder that holds something else. Nothing is
            written then.
    """

    kind = "transfer"
    noun = "run"

    def __init__(
        self,
        config: TransferConfig,
        folder: Path,
        scored: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        tracking: Tracking | None = None,
    ) -> None:
        self.is_in(folder)
        self.config, self.folder = config, folder
        self._scored = scored
        self._before: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self._experiments: dict[tuple[str, str, str], ExperimentConfig] = {}
        self.all_trials = [replace(trial, tracking=tracking) for trial in self._plan()]
        super().__init__(folder, [trial for trial in self.all_trials if trial.given is None])
        for trial in self.trials:
            refuse_links(folder / trial.name, folder)
            self._check_same(trial)
        self._check_tasks()
        self._random = self._random_before()

    def description(self) -> str:
        """The complete configuration."""
        return self.config.to_yaml()

    def summary(self) -> dict[str, Any]:
        """Every run with its state, and scores."""
        progress = self.progress()
        runs = []
        for trial in self.all_trials:
            run = {key: getattr(trial, key) for key in ("core", "method", "source", "target", "seed")}
            run |= {"path": str(trial.given or trial.name), "total_timesteps": trial.config.train.total_timesteps}
            far = progress.get(trial.name, {"state": "finished"})
            runs.append(run | {"status": far.pop("state")} | far)
        content = {"config": yaml.safe_load(self.config.to_yaml()), "random": dict(self._random), "runs": runs}
        if content != self._before[0]:  # scores take a while
            self._before = content, self._scored(json.loads(json.dumps(content)))
        return self._before[1]

    # -- the plan -----------------------------------------------------------------------------------------------------

    def _plan(self) -> Iterator[TransferTrial]:
        """Seed by seed, so that a part of the whole is a smaller whole; sources first."""
        config = self.config
        needs_sources = any(METHODS[method].from_source for method in config.methods)
        for seed in config.seeds:
            trained: dict[tuple[str, str], TransferTrial] = {}
            if needs_sources:
                for core in config.cores:
                    for source in config.sources:
                        trained[core, source.name] = self._source(core, source, seed)
                yield from trained.values()
            for core in config.cores:
                for target in config.targets:
                    for method in config.methods:
                        starts: list[TransferTrial | None] = [None]
                        if METHODS[method].from_source:
                            starts = [trained[core, source.name] for source in config.sources]
                        for start in starts:
                            yield self._target(core, target, method, start, seed)

    def _source(self, core: str, source: Task, seed: int) -> TransferTrial:
        config = self._experiment(core, source, seed, self.config.source_timesteps, f"{core}-{source.name}")
        if core in source.runs:
            folders = source.runs[core]
            path = Path(folders[self.config.seeds.index(seed)] if len(folders) > 1 else folders[0])
            run = Run.open(path)
            run.agent_file()
            if run.config.core != config.core:
                raise mismatch(
                    f"the core of the source run {path}", f"that of {core!r}: {_core(config)}", _core(run.config)
                )
            return TransferTrial(
                name=str(path), config=run.config, core=core, source=source.name, seed=seed, given=path
            )
        name = f"sources/{core}/{_slug(source.name)}/seed_{seed}"
        return TransferTrial(name=name, config=config, core=core, source=source.name, seed=seed)

    def _target(self, core: str, target: Task, method: str, start: TransferTrial | None, seed: int) -> TransferTrial:
        source = None if start is None else start.source
        label = method if source is None else f"{method}-from-{_slug(source)}"
        config = self._experiment(core, target, seed, self.config.target_timesteps, f"{core}-{label}")
        place = None if start is None else str(start.given or self.folder / start.name)
        return TransferTrial(
            name=f"targets/{core}/{_slug(target.name)}/{label}/seed_{seed}",
            config=replace(config, agent=replace(config.agent, trunk=METHODS[method].trunk, init_from=place)),
            needs=() if start is None or start.given is not None else (start.name,),
            core=core,
            method=method,
            source=source,
            target=target.name,
            seed=seed,
        )

    def _experiment(self, core: str, task: Task, seed: int, total_timesteps: int, label: str) -> ExperimentConfig:
        key = (core, task.env, json.dumps(task.kwargs, default=str))
        if key not in self._experiments:  # reading one takes a while, and there are many seeds and methods
            changes = {f"env.kwargs.{name}": value for name, value in task.kwargs.items()}
            changes |= self.config.overrides | {"env.id": task.env}
            words = [
                f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changes.items()
            ]
            self._experiments[key] = load_config(self.config.cores[core], words)
        config = self._experiments[key]
        return replace(
            config,
            name=f"{self.config.name}/{label}",
            train=replace(config.train, seed=seed, total_timesteps=total_timesteps),
            imports=tuple(dict.fromkeys([*self.config.imports, *config.imports])),
        )

    def _check_same(self, trial: TransferTrial) -> None:
        """Refuse to take a run for another one that the configuration asks for now."""
        if not trial.is_done(self.folder):
            return
        path = self.folder / trial.name
        found, asked = (_settings(config) for config in (Run.open(path).config, trial.config))
        for key, value in asked.items():
            if found.get(key) != value:
                raise wrong(
                    path,
                    f"was trained with {key} {found.get(key)!r}, not {value!r}",
                    "remove it, or choose another --run-dir",
                    "state",
                )

    def _check_tasks(self) -> None:
        """Refuse sources and targets that show or take different things, before hours are spent."""
        known: dict[str, spaces.Space[Any]] = {}

        def shown(config: ExperimentConfig) -> spaces.Space[Any]:
            key = json.dumps(asdict(config.env), sort_keys=True, default=str)
            if key not in known:
                env = make_vec_env(config.played, **env_arguments(config.env))
                env.close()
                known[key] = env.observation_space
            return known[key]

        sources = {(trial.core, trial.source, trial.seed): trial for trial in self.all_trials if trial.target is None}
        for trial in self.all_trials:
            if trial.target is None or trial.source is None:
                continue
            source = sources[trial.core, trial.source, trial.seed]
            ours, theirs = shown(trial.config), shown(source.config)
            if ours != theirs:
                raise mismatch(
                    f"the observations of source {trial.source!r}",
                    f"those of target {trial.target!r}, {describe_space(ours)}",
                    describe_space(theirs),
                )
            if METHODS[trial.method or ""].trunk == "learned" and _actions(source.config) != _actions(trial.config):
                raise wrong(
                    f"target {trial.target!r}",
                    f"lacks the actions of source {trial.source!r} that {trial.method!r} goes on with",
                    "play all 18 (in overrides, env.kwargs.full_action_space: true), or leave the method out",
                    "mismatch",
                )

    # -- random actions -----------------------------------------------------------------------------------------------

    def _random_before(self) -> dict[str, dict[str, Any]]:
        """What ``transfer.json`` says of random actions, as far as that is what is asked for now."""
        try:
            plan = read_json(self.folder / "transfer.json", follow=False)
        except UsageError:
            plan = None
        earlier = plan.get("random") if isinstance(plan, dict) else None
        kept: dict[str, dict[str, Any]] = {}
        for name, env in self._targets().items():
            found = earlier.get(name) if isinstance(earlier, dict) else None
            if isinstance(found, dict) and isinstance(mean := found.get("return_mean"), float) and math.isfinite(mean):
                result = {"env_id": env.id, "episodes": self.config.random_episodes, "return_mean": mean}
                kept |= {name: result} if result == found else {}
        return kept

    def prepare(self, progress_bar: bool) -> None:
        """Play random actions on each target, once for all runs."""
        episodes = self.config.random_episodes
        targets = self._targets()
        missing = targets.keys() - self._random.keys()
        for name, env in tqdm(targets.items(), "random actions", disable=not (progress_bar and missing)):
            if name not in missing:
                continue
            make = partial(
                make_vec_env,
                env.id,
                n_envs=min(16, episodes),
                seed=DEFAULT_SEED,
                **env_arguments(env),
            )
            masking = any(trial.config.agent.use_masking for trial in self.all_trials if trial.target == name)
            outcome = play(None, make, episodes, False, DEFAULT_SEED, masking).summary()
            self._random[name] = {"env_id": env.id, "episodes": episodes, "return_mean": outcome["return_mean"]}
        self._random = {name: self._random[name] for name in targets}

    def _targets(self) -> dict[str, EnvConfig]:
        first = {trial.target: trial.config.env for trial in reversed(self.all_trials)}
        return {target.name: first[target.name] for target in self.config.targets}


def default_folder(config: TransferConfig) -> Path:
    """``runs/NAME``: always the same, so that the same command goes on with what it began."""
    return Path("runs") / config.name


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _core(config: ExperimentConfig) -> str:
    return f"{config.core.name} {config.core.options}"


def _actions(config: ExperimentConfig) -> tuple[str, ...] | None:
    """What the actions of an Atari game are; None for everything else."""
    env_id, kwargs = resolve(config.played, **config.env.kwargs)
    return actions_of(env_id, bool(kwargs.get("full_action_space")))


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """What decides the outcome of a run, by dotted keys; a source is found where it is now."""
    kept = ("env.", "core.", "agent.", "train.total_timesteps", "train.seed")
    return {key: value for key, value in config.flat().items() if key.startswith(kept) and key != "agent.init_from"}
