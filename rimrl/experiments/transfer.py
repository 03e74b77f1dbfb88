"""``rimrl transfer``: train sources, then targets by every method, and score what the sources were good for.

A transfer is a folder:

transfer.yaml     the complete configuration; ``rimrl transfer FOLDER/transfer.yaml --run-dir FOLDER`` goes on with it
transfer.json     every run with its state and learning curve, scores and counts; brought up to date after every run
matrix.png        scores, sources by targets; matrix_raw.png without offset
sources/CORE/SOURCE/seed_N           run folders
targets/CORE/TARGET/METHOD/seed_N    run folders; METHOD is METHOD-from-SOURCE where there is a source

Runs that have finished are never trained again; what stopped on the way goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from gymnasium import spaces
from tqdm import tqdm

from rimrl.envs.vector import make_vec_env
from rimrl.errors import RunFailedError, UsageError
from rimrl.experiments.checkpoints import flat
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import load_config
from rimrl.experiments.evaluate import DEFAULT_SEED, play
from rimrl.experiments.resuming import resume
from rimrl.experiments.run import Run
from rimrl.experiments.train import train
from rimrl.experiments.transfer_config import METHODS, Task, TransferConfig
from rimrl.files import refuse_links, write_text
from rimrl.reading import read_json
from rimrl.runs import checkpoint_files
from rimrl.runs.environment import run_status
from rimrl.spaces import in_words


@dataclass(frozen=True)
class Cell:
    """One run of a transfer.

    Attributes:
        core: Label of the core.
        method: How the target starts; None for the training of a source.
        source: Name of the source; None for a method without one.
        target: Name of the target; None for the training of a source.
        seed: Of the run.
        path: Its folder, below that of the transfer unless `given`.
        config: Its experiment.
        given: Whether it was trained before.
    """

    core: str
    method: str | None
    source: str | None
    target: str | None
    seed: int
    path: Path
    config: ExperimentConfig
    given: bool = False


class Transfer:
    """A transfer in its folder.

    Args:
        config: What to do.
        folder: Where its runs are, or will be.

    Raises:
        UsageError: For what cannot be trained: a key or name that does not exist, a source run that is missing or of
            another core, observations that do not fit, a folder that holds something else. Nothing is written then.
    """

    def __init__(self, config: TransferConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        if folder.exists() and not (folder.is_dir() and (_is_ours(folder) or not any(folder.iterdir()))):
            raise UsageError(f"{folder} holds something else than a transfer; choose another --run-dir")
        self._experiments: dict[tuple[str, str, str], ExperimentConfig] = {}
        self.cells = list(self._plan())
        for cell in self.cells:
            if not cell.given:
                refuse_links(cell.path, folder)
            self._check_same(cell)
        self._check_observations()
        self.failures: dict[Path, str] = {}

    @property
    def waiting(self) -> list[Cell]:
        """Runs that are yet to be trained."""
        return [cell for cell in self.cells if self.status(cell) != "finished"]

    def status(self, cell: Cell) -> str:
        """``"finished"``, or how far the run is: ``"waiting"``, ``"running"``, ``"interrupted"``, ``"failed"``."""
        if cell.given:
            return "finished"
        return run_status(cell.path) or "waiting"

    def run(self, progress_bar: bool = True, after_each: Callable[[], object] = lambda: None) -> bool:
        """Train what has not finished yet; a run that fails does not keep others from being trained.

        Args:
            progress_bar: Show progress on standard error.
            after_each: Called whenever ``transfer.json`` was written.

        Returns:
            Whether it came to its end; False where it was interrupted.

        Raises:
            RunFailedError: At the end, if runs failed; names the first.
        """
        self._begin()
        random = self._random_returns(progress_bar)
        self._save(random)
        after_each()
        cells = [cell for cell in self.cells if not cell.given]
        with tqdm(total=len(cells), desc=str(self.folder), unit="run", disable=not progress_bar) as bar:
            for cell in cells:
                if self.status(cell) != "finished":
                    try:
                        finished = self._train(cell, progress_bar)
                    finally:
                        self._save(random)
                        after_each()
                    if not finished:
                        return False
                bar.update()
        if self.failures:
            path, reason = next(iter(self.failures.items()))
            others = "the others are done, and " if len(self.failures) < len(cells) else ""
            raise RunFailedError(
                f"{len(self.failures)} of {len(cells)} runs failed, the first in {path}: {reason}; "
                f"{others}the same command tries these again"
            )
        return True

    # -- the plan -----------------------------------------------------------------------------------------------------

    def _plan(self) -> Iterator[Cell]:
        """Seed by seed, so that a part of the whole is a smaller whole; sources first."""
        config = self.config
        needs_sources = any(METHODS[method].from_source for method in config.methods)
        for seed in config.seeds:
            trained: dict[tuple[str, str], Cell] = {}
            if needs_sources:
                for core in config.cores:
                    for source in config.sources:
                        trained[core, source.name] = self._source(core, source, seed)
                yield from trained.values()
            for core in config.cores:
                for target in config.targets:
                    for method in config.methods:
                        starts: list[Cell | None] = [None]
                        if METHODS[method].from_source:
                            starts = [trained[core, source.name] for source in config.sources]
                        for start in starts:
                            yield self._target(core, target, method, start, seed)

    def _source(self, core: str, source: Task, seed: int) -> Cell:
        config = self._experiment(core, source, seed, self.config.source_timesteps, f"{core}-{source.name}")
        if core in source.runs:
            folders = source.runs[core]
            path = Path(folders[self.config.seeds.index(seed)] if len(folders) > 1 else folders[0])
            run = Run.open(path)
            run.agent_file()
            if run.config.core != config.core:
                raise UsageError(
                    f"the source run {path} has the core {_core(run.config)}, not that of {core!r}: {_core(config)}"
                )
            return Cell(core, None, source.name, None, seed, path, run.config, given=True)
        path = self.folder / "sources" / core / _slug(source.name) / f"seed_{seed}"
        return Cell(core, None, source.name, None, seed, path, config)

    def _target(self, core: str, target: Task, method: str, start: Cell | None, seed: int) -> Cell:
        source = None if start is None else start.source
        label = method if source is None else f"{method}-from-{_slug(source)}"
        config = self._experiment(core, target, seed, self.config.target_timesteps, f"{core}-{label}")
        agent = replace(config.agent, trunk=METHODS[method].trunk, init_from=None if start is None else str(start.path))
        path = self.folder / "targets" / core / _slug(target.name) / label / f"seed_{seed}"
        return Cell(core, method, source, target.name, seed, path, replace(config, agent=agent))

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
        )

    def _check_same(self, cell: Cell) -> None:
        """Refuse to take a run for another one that the configuration asks for now."""
        if cell.given or self.status(cell) != "finished":
            return
        found, asked = (_settings(config) for config in (Run.open(cell.path).config, cell.config))
        for key, value in asked.items():
            if found.get(key) != value:
                raise UsageError(
                    f"{cell.path} was trained with {key} {found.get(key)!r}, the configuration now says {value!r}; "
                    "choose another --run-dir, or remove that run to train it again"
                )

    def _check_observations(self) -> None:
        """Refuse sources and targets that show different things, before hours are spent."""
        known: dict[str, spaces.Space[Any]] = {}

        def shown(config: ExperimentConfig) -> spaces.Space[Any]:
            key = json.dumps(asdict(config.env), sort_keys=True, default=str)
            if key not in known:
                env = make_vec_env(config.env.id, efference_copies=config.env.efference_copies, **config.env.kwargs)
                env.close()
                known[key] = env.observation_space
            return known[key]

        sources = {(cell.core, cell.source, cell.seed): cell for cell in self.cells if cell.target is None}
        for cell in self.cells:
            if cell.target is None or cell.source is None:
                continue
            source = sources[cell.core, cell.source, cell.seed]
            ours, theirs = shown(cell.config), shown(source.config)
            if ours != theirs:
                raise UsageError(
                    f"source {cell.source!r} does not fit target {cell.target!r}: its observations are "
                    f"{in_words(theirs)}, the target's are {in_words(ours)}"
                )

    # -- the folder ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        write_text(self.folder / "transfer.yaml", self.config.to_yaml(), self.folder)

    def _train(self, cell: Cell, progress_bar: bool) -> bool:
        """Train a cell.

        Returns:
            False if it was interrupted.
        """
        start = cell.config.agent.init_from
        if start is not None and Path(start) in self.failures:
            self.failures[cell.path] = f"its source {start} failed"
            return True
        try:
            if _goes_on(cell):
                return resume(Run.open(cell.path), cell.config, progress_bar=progress_bar)
            if cell.path.exists():
                shutil.rmtree(cell.path)
            _, finished = train(cell.config, cell.path, progress_bar)
        except Exception as error:  # environments fail in every way; the other runs are worth having
            self.failures[cell.path] = " ".join(f"{type(error).__name__}: {error}".split())
            return True
        return finished

    def _random_returns(self, progress_bar: bool) -> dict[str, dict[str, Any]]:
        """What random actions earn on each target, played once for all runs."""
        episodes = self.config.random_episodes
        try:
            plan = read_json(self.folder / "transfer.json", follow=False)
        except UsageError:
            plan = None
        earlier = plan.get("random") if isinstance(plan, dict) else None
        earlier = earlier if isinstance(earlier, dict) else {}
        found = {}
        targets = {cell.target: cell.config.env for cell in reversed(self.cells) if cell.target is not None}
        for name, env in tqdm(targets.items(), desc="random actions", unit="target", disable=not progress_bar):
            kept = earlier.get(name)
            if isinstance(kept, dict) and _is_result(kept, env.id, episodes):
                found[name] = kept
                continue
            make = partial(
                make_vec_env,
                env.id,
                n_envs=min(16, episodes),
                seed=DEFAULT_SEED,
                efference_copies=env.efference_copies,
                **env.kwargs,
            )
            outcome = play(None, make, episodes, deterministic=False, seed=DEFAULT_SEED).summary()
            found[name] = {"env_id": env.id, "episodes": episodes, "return_mean": outcome["return_mean"]}
        return {target.name: found[target.name] for target in self.config.targets}

    def _save(self, random: dict[str, Any]) -> None:
        runs = [
            {
                "core": cell.core,
                "method": cell.method,
                "source": cell.source,
                "target": cell.target,
                "seed": cell.seed,
                "path": str(cell.path if cell.given else cell.path.relative_to(self.folder)),
                "status": self.status(cell),
                "total_timesteps": cell.config.train.total_timesteps,
            }
            for cell in self.cells
        ]
        content = {"config": yaml.safe_load(self.config.to_yaml()), "random": random, "runs": runs}
        write_text(self.folder / "transfer.json", json.dumps(content, indent=1) + "\n", self.folder)


def _goes_on(cell: Cell) -> bool:
    """Whether a run stopped after a checkpoint, under the same settings; any other begins anew."""
    if not checkpoint_files.found(cell.path):
        return False
    try:
        return flat(Run.open(cell.path).config) == flat(cell.config)
    except UsageError:
        return False


def _is_result(kept: dict[str, Any], env_id: str, episodes: int) -> bool:
    """Whether an entry of ``transfer.json`` says what random actions earn in so many episodes."""
    mean = kept.get("return_mean")
    same = (kept.get("env_id"), kept.get("episodes")) == (env_id, episodes)
    return same and isinstance(mean, float) and math.isfinite(mean)


def default_folder(config: TransferConfig) -> Path:
    """``runs/NAME``: always the same, so that the same command goes on with what it began."""
    return Path("runs") / config.name


def _is_ours(folder: Path) -> bool:
    return (folder / "transfer.yaml").is_file()


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _core(config: ExperimentConfig) -> str:
    return f"{config.core.name} {config.core.options}"


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """What decides the outcome of a run, by dotted keys; a source is found where it is now."""
    content = yaml.safe_load(config.to_yaml())
    groups = {f"{group}.{key}": value for group in ("env", "core", "agent") for key, value in content[group].items()}
    groups |= {f"train.{key}": content["train"][key] for key in ("total_timesteps", "seed")}
    del groups["agent.init_from"]
    return groups
