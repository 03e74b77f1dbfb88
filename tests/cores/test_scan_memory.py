"""The pool of memory behind whole sequences: nobody sees it, and it does not grow without end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.scan import memory
from tests import paths
from tests.cores.builders import RIM, CoreSpec, build, randomise, with_every_backend
from tests.cores.test_scan import assert_same, everything, forward, gradients_of, leaves_of, loss_of, problem, small

every_fast_core_and_path = with_every_backend()


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    """No free memory before and after a test, whose own collections walk its own objects alone."""
    gc.collect()
    gc.freeze()
    memory._free.clear()
    yield
    memory._free.clear()


@pytest.fixture
def everything_is_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALLEST", 1)


def free_bytes() -> int:
    return sum(flat.nbytes for flat in memory._free.values())


def poison() -> int:
    """Overwrite all that is free; the number of tensors that were."""
    gc.collect()
    for flat in memory._free.values():
        flat.fill_(float("nan"))
    return len(memory._free)


def large(seed: int = 0, **options: Any) -> Any:
    """A sequence whose buffers are pooled as they are."""
    core = randomise(build(("rim", {**RIM, "unit_size": 32, **options}), seed), scale=0.2)
    p = problem(core, 64, 16)
    assert p.x[..., 0].numel() * 4 * 32 * 8 >= memory.SMALLEST
    return p


@every_fast_core_and_path
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.usefixtures("everything_is_pooled")
def test_results_outlive_the_pool(spec: CoreSpec, batch_size: int, path: str) -> None:
    """Whatever is free may be overwritten at once: outputs, states, traces and gradients stay as they are."""
    p = problem(randomise(build(spec)), 7, batch_size)
    with paths.on(path):
        found = everything(p)
        kept = {name: value.clone() for name, value in found.items()}
        with torch.no_grad():
            y, (h, c), trace = p.core(p.x, p.state, p.starts, return_trace=True)
        quiet = (y, h, c, *(value for value in vars(trace).values() if value is not None))
        kept_quiet = [value.clone() for value in quiet]
        assert poison() > 0
        everything(p._replace(x=2 * p.x))
        poison()
    assert_same(found, kept, 0.0)
    for value, before in zip(quiet, kept_quiet, strict=True):
        assert torch.equal(value, before)


@every_fast_core_and_path
@pytest.mark.usefixtures("everything_is_pooled")
def test_a_live_graph_keeps_its_memory(spec: CoreSpec, path: str) -> None:
    """Between forward and backward other sequences come and go, and what is free is overwritten."""
    p = small(spec)
    with paths.on(path):
        expected = everything(p)
        leaves = leaves_of(p)
        loss = loss_of(*forward(p, leaves))
        other = everything(p._replace(x=2 * p.x))
        poison()
        first = gradients_of(loss, leaves, retain_graph=True)
        poison()
        everything(p._replace(x=3 * p.x))
        second = gradients_of(loss, leaves)
        poison()
    del other
    for found in (first, second):
        assert_same(found, {name: expected[f"gradient of {name}"] for name in leaves}, 0.0)


@every_fast_core_and_path
def test_nothing_is_read_before_it_is_written(spec: CoreSpec, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = small(spec)
    plain = memory.empty
    given = []

    def poisoned(owner: object, like: Tensor, *shape: int) -> Tensor:
        given.append(shape)
        return plain(owner, like, *shape).fill_(float("nan"))

    with paths.on(path):
        expected = everything(p)
        monkeypatch.setattr(memory, "empty", poisoned)
        found = everything(p)
    assert given
    assert_same(found, expected, 0.0)


@paths.every_fast_path
def test_large_sequences(path: str) -> None:
    """The same with the pool as it is, and the same in the pool's second life."""
    p = large()
    with paths.on("step"):
        expected = everything(p)
    with paths.on(path):
        for _ in range(3):
            found = everything(p)
            assert_same(found, expected, 1e-9)
            assert poison() > 0


@paths.every_fast_path
@pytest.mark.parametrize("first", ["inference", "training"])
def test_memory_of_inference_mode_serves_training_and_the_reverse(path: str, first: str) -> None:
    p = large()
    with paths.on(path):
        for mode in (first, "training", "inference", "training"):
            if mode == "training":
                everything(p)
            else:
                with torch.inference_mode():
                    p.core(p.x, p.state, p.starts)
            assert poison() > 0


@paths.every_fast_path
def test_memory_comes_back_and_is_used_again(path: str) -> None:
    p = large()
    with paths.on(path):
        y, last = p.core(p.x, p.state, p.starts)
        held = free_bytes()
        del last
        loss = y.sum()
        loss.backward()
        del y, loss
        gc.collect()
        once = free_bytes()
        assert once > held
        addresses = {flat.data_ptr() for flat in memory._free.values()}
        for _ in range(4):
            p.core(p.x, p.state, p.starts)[0].sum().backward()
            p.core.zero_grad()
            gc.collect()
            assert free_bytes() == once
            assert {flat.data_ptr() for flat in memory._free.values()} == addresses


@paths.every_fast_path
def test_the_pool_stays_below_its_limit(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 20 << 20
    monkeypatch.setattr(memory, "LARGEST_TOTAL", limit)
    most = 0
    with paths.on(path):
        for num_steps in (64, 70, 80, 64):
            p = problem(large().core, num_steps, 16)
            p.core(p.x, p.state, p.starts)[0].sum().backward()
            gc.collect()
            most = max(most, free_bytes())
            assert free_bytes() <= limit
    assert most > limit / 2


def test_no_two_owners_share_memory() -> None:
    class Owner:
        pass

    like = torch.zeros(())
    owners = [Owner() for _ in range(3)]
    size = memory.SMALLEST // 4
    tensors = [memory.empty(owner, like, size) for owner in owners]
    assert len({t.data_ptr() for t in tensors}) == 3
    address = tensors[1].data_ptr()
    del owners[1]
    gc.collect()
    assert free_bytes() == memory.SMALLEST
    assert memory.empty(owners[0], like.double(), size // 2).data_ptr() != address, "another dtype"
    assert memory.empty(owners[0], like, size + 1).data_ptr() != address, "another size"
    assert memory.empty(owners[0], like, 2, size // 2).data_ptr() == address
    assert free_bytes() == 0


def test_memory_of_similar_sizes_is_shared() -> None:
    class Owner:
        pass

    like = torch.zeros(())
    most = memory.SMALLEST // 2
    for size in range(most // 2, most + 1, most // 500):
        owner = Owner()
        assert memory.empty(owner, like, size).shape == (size,)
        del owner
    assert len(memory._free) == 5
    assert max(flat.numel() for flat in memory._free.values()) == most
    assert [memory._rounded(size) for size in (1, 7, 9, 1000, 1025)] == [1, 7, 10, 1024, 1280]


def test_small_memory_is_not_pooled() -> None:
    p = small(("rim", RIM))
    everything(p)
    gc.collect()
    assert free_bytes() == 0
