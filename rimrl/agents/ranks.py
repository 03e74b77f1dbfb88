"""The processes that train one agent together. One process is the simplest case, and has the interface of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rimrl.errors import wrong

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")


class RankLostError(RuntimeError):
    """Another process of this training has ended, or does not answer."""


class OtherRankError(RuntimeError):
    """Another process of this training failed, and all of them stop at the same point."""


class Ranks:
    """One process, which meets nobody; `rimrl.agents.distributed.DistributedRanks` are several.

    Of several, all call a method at once; those of the last part are called by any of them at any time.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        in_sync: Whether all have stopped at the same point, so that they can go on to meet. One always has.
    """

    rank = 0
    size = 1
    in_sync = True

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    # -- tensors ------------------------------------------------------------------------------------------------------

    def all_gather(self, part: Tensor) -> Tensor:
        """Parts of all ranks, of the same shape ``[N, ...]``, one behind the other, ``[size * N, ...]``."""
        return part

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over ranks."""
        return value

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over ranks; one that no rank has stays missing."""

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the values that they have on the first rank."""

    # -- Python objects -----------------------------------------------------------------------------------------------

    def all_gather_object(self, mine: _T) -> list[_T]:
        """What every rank brings, by rank."""
        return [mine]

    def gather_object(self, mine: _T) -> list[_T] | None:
        """What every rank brings, by rank, on the first; None on the others."""
        return [mine]

    def broadcast_object(self, what: _T) -> _T:
        """What the first rank has."""
        return what

    @contextmanager
    def sync_errors(self) -> Iterator[None]:
        """What fails on one rank within the block fails on all at its end.

        Raises:
            UsageError: If it did so on another one.
            RunFailedError: If anything else failed there.
        """
        yield

    def gather_results(self, play: Callable[[], _T]) -> list[_T]:
        """What `play` returns on every rank, by rank. A rank on which it fails calls the others off.

        Raises:
            OtherRankError: If it failed on another one.
        """
        return [play()]

    # -- without meeting ----------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Ask all ranks to cut the rollout short."""

    def stop_requested(self) -> bool:
        """Whether one has asked to."""
        return False

    def should_print(self) -> bool:
        """Whether this rank is the first to ask; so a message that all have is printed once."""
        return True

    def abort(self, abort_reason: Any) -> None:
        """Tell why this rank ends out of step, and let go of the others, which may be waiting for it."""

    def abort_reason(self) -> Any:
        """What the rank that ended out of step said; None if it said nothing."""
        return None

    def has_written(self) -> None:
        """Tell the others that the first rank has nothing more to write."""

    def wait_until_written(self) -> None:
        """Stay until the first rank has written."""


def share_evenly(number: int, size: int, key: str) -> int:
    """The share of one of several processes in a number of something.

    Args:
        number: Of all together.
        size: How many they are.
        key: What it is called in a configuration.

    Raises:
        UsageError: If it cannot be shared equally; says what could.
    """
    if number % size:
        fitting = -(-number // size) * size
        raise wrong(
            key, f"{number} cannot be shared by {size} processes", f"use --{key} {fitting}, or as many as divide it"
        )
    return number // size
