"""Stable-Baselines3's callbacks work, and the log holds its usual keys and the activity of the units."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rimrl
from tests.sb3.helpers import SMALL_RIM, short_episodes

ALGORITHMS = (rimrl.RecurrentPPO, rimrl.RecurrentA2C)
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
N_UNITS, NUM_ACTIVE = SMALL_RIM["num_units"], SMALL_RIM["num_active"]


def build(algorithm: Any, core: str = "rim", sharing: str = "shared", **options: Any) -> Any:
    if algorithm is rimrl.RecurrentPPO:
        options = {"batch_size": 16, "n_epochs": 2, **options}
    return algorithm(
        "MlpPolicy",
        VecMonitor(short_episodes(3)),
        n_steps=16,
        sequence_length=8,
        policy_kwargs={
            "core": core,
            "core_kwargs": SMALL_RIM if core == "rim" else {"hidden_size": 8},
            "core_sharing": sharing,
        },
        seed=0,
        device="cpu",
        **options,
    )


# -- callbacks --------------------------------------------------------------------------------------------------------


class _Stop(BaseCallback):
    """Asks to stop at one step, and remembers what it was shown."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.events: list[str] = []

    def _on_rollout_start(self) -> None:
        self.events.append("rollout start")

    def _on_rollout_end(self) -> None:
        self.events.append("rollout end")

    def _on_step(self) -> bool:
        return self.n_calls < self.at


@every_algorithm
def test_a_callback_stops_training_at_once(algorithm: Any) -> None:
    model = build(algorithm)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    stop = _Stop(at=5)
    model.learn(10_000, callback=stop)
    assert model.num_timesteps == 5 * 3
    assert stop.events == ["rollout start"]
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())

    model.learn(48, callback=(after := _Stop(at=10_000)), reset_num_timesteps=False)
    assert model.num_timesteps == 15 + 48
    assert after.events == ["rollout start", "rollout end"]


@every_algorithm
def test_callbacks_see_the_locals_that_stable_baselines_documents(algorithm: Any) -> None:
    names = {"obs_tensor", "actions", "clipped_actions", "values", "log_probs", "new_obs", "rewards", "dones", "infos"}
    names |= {"env", "callback", "rollout_buffer", "n_rollout_steps", "n_steps", "self"}
    seen: list[set[str]] = []

    def look(local: dict[str, Any], _: dict[str, Any]) -> bool:
        seen.append(set(local))
        assert len(local["rewards"]) == len(local["dones"]) == 3
        return True

    build(algorithm).learn(48, callback=look)
    assert len(seen) == 16
    assert names <= set.intersection(*seen)


@every_algorithm
def test_stop_on_max_episodes(algorithm: Any) -> None:
    model = build(algorithm)
    model.learn(10_000, callback=StopTrainingOnMaxEpisodes(max_episodes=2))
    assert model.num_timesteps < 10_000


@every_algorithm
def test_evaluation_and_checkpoints(algorithm: Any, tmp_path: Path) -> None:
    model = build(algorithm)
    callbacks = [
        EvalCallback(
            VecMonitor(short_episodes(2)),
            n_eval_episodes=4,
            eval_freq=8,
            log_path=str(tmp_path),
            best_model_save_path=str(tmp_path),
            verbose=0,
        ),
        CheckpointCallback(save_freq=16, save_path=str(tmp_path / "checkpoints"), name_prefix="agent"),
    ]
    model.learn(2 * 48, callback=callbacks)
    evaluations = np.load(tmp_path / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [24, 48, 72, 96]
    assert evaluations["results"].shape == (4, 4)
    assert type(rimrl.load(tmp_path / "best_model.zip", device="cpu")) is algorithm
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["agent_48_steps.zip", "agent_96_steps.zip"]
    last = rimrl.load(tmp_path / "checkpoints" / "agent_48_steps.zip", device="cpu")
    assert last.num_timesteps == 48


def test_evaluating_in_between_leaves_the_running_episodes_alone() -> None:
    """Deterministic evaluation draws nothing at random and shares no state with training."""

    def weights(*callbacks: BaseCallback) -> dict[str, th.Tensor]:
        model = build(rimrl.RecurrentPPO)
        model.get_env().seed(1)
        model.learn(3 * 48, callback=list(callbacks))
        state: dict[str, th.Tensor] = model.policy.state_dict()
        return state

    evaluation = EvalCallback(VecMonitor(short_episodes(2)), n_eval_episodes=3, eval_freq=5, verbose=0, warn=False)
    plain, evaluated = weights(), weights(evaluation)
    for name, value in plain.items():
        assert th.equal(evaluated[name], value), name


# -- logs -------------------------------------------------------------------------------------------------------------


def csv_rows(path: Path) -> list[dict[str, float]]:
    with (path / "progress.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def logged(model: Any, path: Path, rollouts: int = 3) -> list[dict[str, float]]:
    model.set_logger(configure(str(path), ["csv"]))
    model.learn(rollouts * model.n_steps * model.n_envs, log_interval=1)
    model.logger.dump(10**9)  # the last update is otherwise logged with the next rollout
    model.logger.close()
    return csv_rows(path)


def activity(row: dict[str, float], prefix: str = "units/active_") -> list[float]:
    return [row[f"{prefix}{unit}"] for unit in range(N_UNITS) if f"{prefix}{unit}" in row]


def assert_evenness(row: dict[str, float], prefix: str = "units/active_") -> None:
    """Collapse and worst share are those of the shares that are logged beside them."""
    shares = [share / NUM_ACTIVE for share in activity(row, prefix)]
    expected = sum(max(1 / N_UNITS - share, 0) for share in shares) * N_UNITS / (N_UNITS - 1)
    others = prefix.removesuffix("active_")
    assert row[f"{others}collapse"] == pytest.approx(expected, abs=1e-5)
    assert row[f"{others}worst_share"] == pytest.approx(1 - N_UNITS * min(shares), abs=1e-5)


@every_algorithm
def test_unit_activity_sums_to_the_number_of_active_units(algorithm: Any, tmp_path: Path) -> None:
    rows = logged(build(algorithm), tmp_path)
    updates = [row for row in rows if "units/active_0" in row]
    assert len(updates) == 3
    for row in updates:
        shares = activity(row)
        assert len(shares) == N_UNITS
        assert all(0.0 <= share <= 1.0 for share in shares)
        assert sum(shares) == pytest.approx(NUM_ACTIVE, abs=1e-5)
        assert not activity(row, "units/critic_active_")
        assert_evenness(row)
        assert "units/critic_collapse" not in row
        assert f"units/active_{N_UNITS}" not in row


@every_algorithm
def test_a_critic_with_its_own_core_logs_its_own_activity(algorithm: Any, tmp_path: Path) -> None:
    rows = logged(build(algorithm, sharing="separate"), tmp_path)
    updates = [row for row in rows if "units/active_0" in row]
    assert len(updates) == 3
    for row in updates:
        for prefix in ("units/active_", "units/critic_active_"):
            assert len(activity(row, prefix)) == N_UNITS
            assert sum(activity(row, prefix)) == pytest.approx(NUM_ACTIVE, abs=1e-5)
            assert_evenness(row, prefix)
    assert any(activity(row) != activity(row, "units/critic_active_") for row in updates)


@pytest.mark.parametrize("core", ["lstm", "feedforward"])
def test_a_core_without_units_logs_no_activity(core: str, tmp_path: Path) -> None:
    for row in logged(build(rimrl.RecurrentPPO, core), tmp_path):
        assert not [key for key in row if key.startswith("units/")]


def test_layers_of_units_are_measured_alone(tmp_path: Path) -> None:
    """The second layer's units are all active at every step, which says nothing of the first layer's."""
    kwargs = {"num_units": [4, 2], "num_active": [2, 2], "hidden_size": 8}
    policy_kwargs = {"core": "brims", "core_kwargs": kwargs}
    model = rimrl.RecurrentA2C("MlpPolicy", VecMonitor(short_episodes(3)), n_steps=16, policy_kwargs=policy_kwargs)
    updates = [row for row in logged(model, tmp_path) if "units/active_0" in row]
    assert len(updates) == 3
    for row in updates:
        below = [row[f"units/active_{unit}"] for unit in range(4)]
        assert [row["units/active_4"], row["units/active_5"]] == [1, 1]
        expected = sum(max(1 / 4 - share / 2, 0) for share in below) * 4 / 3
        assert row["units/collapse"] == pytest.approx(expected / 2, abs=1e-5)  # mean with 0 of the second layer
        assert row["units/worst_share"] == pytest.approx(1 - 2 * min(below), abs=1e-5)  # the larger of the layers'


@every_algorithm
def test_logged_activity_is_what_the_units_did(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a count made while acting, one step at a time, with the weights that the first minibatch sees."""
    options: dict[str, Any] = {"batch_size": 48, "n_epochs": 1} if algorithm is rimrl.RecurrentPPO else {}
    model = build(algorithm, **options)
    counts = th.zeros(N_UNITS)
    core_step = model.policy.core.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        x, state, starts = args[:3]
        if len(x) == 1 and not th.is_grad_enabled() and not kwargs.get("return_trace") and acting:
            counts.add_(core_step(x, state, starts, return_trace=True)[2].active.sum(dim=(0, 1)))
        return core_step(*args, **kwargs)

    acting = True
    predict_values = model.policy.predict_values

    def values_without_counting(*args: Any) -> Any:
        nonlocal acting
        acting = False
        result = predict_values(*args)
        acting = True
        return result

    monkeypatch.setattr(model.policy.core, "forward", spy)
    monkeypatch.setattr(model.policy, "predict_values", values_without_counting)
    model.set_logger(configure(None, []))
    model.learn(48)
    found = [model.logger.name_to_value[f"units/active_{unit}"] for unit in range(N_UNITS)]
    np.testing.assert_allclose(found, counts.numpy() / 48, atol=1e-6)


def test_ppo_logs_what_contribs_does_and_the_units(tmp_path: Path) -> None:
    contrib = ContribRecurrentPPO(
        "MlpLstmPolicy",
        VecMonitor(short_episodes(3)),
        n_steps=16,
        batch_size=16,
        n_epochs=2,
        clip_range_vf=0.2,
        policy_kwargs={"lstm_hidden_size": 8},
        device="cpu",
    )
    ours = build(rimrl.RecurrentPPO, clip_range_vf=0.2)
    expected, found = logged(contrib, tmp_path / "contrib"), logged(ours, tmp_path / "ours")
    units = {f"units/active_{unit}" for unit in range(N_UNITS)} | {"units/collapse", "units/worst_share"}
    assert set().union(*found) == set().union(*expected) | units
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/total_timesteps", "train/approx_kl"} <= set().union(
        *found
    )


def test_a2c_logs_what_stable_baselines_does_and_the_units(tmp_path: Path) -> None:
    sb3 = A2C("MlpPolicy", VecMonitor(short_episodes(3)), n_steps=16, device="cpu")
    expected, found = logged(sb3, tmp_path / "sb3"), logged(build(rimrl.RecurrentA2C), tmp_path / "ours")
    units = {f"units/active_{unit}" for unit in range(N_UNITS)} | {"units/collapse", "units/worst_share"}
    assert set().union(*found) == set().union(*expected) | units


@every_algorithm
def test_tensorboard(algorithm: Any, tmp_path: Path) -> None:
    model = build(algorithm, tensorboard_log=str(tmp_path))
    model.learn(3 * 48, log_interval=1, tb_log_name="here")
    events = EventAccumulator(str(tmp_path / "here_1"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"units/active_{unit}" for unit in range(N_UNITS)} <= tags
    assert {"rollout/ep_rew_mean", "train/entropy_loss", "train/explained_variance", "time/fps"} <= tags
    by_unit = [events.Scalars(f"units/active_{unit}") for unit in range(N_UNITS)]
    assert len(by_unit[0]) == 2
    for at_one_step in zip(*by_unit, strict=True):
        assert len({event.step for event in at_one_step}) == 1
        assert sum(event.value for event in at_one_step) == pytest.approx(NUM_ACTIVE, abs=1e-5)
