"""One process has the interface of several, and is the same as one of one."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch as th
from torch._C._distributed_c10d import HashStore
from torch.distributed import destroy_process_group, init_process_group

import rimrl
from rimrl.agents.distributed import DistributedRanks, init_ranks
from rimrl.agents.ranks import Ranks
from tests.agents.ranks import on_ranks
from tests.sb3.helpers import SMALL_RIM, learn_seeded, short_episodes

METHODS = [name for name, member in vars(Ranks).items() if inspect.isfunction(member) and not name.startswith("_")]


@pytest.mark.parametrize("name", METHODS)
def test_several_processes_leave_no_method_to_one(name: str) -> None:
    assert name in vars(DistributedRanks)


def test_a_process_that_nobody_launched_is_alone() -> None:
    ranks = init_ranks()
    assert (ranks.rank, ranks.size, ranks.first, ranks.in_sync) == (0, 1, True, True)


def learned(ranks: Ranks) -> dict[str, Any]:
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        short_episodes(2),
        n_steps=8,
        batch_size=8,
        sequence_length=4,
        n_epochs=2,
        target_kl=0.5,
        seed=0,
        device="cpu",
        policy_kwargs={"core_kwargs": SMALL_RIM, "net_arch": [6], "normalize_observations": True},
    )
    model.ranks = ranks
    learn_seeded(model, 48)
    assert model.num_timesteps == 48
    return dict(model.policy.state_dict())


def both(ranks: Ranks) -> dict[str, Any]:
    assert type(ranks) is Ranks  # a launcher that starts one process starts no rank
    store = HashStore()
    init_process_group("gloo", store=store, rank=0, world_size=1)
    met = learned(DistributedRanks(store, 0, 1))
    destroy_process_group()
    return {"met": met, "alone": learned(ranks)}


def test_one_rank_that_meets_itself_learns_what_one_process_does(tmp_path: Path) -> None:
    """What gathers, averages and exchanges among one process is the reference for what does none of it."""
    (weights,) = on_ranks(both, tmp_path, size=1)
    th.testing.assert_close(weights["met"], weights["alone"], rtol=0, atol=0)
