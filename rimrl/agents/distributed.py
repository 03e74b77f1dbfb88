"""Several processes that train one agent: what they exchange, and how they end together.

Every rank plays environments of its own and holds a copy of the agent. Ranks meet at the end of each rollout and in
every gradient step; in between, one of them can call the others off through the store of the process group, which needs
no meeting. The back ends are gloo on the CPU and NCCL on CUDA devices.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch as th
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from rimrl.agents.ranks import OtherRankError, RankLostError, Ranks
from rimrl.errors import RunFailedError, UsageError, cannot, needs, one_line

_T = TypeVar("_T")
_LAUNCHED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_STOP_REQUESTED = "rimrl/stop_requested"
_PRINTED = "rimrl/printed"
_ABORT_REASON = "rimrl/abort_reason"
_WRITTEN = "rimrl/written"
_POLL_SECONDS = 0.5
_PATIENCE = 30.0  # seconds; torchrun kills what is left of a failed training after as many


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of some values; see `combined`."""

    number: Tensor
    mean: Tensor
    squares: Tensor


class DistributedRanks(Ranks):
    """Several processes that train one agent together.

    Args:
        store: What they share without meeting.
        rank: Number of this process, from 0; the first one writes.
        size: How many there are.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.in_sync = False
        self._store = store
        self._polled = 0.0

    # -- tensors ------------------------------------------------------------------------------------------------------

    def all_gather(self, part: Tensor) -> Tensor:
        part = part.detach()
        parts = [th.empty_like(part, memory_format=th.contiguous_format) for _ in range(self.size)]
        self._meet(lambda: dist.all_gather(parts, part.contiguous()))
        return th.cat(parts)

    def mean(self, value: Tensor) -> Tensor:
        total = value.detach().clone()
        self._meet(lambda: dist.all_reduce(total))
        return total / self.size

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        # One exchange for all of them.
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        if not learned:
            return
        present = th.tensor([float(p.grad is not None) for p in learned], device=learned[0].device)
        flat = th.cat([present, *((p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten()) for p in learned)])
        self._meet(lambda: dist.all_reduce(flat))
        counts, *means = th.split(flat, [len(learned), *(p.numel() for p in learned)])
        for parameter, mean, count in zip(learned, means, counts.tolist(), strict=True):
            if count == 0:
                continue
            if parameter.grad is None:
                parameter.grad = th.empty_like(parameter)
            parameter.grad.copy_(mean.view_as(parameter) / self.size)

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        with th.no_grad():
            for tensor in tensors:
                copy = tensor.detach().clone(memory_format=th.contiguous_format)
                self._meet(lambda copy=copy: dist.broadcast(copy, 0))  # type: ignore[misc]
                tensor.copy_(copy)

    # -- Python objects -----------------------------------------------------------------------------------------------

    def all_gather_object(self, mine: _T) -> list[_T]:
        everyones: list[Any] = [None] * self.size
        self._meet(lambda: dist.all_gather_object(everyones, mine))
        return everyones

    def gather_object(self, mine: _T) -> list[_T] | None:
        everyones: list[Any] | None = [None] * self.size if self.first else None
        self._meet(lambda: dist.gather_object(mine, everyones))
        return everyones

    def broadcast_object(self, what: _T) -> _T:
        box: list[Any] = [what]
        self._meet(lambda: dist.broadcast_object_list(box, 0))
        received: _T = box[0]
        return received

    @contextmanager
    def sync_errors(self) -> Iterator[None]:
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        fields = failure.fields if isinstance(failure, UsageError) else None
        mine = None if failure is None else (fields, one_line(failure, 4000))
        said = self.all_gather_object(mine)
        if failure is not None:
            raise failure
        for usage, text in filter(None, said):
            raise RunFailedError(text) if usage is None else UsageError(text, **usage)

    def gather_results(self, play: Callable[[], _T]) -> list[_T]:
        mine: list[_T] = []
        failure: Exception | None = None
        try:
            mine.append(play())
        except Exception as error:
            failure = error
            self.request_stop()
        everyones = self.all_gather_object(mine)
        self.in_sync = not all(everyones)
        if failure is not None:
            raise failure
        if self.in_sync:
            raise OtherRankError("another process of this training failed")
        return [theirs for (theirs,) in everyones]

    def _meet(self, collective: Callable[[], Any]) -> None:
        try:
            collective()
        except RuntimeError as error:
            raise RankLostError(one_line(error)) from error

    # -- without meeting ----------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        with suppress(RuntimeError):
            self._store.set(_STOP_REQUESTED, "1")

    def stop_requested(self) -> bool:
        # Asking the store takes long; twice a second is often enough.
        now = time.monotonic()
        if now - self._polled < _POLL_SECONDS:
            return False
        self._polled = now
        return self._has(_STOP_REQUESTED)

    def should_print(self) -> bool:
        try:
            return int(self._store.add(_PRINTED, 1)) == 1
        except RuntimeError:
            return True

    def abort(self, abort_reason: Any) -> None:
        with suppress(RuntimeError):
            if self._store.add(f"{_ABORT_REASON}/count", 1) == 1:
                self._store.set(_ABORT_REASON, json.dumps(abort_reason))
        _part()

    def abort_reason(self) -> Any:
        for _ in range(20):
            if self._has(_ABORT_REASON):
                return json.loads(self._store.get(_ABORT_REASON))
            time.sleep(0.1)
        return None

    def has_written(self) -> None:
        with suppress(RuntimeError):
            self._store.set(_WRITTEN, "1")

    def wait_until_written(self) -> None:
        # torchrun ends all ranks as soon as one has ended badly.
        end = time.monotonic() + _PATIENCE
        while not self._has(_WRITTEN) and time.monotonic() < end:
            time.sleep(0.05)

    def _has(self, key: str) -> bool:
        try:
            return bool(self._store.check([key]))
        except RuntimeError:
            return False


_joined: DistributedRanks | None = None


def is_launched() -> bool:
    """Whether a launcher such as ``torchrun`` started this process as one of several."""
    return all(name in os.environ for name in _LAUNCHED_BY) and os.environ["WORLD_SIZE"] != "1"


def init_ranks() -> Ranks:
    """Meet the other processes that ``torchrun`` started.

    Returns:
        All of them, or this process alone where it is the only one.

    Raises:
        UsageError: If this build of torch cannot, or they do not come.
    """
    global _joined  # noqa: PLW0603 (a process is one rank, for all that it does)
    if _joined is not None:
        return _joined
    if not is_launched():
        return Ranks()
    if not dist.is_available() or not dist.is_gloo_available():
        raise needs("this build of torch", "gloo for several processes", advice="install torch's own wheels")
    backend = "cpu:gloo,cuda:nccl" if th.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, rank, size = next(rendezvous("env://"))
        dist.init_process_group(
            backend,
            store=PrefixStore("rimrl", store),
            rank=rank,
            world_size=size,
            timeout=timedelta(minutes=30),
        )
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise cannot("find the other processes at", where, error) from None
    # gloo's threads must end before the interpreter does, or what they still hold aborts the process
    # (https://github.com/pytorch/pytorch/issues/190489).
    atexit.register(_part)
    _joined = DistributedRanks(store, rank, size)
    return _joined


def _part() -> None:
    with suppress(Exception):
        dist.destroy_process_group()


def should_print() -> bool:
    """Whether what this process has to say should be printed: always, but for one of several that say the same."""
    return _joined.should_print() if _joined is not None else not is_launched() or os.environ["RANK"] == "0"


def moments(values: Tensor) -> Moments:
    """Moments over the first axis, in float64.

    Args:
        values: ``[N, ...]``, N at least 1.
    """
    values = values.double()
    mean = values.mean(dim=0)
    return Moments(values.new_tensor(len(values)), mean, ((values - mean) ** 2).sum(dim=0))


def combined(one: Moments, other: Moments) -> Moments:
    """Moments of two sets of values together (Chan et al., 1979, "Updating formulae and a pairwise algorithm")."""
    number = one.number + other.number
    delta = other.mean - one.mean
    share = other.number / number.clamp(min=1)  # both may be of nothing
    return Moments(number, one.mean + delta * share, one.squares + other.squares + delta**2 * one.number * share)
