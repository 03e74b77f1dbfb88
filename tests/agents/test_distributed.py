"""Several processes learn what one would from all their rollouts; what stops one of them stops all."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import rimrl
from rimrl.agents.distributed import combined, moments
from rimrl.agents.ranks import OtherRankError, Ranks
from rimrl.errors import UsageError
from tests.agents.ranks import on_ranks
from tests.masked import Forbidding
from tests.sb3.helpers import SMALL_RIM, ShortEpisodes, assert_close, randomize, short_episodes

N_STEPS, N_ENVS, SIZE = 16, 3, 2
SEQUENCE, BATCH = 4, 24
COMMON: dict[str, Any] = {"n_steps": N_STEPS, "sequence_length": SEQUENCE, "ent_coef": 0.01, "max_grad_norm": 0.05}
PPO: dict[str, Any] = {**COMMON, "learning_rate": 2e-3, "n_epochs": 3}
RIM = {"core_kwargs": SMALL_RIM, "net_arch": [6]}
LSTM = {"core": "lstm", "core_kwargs": {"hidden_size": 8}, "core_sharing": "separate", "net_arch": [6]}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "rim": (rimrl.RecurrentPPO, {**PPO, "policy_kwargs": RIM}),
    "lstm": (rimrl.RecurrentPPO, {**PPO, "policy_kwargs": LSTM, "clip_range_vf": 0.1, "learning_rate": 1e-3}),
    "kl": (rimrl.RecurrentPPO, {**PPO, "policy_kwargs": RIM, "target_kl": 1e-3, "learning_rate": 0.01, "n_epochs": 9}),
    "a2c": (rimrl.RecurrentA2C, {**COMMON, "policy_kwargs": RIM, "normalize_advantage": True}),
    "normalized": (rimrl.RecurrentPPO, {**PPO, "policy_kwargs": {**RIM, "normalize_observations": True}}),
    "actor_only": (rimrl.RecurrentPPO, {**PPO, "policy_kwargs": {**LSTM, "core_sharing": "actor_only"}}),
    "masked": (rimrl.RecurrentPPO, {**PPO, "policy_kwargs": LSTM, "use_masking": True}),
}


def build(case: str, n_envs: int, batch_size: int, seed: int) -> Any:
    algorithm, options = CASES[case]
    if algorithm is rimrl.RecurrentPPO:
        options = {"batch_size": batch_size, **options}
    env = DummyVecEnv([Forbidding] * n_envs) if case == "masked" else short_episodes(n_envs)
    model = algorithm("MlpPolicy", VecMonitor(env), seed=seed, device="cpu", **options)
    model.set_logger(Logger(None, []))
    return model


# -- on the ranks -----------------------------------------------------------------------------------------------------


def learn_on_rank(ranks: Ranks) -> dict[str, Any]:
    return {case: _learn(case, ranks) for case in CASES}


def _learn(case: str, ranks: Ranks) -> dict[str, Any]:
    model = build(case, N_ENVS, BATCH, seed=ranks.rank * N_ENVS)
    randomize(model.policy, seed=ranks.rank)
    model.ranks = ranks
    ranks.broadcast_tensors(model.policy.state_dict().values())
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    buffer = model.rollout_buffer
    drawn: list[Any] = []
    last: list[Any] = []
    permutation, returns = np.random.permutation, buffer.compute_returns_and_advantage

    def noted(number: int) -> Any:
        drawn.append(permutation(number))
        return drawn[-1]

    def note_last(last_values: Any, dones: Any) -> None:
        last.extend((last_values, dones))
        returns(last_values, dones)

    buffer.compute_returns_and_advantage = note_last
    _, callback = model._setup_learn(N_STEPS * N_ENVS * SIZE)
    assert model.collect_rollouts(model.env, callback, buffer, N_STEPS)
    kept = {
        name: np.array(getattr(buffer, name))
        for name in ("observations", "actions", "rewards", "episode_starts", "values", "log_probs")
    }
    if buffer._action_masks is not None:
        kept["action_masks"] = buffer._action_masks.numpy()
    np.random.permutation = noted  # type: ignore[assignment]
    model.train()
    np.random.permutation = permutation
    return {
        "before": before,
        "after": model.policy.state_dict(),
        "rollout": kept,
        "states": buffer._states,
        "last": last,
        "permutations": drawn,
        "log": dict(model.logger.name_to_value),
        "episodes": list(model.ep_info_buffer),
        "num_timesteps": model.num_timesteps,
        "own_episodes": model.env.episode_count,
    }


# -- the same in one process ------------------------------------------------------------------------------------------


def side_by_side(parts: list[Any]) -> Any:
    return np.concatenate(parts, axis=1)


def learn_alone(case: str, ranks: list[dict[str, Any]]) -> Any:
    """One process with the environments of all ranks, whose minibatches are theirs side by side."""
    model = build(case, SIZE * N_ENVS, SIZE * BATCH, seed=0)
    model.policy.load_state_dict(ranks[0]["before"])
    model._setup_learn(N_STEPS * N_ENVS * SIZE)
    buffer = model.rollout_buffer
    buffer.reset()
    rollout = {name: side_by_side([r["rollout"][name] for r in ranks]) for name in ranks[0]["rollout"]}
    for t in range(N_STEPS):
        states = [r["states"][t // SEQUENCE] for r in ranks]
        pi, vf = (
            tuple(th.cat([getattr(state, of)[i] for state in states], dim=1) for i in (0, 1)) for of in ("pi", "vf")
        )
        if states[0].vf[0] is states[0].pi[0]:
            vf = pi
        steps = {name: values[t] for name, values in rollout.items()}
        buffer.add(
            *(steps[name] for name in ("observations", "actions", "rewards", "episode_starts")),
            th.as_tensor(steps["values"]),
            th.as_tensor(steps["log_probs"]),
            RNNStates(pi, vf),
            action_masks=steps.get("action_masks"),
        )
    buffer.compute_returns_and_advantage(
        th.cat([r["last"][0] for r in ranks]), np.concatenate([r["last"][1] for r in ranks])
    )
    orders = iter(_together(mine) for mine in zip(*(r["permutations"] for r in ranks), strict=True))
    permutation = np.random.permutation
    np.random.permutation = lambda _: next(orders)
    model.train()
    np.random.permutation = permutation
    assert next(orders, None) is None, "the ranks went on for longer"
    return model


def _together(orders: tuple[Any, ...]) -> Any:
    """Sequences in the order in which one process meets them: each minibatch is those of all ranks."""
    per_batch = BATCH // SEQUENCE

    def of_all(rank: int, order: Any) -> Any:
        chunk, env = order // N_ENVS, order % N_ENVS
        return chunk * SIZE * N_ENVS + rank * N_ENVS + env

    everyones = [of_all(rank, order) for rank, order in enumerate(orders)]
    return np.concatenate([o[i : i + per_batch] for i in range(0, len(orders[0]), per_batch) for o in everyones])


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(learn_on_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_an_update_is_that_of_one_process_on_all_rollouts(case: str, learned: list[dict[str, Any]]) -> None:
    ranks = [rank[case] for rank in learned]
    alone = learn_alone(case, ranks)
    moved = 0.0
    for name, value in alone.policy.state_dict().items():
        exact = name.startswith("observation_statistics")
        assert_close(ranks[0]["after"][name], value, name, tol=1e-12 if exact else 1e-6)
        moved = max(moved, float((value.double() - ranks[0]["before"][name]).abs().max()) if not exact else 0.0)
    assert moved > 1e-3
    log = alone.logger.name_to_value
    assert ranks[0]["log"].keys() == log.keys()
    for name, value in log.items():
        assert ranks[0]["log"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    # There must have been something to share: episodes that start inside sequences, and other rollouts on each rank.
    assert all(rank["rollout"]["episode_starts"][1:].any() for rank in ranks)
    assert not np.array_equal(ranks[0]["rollout"]["observations"], ranks[1]["rollout"]["observations"])
    assert not np.array_equal(ranks[0]["rollout"]["actions"], ranks[1]["rollout"]["actions"])
    if case == "normalized":
        count = alone.policy.observation_statistics.parts[0].count
        assert float(count) == pytest.approx(N_STEPS * N_ENVS * SIZE, abs=1e-3)
    if case == "kl":
        assert 0 < log["train/n_updates"] < 9
    if case not in ("a2c",):
        assert not np.array_equal(ranks[0]["permutations"][0], ranks[1]["permutations"][0])


@pytest.mark.parametrize("case", CASES)
def test_ranks_agree_to_the_bit(case: str, learned: list[dict[str, Any]]) -> None:
    one, other = (rank[case] for rank in learned)
    assert all(th.equal(value, other["after"][name]) for name, value in one["after"].items())
    assert one["num_timesteps"] == other["num_timesteps"] == N_STEPS * N_ENVS * SIZE
    assert one["episodes"] == other["episodes"]
    assert len(one["episodes"]) == one["own_episodes"] + other["own_episodes"]


# -- what stops one ---------------------------------------------------------------------------------------------------


class _Breaks(ShortEpisodes):
    def step(self, action: Any) -> Any:
        if self._episodes > 2:
            raise ZeroDivisionError("the simulator broke")
        return super().step(action)


def fail_on_one(ranks: Ranks) -> dict[str, Any]:
    model = build("rim", N_ENVS, BATCH, seed=ranks.rank)
    model.ranks = ranks
    if ranks.rank == 1:
        for env in model.env.envs:
            env.__class__ = _Breaks
    else:
        model.n_steps = model.rollout_buffer.buffer_size = 10**6  # far longer than anybody would wait
        model.rollout_buffer.reset = lambda: None
        model.rollout_buffer.observe = th.as_tensor
        model.rollout_buffer.add = lambda *_, **__: None
    begun = time.monotonic()
    found: dict[str, Any] = {}
    try:
        model.learn(10**9)
    except Exception as error:
        found = {"error": type(error), "in_sync": ranks.in_sync}
    found["everyone"] = ranks.all_gather_object(ranks.rank)
    try:
        with ranks.sync_errors():
            if ranks.rank == 1:
                raise UsageError("no such thing")
    except UsageError as error:
        found["together"] = str(error)
    found["should_print"] = ranks.should_print()
    found["seconds"] = time.monotonic() - begun
    return found


def test_a_failure_stops_all_at_once_and_is_told_once(tmp_path: Any) -> None:
    first, second = on_ranks(fail_on_one, tmp_path)
    assert (first["error"], second["error"]) == (OtherRankError, ZeroDivisionError)
    for rank in (first, second):
        assert rank["in_sync"]
        assert rank["everyone"] == [0, 1]
        assert rank["together"] == "no such thing"
        assert rank["seconds"] < 60
    assert first["should_print"] + second["should_print"] == 1


def test_moments_of_parts_are_those_of_the_whole() -> None:
    values = 1e4 + th.randn(37, 3, generator=th.Generator().manual_seed(0), dtype=th.float64)
    one = combined(combined(moments(values[:5]), moments(values[5:6])), moments(values[6:]))
    assert one.number == 37
    np.testing.assert_allclose(one.mean, values.numpy().mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(one.squares / one.number, values.numpy().var(axis=0), rtol=1e-10)
