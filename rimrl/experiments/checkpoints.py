"""When a training writes checkpoints, and how a run goes on from the last good one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from torch import Tensor

from rimrl.agents.ranks import RankLostError, Ranks
from rimrl.errors import mismatch, quoted, trying
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.snapshot import Agent, Snapshot, as_contents, restore_snapshot, take
from rimrl.imports import options
from rimrl.runs import checkpoint_files
from rimrl.runs.checkpoint_files import Contents
from rimrl.runs.kinds import AGENT
from rimrl.runs.logs import event_sizes, progress_until
from rimrl.runs.resuming import restore_last
from rimrl.runs.validated import DamagedError, Fields

_Part: TypeAlias = tuple[dict[str, Tensor], dict[str, Any]]
_SHARED = ("policy.", "optimizer.")
_OTHERS = "other_ranks"
_LONGEST_LINE = 2**16


class Checkpoints(BaseCallback):
    """Write a checkpoint at the first start of a rollout after every `freq` steps.

    Args:
        run: The run folder.
        config: The run's configuration.
        agent: Who learns.
        evaluation: The callback whose state is to be kept, too.
        freq: Steps between checkpoints; 0 for none on its own account.
        ranks: The processes that train the agent together, each of which calls every method; the first one writes.
        callbacks: The user's own, whose numbers are to be kept, too.
    """

    def __init__(
        self,
        run: Path,
        config: ExperimentConfig,
        agent: Agent,
        evaluation: EvalCallback | None,
        freq: int,
        ranks: Ranks,
        callbacks: Sequence[BaseCallback] = (),
    ) -> None:
        super().__init__()
        self._callbacks = callbacks
        self._ranks = ranks
        self._updating = False
        self._run = run
        self._config = config
        self._agent = agent
        self._evaluation = evaluation
        self._freq = freq
        self._snapshot: Snapshot | None = None
        self._written: int | None = None
        self._elapsed = 0.0
        self._events: dict[str, int] = {}

    def resume(self, accept_changes: bool = False, changes: Sequence[str] = ()) -> tuple[Contents, str | None]:
        """Put the agent, its environments and its evaluation back to the last good checkpoint.

        Damaged ones are set aside, with a line on standard error for each.

        Args:
            accept_changes: Take checkpoints of other configurations, too.
            changes: What changed of what may decide shapes, for the refusal.

        Returns:
            What the checkpoint holds, and why episodes begin anew if they do.

        Raises:
            UsageError: If none is good, or as many processes as there were are needed; nothing has been changed then.
        """
        ranks = self._ranks

        def restore_all(contents: Contents, fields: Fields) -> str | None:
            inexact = self._restore(contents) if len(_states(fields)) == ranks.size else None
            self._elapsed = max(0.0, fields.number("elapsed"))
            _episode_count(fields)
            return inexact

        _, contents, inexact = restore_last(
            self._run,
            restore_all,
            None if accept_changes else self._config.identity(),
            checkpoints=ranks.broadcast_object(checkpoint_files.found(self._run) if ranks.first else []),
            read=self._read,
            writes=ranks.first,
            fatal=(RankLostError,),
            changes=changes,
        )
        had = len(_states(Fields(contents.state, "state")))
        if had != ranks.size:  # environments would have no place, or none to go on from
            again = f"{AGENT.command(had)} --resume {quoted(self._run)}{options(self._config.modules)}"
            raise mismatch(f"the number of processes of {self._run}", had, ranks.size, again)
        self._written = None if accept_changes else self._agent.num_timesteps
        return contents, inexact

    @property
    def cut_short(self) -> bool:
        """Whether the last rollout did not come to its end."""
        return self._snapshot is not None and not self._updating

    def write(self) -> None:
        """Write where the training is; between iterations only."""
        self._events = event_sizes(self._run)
        self._write(take(self._agent, self._evaluation, self._callbacks))

    def write_pending(self) -> None:
        """Write where the rollout that was cut short began, unless an update has been at the weights since."""
        if all(self._ranks.all_gather_object(self.cut_short)):
            self._write(self._snapshot)

    def _on_training_start(self) -> None:
        # SB3 counts time and iterations of this call of `learn` alone.
        self._agent.start_time -= int(self._elapsed * 1e9)
        self._agent._num_timesteps_at_start = 0
        self._agent.iterations_before = self._agent.num_timesteps // (self._agent.n_steps * self._config.env.n_envs)

    def _on_rollout_start(self) -> None:
        self._updating = False
        self._snapshot = None
        self._events = event_sizes(self._run)
        try:
            self._snapshot = take(self._agent, self._evaluation, self._callbacks)
        finally:  # also where an environment fails: other ranks may be about to gather a checkpoint
            if self._freq and self._agent.num_timesteps - (self._written or 0) >= self._freq:
                self._write(self._snapshot)

    def _on_rollout_end(self) -> None:
        self._updating = True

    def _on_step(self) -> bool:
        return True

    def _write(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None and snapshot.num_timesteps == self._written:
            return
        contents: _Part | None = None
        try:
            if snapshot is not None:
                contents = as_contents(snapshot, self._agent, self._evaluation)
        except ValueError:  # weights that are not finite are no place to go on from; the rollout will say so
            pass
        finally:  # also where this rank fails: the others gather
            contents = _gathered(contents, self._ranks)
        if contents is None or snapshot is None:
            return
        if self._ranks.size > 1:  # whether or not the first one can write it: they meet or they do not
            self._written = snapshot.num_timesteps
        if self._ranks.first:
            tensors, state = contents
            state |= {"identity": self._config.identity(), "events": self._events}
            progress = progress_until(self._run, snapshot.num_timesteps, AGENT)
            checkpoint_files.write(self._run, snapshot.num_timesteps, Contents(tensors, state, progress))
        self._written = snapshot.num_timesteps

    def _read(self, checkpoint: Path) -> Contents:
        """Read a checkpoint on the first rank, for all."""
        found: Contents | str = ""
        if self._ranks.first:
            try:
                found = checkpoint_files.read(checkpoint)
            except DamagedError as error:
                found = str(error)
        found = self._ranks.broadcast_object(found)
        if isinstance(found, str):
            raise DamagedError(found)
        return found

    def _restore(self, contents: Contents) -> str | None:
        ranks = self._ranks
        inexact = None
        with ranks.sync_errors():
            tensors, state = _part(contents, ranks.rank)
            inexact = restore_snapshot(tensors, state, self._agent, self._evaluation, self._callbacks)
        return next(filter(None, ranks.all_gather_object(inexact)), None)


def _states(fields: Fields) -> list[Fields]:
    """The state of every rank that a checkpoint has."""
    return [fields, *(fields.objects(_OTHERS) if _OTHERS in fields else ())]


def _gathered(contents: _Part | None, ranks: Ranks) -> _Part | None:
    """Contents of all ranks as those of one checkpoint, on the first; None where one has none.

    The others' weights are the first one's. The rest of their tensors has the rank before its name, and their states
    are a list beside the first one's.
    """
    mine = contents
    if mine is not None and not ranks.first:
        mine = {name: tensor for name, tensor in mine[0].items() if not name.startswith(_SHARED)}, mine[1]
    everyones = ranks.all_gather_object(mine is not None)
    if not all(everyones):
        return None
    parts = ranks.gather_object(mine)
    if parts is None:
        return contents
    assert contents is not None
    tensors, state = contents
    others = []
    for rank, part in enumerate(parts[1:], start=1):
        assert part is not None
        tensors |= {f"rank.{rank}.{name}": tensor for name, tensor in part[0].items()}
        others.append(part[1])
    return tensors, state | ({_OTHERS: others} if others else {})


def _part(contents: Contents, rank: int) -> _Part:
    """What one rank goes on from."""
    if rank == 0:
        return contents.tensors, contents.state
    own = f"rank.{rank}."
    tensors = {name: tensor for name, tensor in contents.tensors.items() if name.startswith(_SHARED)}
    tensors |= {name.removeprefix(own): x for name, x in contents.tensors.items() if name.startswith(own)}
    state = Fields(contents.state, "state").items(_OTHERS)[rank - 1]
    if Fields(state, _OTHERS).integer("num_timesteps") != contents.state.get("num_timesteps"):
        raise DamagedError(f"rank {rank} was at another step")
    return tensors, state


def truncate_monitor(run: Path, contents: Contents) -> None:
    """Take out of ``monitor.csv`` what came after a checkpoint: it will come again.

    Raises:
        UsageError: If a log cannot be written.
    """
    fields = Fields(contents.state, "state")
    with trying("cut back the logs of", run):
        _cut_lines(run / "monitor.csv", 2 + _episode_count(fields))


def _episode_count(fields: Fields) -> int:
    return sum(rank.nested("training").integer("episode_count") for rank in _states(fields))


def _cut_lines(file: Path, count: int) -> None:
    """Keep the first lines of a file."""
    if not file.exists():
        return
    with file.open("r+b") as stream:
        for _ in range(count):
            if not stream.readline(_LONGEST_LINE).endswith(b"\n"):
                break
        stream.truncate(stream.tell())
