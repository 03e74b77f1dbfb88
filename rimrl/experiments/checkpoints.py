"""When a training writes checkpoints, and how a run goes on from the last good one."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from rimrl.errors import UsageError
from rimrl.experiments import checkpoint_files
from rimrl.experiments.checkpoint_files import Contents, DamagedError
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.snapshot import Agent, Snapshot, as_contents, put_back, take
from rimrl.experiments.validated import Fields

# What may change without a word: it decides how long and how often, not what is learned.
FREE = frozenset({"train.total_timesteps", "train.resume_freq", "train.checkpoint_freq"})


class Checkpoints(BaseCallback):
    """Write a checkpoint at the first start of a rollout after every `freq` steps.

    Args:
        run: The run folder.
        config: The run's configuration.
        agent: Who learns.
        evaluation: The callback whose state is to be kept, too.
        freq: Steps between checkpoints; 0 for none on its own account.

    Attributes:
        updating: Whether an update is going on; an environment is not to blame then.
    """

    def __init__(
        self, run: Path, config: ExperimentConfig, agent: Agent, evaluation: EvalCallback | None, freq: int
    ) -> None:
        super().__init__()
        self.updating = False
        self._run = run
        self._identity = identity(config)
        self._agent = agent
        self._evaluation = evaluation
        self._freq = freq
        self._snapshot: Snapshot | None = None
        self._written = 0
        self._elapsed = 0.0
        self._events: dict[str, int] = {}
        self.last: Path | None = None

    def resume(self, accept_changes: bool = False) -> tuple[Contents, str | None]:
        """Put the agent, its environments and its evaluation back to the last good checkpoint.

        Damaged ones are set aside, with a line on standard error for each.

        Returns:
            What the checkpoint holds, and why episodes begin anew if they do.

        Raises:
            UsageError: If none is good; nothing has been changed then.
        """
        damaged: list[tuple[Path, str]] = []
        for checkpoint in checkpoint_files.found(self._run):
            try:
                contents = checkpoint_files.read(checkpoint)
                fields = Fields(contents.state, "state")
                if not accept_changes and fields.text("identity") != self._identity:
                    raise DamagedError("it belongs to another configuration")
                if fields.integer("num_timesteps") != int(checkpoint.name):
                    raise DamagedError("it belongs to another step")
                inexact = put_back(contents.tensors, contents.state, self._agent, self._evaluation)
                self._elapsed = max(0.0, fields.number("elapsed"))
                _log_sizes(fields)
            except (
                Exception
            ) as error:  # what was made up to harm may fail in every way, and the one before it may be good
                damaged.append((checkpoint, " ".join(str(error).split())[:300] or type(error).__name__))
                continue
            for other, why in damaged:
                print(
                    f"rimrl: checkpoint {other} is damaged ({why}); going back to step {int(checkpoint.name)}",
                    file=sys.stderr,
                )
                checkpoint_files.set_aside(other)
            self._written = 0 if accept_changes else self._agent.num_timesteps
            self.last = checkpoint
            return contents, inexact
        raise UsageError(
            f"no good checkpoint in {self._run / checkpoint_files.FOLDER} "
            f"({'; '.join(f'{path.name}: {why}' for path, why in damaged)}); restore it from a copy, or train anew "
            f"from {self._run / 'config.yaml'} with another --run-dir"
        )

    def write(self) -> None:
        """Write where the training is; between iterations only."""
        self._events = self._event_sizes()
        self._write(take(self._agent, self._evaluation))

    def write_pending(self) -> None:
        """Write where the rollout that was cut short began, unless an update has been at the weights since."""
        if self._snapshot is not None and not self.updating:
            self._write(self._snapshot)

    def _on_training_start(self) -> None:
        # SB3 counts time and iterations of this call of `learn` alone.
        self._agent.start_time -= int(self._elapsed * 1e9)
        self._agent._num_timesteps_at_start = 0
        self._agent.iterations_before = self._agent.num_timesteps // (self._agent.n_steps * self._agent.n_envs)

    def _on_rollout_start(self) -> None:
        self.updating = False
        self._snapshot = take(self._agent, self._evaluation)
        self._events = self._event_sizes()
        if self._freq and self._agent.num_timesteps - self._written >= self._freq:
            self._write(self._snapshot)

    def _on_rollout_end(self) -> None:
        self.updating = True

    def _on_step(self) -> bool:
        return True

    def _write(self, snapshot: Snapshot) -> None:
        if self.last is not None and snapshot.num_timesteps == self._written:
            return
        try:
            tensors, state = as_contents(snapshot, self._agent, self._evaluation)
        except ValueError:  # weights that are not finite are no place to go on from; the rollout will say so
            return
        state |= {"identity": self._identity, "events": self._events}
        progress = _progress_until(self._run / "progress.csv", snapshot.num_timesteps)
        self.last = checkpoint_files.write(self._run, snapshot.num_timesteps, Contents(tensors, state, progress))
        self._written = snapshot.num_timesteps

    def _event_sizes(self) -> dict[str, int]:
        return {file.name: file.stat().st_size for file in self._run.glob("events.out.tfevents.*")}


def identity(config: ExperimentConfig) -> str:
    """A short text that differs where configurations would lead elsewhere."""
    groups = {key: value for key, value in flat(config).items() if key not in FREE}
    return hashlib.sha256(json.dumps(groups, sort_keys=True, default=str).encode()).hexdigest()


def flat(config: ExperimentConfig) -> dict[str, Any]:
    """Every value of a configuration by its dotted key."""
    groups = {"env": asdict(config.env), "agent": asdict(config.agent), "train": asdict(config.train)}
    groups["core"] = {"name": config.core.name, **config.core.options}
    kwargs = groups["env"].pop("kwargs")
    values = {f"{group}.{key}": value for group, settings in groups.items() for key, value in settings.items()}
    return values | {f"env.kwargs.{key}": value for key, value in kwargs.items()}


def cut_back(run: Path, contents: Contents) -> None:
    """Take out of a run's logs what came after a checkpoint: it will come again.

    Raises:
        UsageError: If a log cannot be written.
    """
    fields = Fields(contents.state, "state")
    sizes = _log_sizes(fields)
    try:
        (run / ".progress.csv.partial").write_text(contents.progress, encoding="utf-8")
        (run / ".progress.csv.partial").replace(run / "progress.csv")
        _cut_lines(run / "monitor.csv", 2 + fields.nested("training").integer("episode_count"))
        for file in run.glob("events.out.tfevents.*"):
            if file.name not in sizes:
                file.unlink()
            elif file.stat().st_size > sizes[file.name]:
                with file.open("r+b") as stream:
                    stream.truncate(sizes[file.name])
    except OSError as error:
        raise UsageError(f"cannot cut back the logs of {run}: {error.strerror or error}") from None


def _log_sizes(fields: Fields) -> dict[str, int]:
    events = fields.nested("events")
    fields.nested("training").integer("episode_count")
    return {name: events.integer(name) for name in events.names()}


def _progress_until(file: Path, num_timesteps: int) -> str:
    """The rows of ``progress.csv`` up to a step; evaluations within a rollout add some after its start."""
    if not file.exists():
        return ""
    rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))
    if not rows or "time/total_timesteps" not in rows[0]:
        return ""
    column = rows[0].index("time/total_timesteps")
    kept = [row for row in rows[1:] if len(row) > column and re.fullmatch(r"\d+", row[column])]
    kept = [row for row in kept if int(row[column]) <= num_timesteps]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([rows[0], *kept])
    return text.getvalue()


def _cut_lines(file: Path, count: int) -> None:
    """Keep the first lines of a file."""
    if not file.exists():
        return
    with file.open("r+b") as stream:
        for _ in range(count):
            if not stream.readline().endswith(b"\n"):
                break
        stream.truncate(stream.tell())
