"""The updates themselves, against steps worked out by hand and against what each option promises."""

from __future__ import annotations

import inspect
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3 import A2C
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

import rimrl
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.rollout import SequenceRolloutBuffer
from rimrl.agents.saved.exported import write_exported
from rimrl.errors import UsageError
from tests.sb3.helpers import ACTION_SPACES, SMALL_RIM, assert_close, randomize, short_episodes

N_STEPS, N_ENVS = 8, 3
ROLLOUT = N_STEPS * N_ENVS


def build(algorithm: Any, sharing: str = "shared", actions: str = "discrete", **options: Any) -> Any:
    if algorithm is rimrl.RecurrentPPO:
        options = {"batch_size": ROLLOUT, **options}
    model = algorithm(
        "MlpPolicy",
        short_episodes(N_ENVS, ACTION_SPACES[actions]),
        n_steps=N_STEPS,
        policy_kwargs={"core_kwargs": SMALL_RIM, "core_sharing": sharing, "net_arch": [6]},
        seed=0,
        device="cpu",
        **options,
    )
    model.set_logger(configure(None, []))
    randomize(model.policy)
    return model


def defaults(algorithm: type[Any]) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(algorithm.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


@pytest.mark.parametrize(
    ("ours", "theirs"), [(rimrl.RecurrentPPO, ContribRecurrentPPO), (rimrl.RecurrentA2C, A2C)], ids=["ppo", "a2c"]
)
def test_arguments_and_defaults_are_stable_baselines(ours: type[Any], theirs: type[Any]) -> None:
    own, expected = defaults(ours), defaults(theirs)
    for storage in ("rollout_buffer_class", "rollout_buffer_kwargs"):  # the storage is ours
        expected.pop(storage, None)
    assert own.pop("sequence_length") is None
    assert own.pop("autocast") is None
    assert own.pop("use_masking") is False
    assert own == expected


# -- A2C --------------------------------------------------------------------------------------------------------------


def test_a2c_has_stable_baselines_rmsprop() -> None:
    ours, sb3 = build(rimrl.RecurrentA2C), A2C("MlpPolicy", short_episodes(2), device="cpu")
    assert type(ours.policy.optimizer) is type(sb3.policy.optimizer) is th.optim.RMSprop
    for key, value in sb3.policy.optimizer.param_groups[0].items():
        if key != "params":
            assert ours.policy.optimizer.param_groups[0][key] == value, key
    assert type(build(rimrl.RecurrentA2C, use_rms_prop=False).policy.optimizer) is th.optim.Adam


def values_and_distributions(
    policy: RecurrentCorePolicy, buffer: SequenceRolloutBuffer, first_states: Any
) -> tuple[Tensor, list[Any]]:
    """One step after the other through the parts of the policy: ``[T, B]`` values, and a distribution a step."""
    actor_state, critic_state = first_states
    values: list[Tensor] = []
    distributions: list[Any] = []
    for t in range(N_STEPS):
        assert isinstance(buffer.observations, np.ndarray)
        obs = th.as_tensor(buffer.observations[t])
        restart = th.as_tensor(buffer.episode_starts[t]).bool()
        latent, actor_state = policy.core.step(obs, policy.core.reset(actor_state, restart))
        latent_vf = latent
        if policy.critic_core is not None:
            latent_vf, critic_state = policy.critic_core.step(obs, policy.critic_core.reset(critic_state, restart))
        elif policy.critic is not None:
            latent_vf = policy.critic(obs)
        values.append(policy.value_net(policy.mlp_extractor.value_net(latent_vf)).squeeze(1))
        mean_or_logits = policy.action_net(policy.mlp_extractor.policy_net(latent))
        if isinstance(policy.action_space, spaces.Discrete):
            distributions.append(th.distributions.Categorical(logits=mean_or_logits))
        else:
            gaussian = th.distributions.Normal(mean_or_logits, policy.log_std.exp().expand_as(mean_or_logits))
            distributions.append(th.distributions.Independent(gaussian, 1))
    return th.stack(values), distributions


@pytest.mark.parametrize("sharing", ["shared", "separate", "actor_only"])
@pytest.mark.parametrize("actions", ["discrete", "box"])
def test_an_a2c_update_is_the_step_worked_out_by_hand(sharing: str, actions: str) -> None:
    """Returns, loss, clipping of the norm and RMSProp, each from its definition, on the second rollout."""
    gamma, ent_coef, vf_coef, max_norm, lr, eps, alpha = 0.9, 0.05, 0.4, 0.05, 2e-3, 1e-5, 0.99
    model = build(
        rimrl.RecurrentA2C,
        sharing,
        actions,
        gamma=gamma,
        gae_lambda=1.0,
        ent_coef=ent_coef,
        vf_coef=vf_coef,
        max_grad_norm=max_norm,
        learning_rate=lr,
    )
    twin = build(rimrl.RecurrentA2C, sharing, actions).policy
    train, update = model.train, 0
    squares: list[Tensor] = []

    def check_then_train() -> None:
        nonlocal update, squares
        policy, buffer = model.policy, model.rollout_buffer
        twin.load_state_dict(policy.state_dict())
        twin.zero_grad()
        states = buffer._states[0]
        values, distributions = values_and_distributions(twin, buffer, (states.pi, states.vf))
        assert_close(values, buffer.values, "values")

        with th.no_grad():
            last_obs = th.as_tensor(model._last_obs)
            last = policy.predict_values(last_obs, model._last_states.vf, th.as_tensor(model._last_episode_starts))
        returns = np.zeros((N_STEPS, N_ENVS))
        follow = np.where(model._last_episode_starts, 0.0, last.flatten().numpy())
        for t in reversed(range(N_STEPS)):
            returns[t] = buffer.rewards[t] + gamma * follow
            follow = np.where(buffer.episode_starts[t], 0.0, returns[t])
        targets = th.as_tensor(returns).float()
        assert_close(buffer.returns, targets, "returns", 1e-5)

        taken = th.as_tensor(buffer.actions)
        log_prob = th.stack([d.log_prob(taken[t]) for t, d in enumerate(distributions)])
        entropy = th.stack([d.entropy() for d in distributions])
        advantages = targets - values.detach()
        loss = (
            -(advantages * log_prob).sum() / ROLLOUT
            - ent_coef * entropy.sum() / ROLLOUT
            + vf_coef * ((targets - values) ** 2).sum() / ROLLOUT
        )
        th.autograd.backward(loss)
        parameters = list(twin.parameters())
        grads = [p.grad for p in parameters]
        norm = sum(float((g**2).sum()) for g in grads) ** 0.5
        assert norm > max_norm, "the norm must be clipped for this to test clipping"
        squares = squares or [th.zeros_like(g) for g in grads]
        expected = []
        for k, (p, g) in enumerate(zip(parameters, grads, strict=True)):
            clipped = g * max_norm / (norm + 1e-6)
            squares[k] = alpha * squares[k] + (1 - alpha) * clipped**2
            expected.append(p.detach() - lr * clipped / (squares[k].sqrt() + eps))

        train()
        update += 1
        for (name, p), value in zip(policy.named_parameters(), expected, strict=True):
            assert_close(p, value, f"{name} after update {update}", 2e-5)

    model.train = check_then_train
    model.learn(3 * ROLLOUT)
    assert update == 3


def test_a2c_takes_one_step_a_rollout_whatever_the_sequence_length() -> None:
    for sequence_length in (None, 4, 1):
        model = build(rimrl.RecurrentA2C, sequence_length=sequence_length)
        model.learn(4 * ROLLOUT)
        assert model._n_updates == 4
        states = model.policy.optimizer.state_dict()["state"].values()
        assert {int(state["step"]) for state in states} == {4}


@pytest.mark.parametrize("algorithm", [rimrl.RecurrentPPO, rimrl.RecurrentA2C])
def test_gradients_flow_through_a_sequence_and_stop_where_the_next_begins(algorithm: Any) -> None:
    """The value at the end of the rollout pulls on an observation at its start only if one sequence holds both."""
    reaches = {}
    for sequence_length in (N_STEPS, N_STEPS // 2):
        model = build(algorithm, sequence_length=sequence_length, learning_rate=0.0)
        model.learn(ROLLOUT)
        (batch,) = model.rollout_buffer.get()
        obs = batch.observations.clone().requires_grad_()
        quiet = th.zeros_like(batch.episode_starts)
        found = model.policy.evaluate_sequences(obs, batch.actions, batch.states, quiet)
        (gradient,) = th.autograd.grad(found.values[-1, -1], obs)  # last step of the last sequence, environment 2
        reaches[sequence_length] = gradient.abs().amax(dim=-1)
    whole, half = reaches[N_STEPS], reaches[N_STEPS // 2]
    assert (whole[:, -1] > 0).all()
    assert not whole[:, :-1].any()
    assert (half[:, -1] > 0).all()
    assert not half[:, :-1].any(), "nothing before the sequence is reached"


# -- PPO --------------------------------------------------------------------------------------------------------------


def steps_taken(model: Any) -> int:
    states = model.policy.optimizer.state_dict()["state"].values()
    return max((int(state["step"]) for state in states), default=0)


def test_ppo_takes_a_step_a_minibatch_and_epoch() -> None:
    model = build(rimrl.RecurrentPPO, batch_size=8, sequence_length=4, n_epochs=3)
    model.learn(2 * ROLLOUT)
    assert steps_taken(model) == 2 * 3 * 3
    assert model._n_updates == 2 * 3


@pytest.mark.parametrize("batch_size", [None, ROLLOUT, 10 * ROLLOUT])
def test_a_minibatch_may_be_the_whole_rollout(batch_size: int | None) -> None:
    model = build(rimrl.RecurrentPPO, batch_size=batch_size, n_epochs=3)
    model.learn(ROLLOUT)
    assert steps_taken(model) == 3


def test_target_kl_stops_the_update(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"n_epochs": 10, "learning_rate": 0.02, "verbose": 1}
    free = build(rimrl.RecurrentPPO, **options)
    free.learn(ROLLOUT)
    assert steps_taken(free) == 10
    assert "Early stopping" not in capsys.readouterr().out

    held = build(rimrl.RecurrentPPO, target_kl=1e-4, **options)
    held.learn(ROLLOUT)
    # The first epoch sees the policy that played, the second one that has moved: it is measured, and not learned from.
    assert steps_taken(held) == 1
    assert held._n_updates == 2
    assert held.logger.name_to_value["train/approx_kl"] > 1.5e-4
    assert "Early stopping at step 1 due to reaching max kl" in capsys.readouterr().out


def test_target_kl_may_be_overshot_by_half() -> None:
    """Stable-Baselines3 stops beyond 1.5 times the target."""
    options: dict[str, Any] = {"n_epochs": 2, "learning_rate": 0.02}
    free = build(rimrl.RecurrentPPO, **options)
    free.learn(ROLLOUT)
    moved = free.logger.name_to_value["train/approx_kl"]  # of the last epoch, before its step
    assert moved > 1e-4
    for target_kl, steps in ((moved / 1.45, 2), (moved / 1.55, 1)):
        model = build(rimrl.RecurrentPPO, target_kl=target_kl, **options)
        model.learn(ROLLOUT)
        assert steps_taken(model) == steps


def test_nothing_is_clipped_on_the_first_pass() -> None:
    model = build(rimrl.RecurrentPPO, n_epochs=1, clip_range=0.001)
    model.learn(ROLLOUT)
    assert model.logger.name_to_value["train/clip_fraction"] == 0.0
    assert model.logger.name_to_value["train/approx_kl"] == pytest.approx(0.0, abs=1e-6)


def test_policy_stops_moving_once_every_ratio_is_clipped() -> None:
    """With a tiny clip range, later epochs add nothing to the policy; without value loss nothing moves at all."""
    options: dict[str, Any] = {"vf_coef": 0.0, "n_epochs": 1, "learning_rate": 1e-2, "normalize_advantage": True}
    model = build(rimrl.RecurrentPPO, clip_range=1e-6, **options)
    model.learn(ROLLOUT)
    (batch,) = model.rollout_buffer.get()
    found = model.policy.evaluate_sequences(batch.observations, batch.actions, batch.states, batch.episode_starts)
    loss, parts = model._loss(batch, found, 1e-6, None)
    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    ratio = (found.log_prob - batch.old_log_prob).exp()
    outside = th.where(advantages > 0, ratio > 1 + 1e-6, ratio < 1 - 1e-6)
    (gradient,) = th.autograd.grad(parts["policy_gradient_loss"], found.log_prob)
    assert outside.any()
    assert not gradient[outside].any(), "a ratio that has gone too far already is left alone"
    assert (gradient[~outside & (advantages.abs() > 1e-6)] != 0).all()
    assert_close(loss, parts["policy_gradient_loss"], "loss without value and entropy terms")


def test_clip_range_vf_holds_the_values_back() -> None:
    """A value that moved further than allowed gives no gradient; the loss is measured from the clipped value."""
    model = build(rimrl.RecurrentPPO, n_epochs=1, learning_rate=0.05, clip_range_vf=0.01)
    model.learn(ROLLOUT)
    (batch,) = model.rollout_buffer.get()
    found = model.policy.evaluate_sequences(batch.observations, batch.actions, batch.states, batch.episode_starts)
    _, parts = model._loss(batch, found, 0.2, 0.01)
    moved = (found.values - batch.old_values).detach().numpy()
    assert (np.abs(moved) > 0.01).any()
    clipped = batch.old_values.numpy() + np.clip(moved, -0.01, 0.01)
    assert parts["value_loss"].item() == pytest.approx(((batch.returns.numpy() - clipped) ** 2).mean(), rel=1e-5)
    (gradient,) = th.autograd.grad(parts["value_loss"], found.values)
    np.testing.assert_array_equal(gradient.numpy() == 0, np.abs(moved) > 0.01)


def test_schedules_follow_the_remaining_progress() -> None:
    """Progress is what remains after the rollout: 3/4, 1/2, 1/4 and 0 of four."""
    model = build(
        rimrl.RecurrentPPO,
        n_epochs=1,
        clip_range=lambda progress: 0.1 + progress,
        clip_range_vf=lambda progress: 1.0 + progress,
        learning_rate=lambda progress: 1e-3 * progress,
    )
    seen: list[tuple[float, ...]] = []
    train = model.train

    def spy() -> None:
        train()
        log = model.logger.name_to_value
        rate = model.policy.optimizer.param_groups[0]["lr"]
        assert log["train/learning_rate"] == rate
        seen.append((log["train/clip_range"], log["train/clip_range_vf"], rate))

    model.train = spy
    model.learn(4 * ROLLOUT)
    np.testing.assert_allclose(seen, [(0.1 + p, 1.0 + p, 1e-3 * p) for p in (0.75, 0.5, 0.25, 0.0)], atol=1e-12)


def test_advantages_are_normalized_over_each_minibatch() -> None:
    model = build(rimrl.RecurrentPPO, batch_size=8, sequence_length=4)
    model.learn(ROLLOUT)
    for batch in model.rollout_buffer.get(8):
        found = model.policy.evaluate_sequences(batch.observations, batch.actions, batch.states, batch.episode_starts)
        old = batch._replace(old_log_prob=found.log_prob.detach())  # every ratio is 1
        _, parts = model._loss(old, found, 0.2, None)
        assert parts["policy_gradient_loss"].item() == pytest.approx(0.0, abs=1e-5), "normalised advantages sum to 0"
        (gradient,) = th.autograd.grad(parts["policy_gradient_loss"], found.log_prob)
        scaled = -gradient * gradient.numel()
        assert scaled.mean().item() == pytest.approx(0.0, abs=1e-5)
        assert scaled.std().item() == pytest.approx(1.0, abs=1e-4)


def test_one_step_has_no_spread_to_normalize_by() -> None:
    env = short_episodes(1)
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        env,
        n_steps=4,
        sequence_length=1,
        batch_size=1,
        n_epochs=1,
        policy_kwargs={"core_kwargs": SMALL_RIM},
        device="cpu",
    )
    model.learn(8)
    assert all(bool(th.isfinite(p).all()) for p in model.policy.parameters())


def test_truncated_episodes_add_the_discounted_value_of_what_came_last() -> None:
    """Worked out from the terminal observations, one environment at a time."""
    gamma = 0.8
    model = build(rimrl.RecurrentPPO, "separate", gamma=gamma)
    buffer = model.rollout_buffer
    add, train = buffer.add, model.train
    env = model.get_env()
    step_wait = env.step_wait
    latest: dict[str, Any] = {}
    expected: list[NDArray[Any]] = []
    bootstraps: list[float] = []

    def spy_step() -> Any:
        obs, rewards, dones, infos = step_wait()
        latest.update(rewards=rewards.copy(), dones=dones.copy(), infos=infos)
        return obs, rewards, dones, infos

    def spy_add(
        obs: Any, action: Any, reward: Any, start: Any, value: Any, log_prob: Any, states: Any, action_masks: None
    ) -> None:
        seen = th.as_tensor(buffer.observations[len(expected)])
        _, _, _, after = model.policy(seen, states, th.as_tensor(start).bool())
        rewards = latest["rewards"].copy()
        for i in range(N_ENVS):
            info = latest["infos"][i]
            if latest["dones"][i] and info["TimeLimit.truncated"]:
                critic = model.policy.critic_core
                last = th.as_tensor(info["terminal_observation"])[None]
                latent, _ = critic.step(last, (after.vf[0][:, i : i + 1], after.vf[1][:, i : i + 1]))
                bootstraps.append(model.policy.value_net(model.policy.mlp_extractor.value_net(latent)).item())
                rewards[i] += gamma * bootstraps[-1]
        expected.append(rewards)
        add(obs, action, reward, start, value, log_prob, states)

    def spy_train() -> None:
        np.testing.assert_allclose(buffer.rewards, np.stack(expected), atol=1e-5)
        expected.clear()
        train()

    env.step_wait, buffer.add, model.train = spy_step, spy_add, spy_train
    model.learn(2 * ROLLOUT)
    assert len(bootstraps) > 2
    assert len({round(bootstrap, 6) for bootstrap in bootstraps}) > 2


@pytest.mark.parametrize("algorithm", [rimrl.RecurrentPPO, rimrl.RecurrentA2C], ids=["ppo", "a2c"])
@pytest.mark.parametrize(
    ("actions", "options"), [("discrete", {}), ("multi_discrete", {}), ("box", {}), ("box", {"use_sde": True})]
)
def test_a_policy_that_has_learned_can_be_copied(algorithm: Any, actions: str, options: dict[str, Any]) -> None:
    model = build(algorithm, actions=actions, **options)
    model.learn(ROLLOUT)
    twin = deepcopy(model.policy)
    obs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected, state = model.policy.predict(obs, deterministic=True)
    found, state_of_twin = twin.predict(obs, deterministic=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(state_of_twin, state)
    for parameter in twin.parameters():
        parameter.data.zero_()
    np.testing.assert_array_equal(model.policy.predict(obs, deterministic=True)[0], expected)


def test_numbers_of_numpy_do_what_numbers_of_python_do() -> None:
    def learned(kind: Any, real: Any) -> dict[str, Tensor]:
        model = rimrl.RecurrentPPO(
            "MlpPolicy",
            short_episodes(2),
            learning_rate=real(1e-2),
            n_steps=kind(8),
            batch_size=kind(8),
            n_epochs=kind(2),
            gamma=real(0.9),
            clip_range=real(0.1),
            sequence_length=kind(4),
            policy_kwargs={
                "core": "lstm",
                "core_kwargs": {"hidden_size": kind(6), "forget_bias": real(1.0)},
                "net_arch": [kind(5)],
                "critic_gradient": real(0.5),
            },
            seed=kind(0),
            device="cpu",
        )
        env = model.get_env()
        assert env is not None
        env.seed(0)
        model.learn(16)
        return dict(model.policy.state_dict())

    expected = learned(int, float)
    for name, weights in learned(np.int64, np.float64).items():
        assert th.equal(weights, expected[name]), name


def test_a_loaded_agent_without_an_environment_does_not_learn(tmp_path: Path) -> None:
    model = build(rimrl.RecurrentPPO)
    model.save(tmp_path / "model.zip")
    with pytest.raises(UsageError, match="set_env"):
        rimrl.load(tmp_path / "model.zip").learn(ROLLOUT)


@pytest.mark.parametrize("algorithm", [rimrl.RecurrentPPO, rimrl.RecurrentA2C], ids=["ppo", "a2c"])
@pytest.mark.parametrize("sharing", ["shared", "separate"])
@pytest.mark.parametrize("how", ["save", "policy", "export"])
def test_a_number_of_active_units_that_was_set_is_in_every_file(
    algorithm: Any, sharing: str, how: str, tmp_path: Path
) -> None:
    model = build(algorithm, sharing)
    for core in (model.policy.core, model.policy.critic_core):
        if core is not None:
            core.num_active = 1
    if how == "save":
        model.save(tmp_path / "model.zip")
        loaded = rimrl.load(tmp_path / "model.zip").policy
    elif how == "policy":
        model.policy.save(tmp_path / "policy.pth")
        loaded = RecurrentCorePolicy.load(str(tmp_path / "policy.pth"), device="cpu")
    else:
        write_exported(model, tmp_path)
        loaded = rimrl.load(tmp_path).policy
    assert loaded.core.num_active == 1
    assert loaded.critic_core is None or loaded.critic_core.num_active == 1


def test_cores_with_different_numbers_of_active_units_are_not_saved(tmp_path: Path) -> None:
    model = build(rimrl.RecurrentPPO, "separate")
    model.policy.core.num_active = 1
    with pytest.raises(UsageError, match="num_active"):
        model.save(tmp_path / "model.zip")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["trunk", "core_sharing", "critic_gradient", "core_kwargs"])
def test_how_a_policy_was_built_cannot_be_assigned(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        setattr(build(rimrl.RecurrentPPO).policy, name, "frozen")


@pytest.mark.parametrize(("name", "value"), [("n_steps", 4), ("sequence_length", 4), ("batch_size", 7)])
def test_what_storage_was_made_for_cannot_change(name: str, value: int) -> None:
    model = build(rimrl.RecurrentPPO)
    setattr(model, name, value)
    with pytest.raises(UsageError, match=name):
        model.learn(ROLLOUT)


def test_a_discount_that_is_assigned_counts_in_returns_and_in_bootstraps() -> None:
    assigned, made = build(rimrl.RecurrentPPO), build(rimrl.RecurrentPPO, gamma=0.5, gae_lambda=0.1)
    assigned.gamma, assigned.gae_lambda = 0.5, 0.1
    for model in (assigned, made):
        model.get_env().seed(2)
        th.manual_seed(2)
        model.learn(ROLLOUT)
    np.testing.assert_array_equal(assigned.rollout_buffer.returns, made.rollout_buffer.returns)


@pytest.mark.parametrize(
    "setting", [{"n_epochs": 0}, {"max_grad_norm": -1.0}, {"clip_range": -0.1}, {"gamma": 1.5}, {"gae_lambda": -0.1}]
)
def test_settings_out_of_range_are_refused_when_the_agent_is_made(setting: Any) -> None:
    (name,) = setting
    with pytest.raises(UsageError, match=name):
        build(rimrl.RecurrentPPO, "shared", "discrete", **setting)


class ExtraKey(gymnasium.Env[Any, Any]):
    """Shows a key that its space does not have, and is cut off by time."""

    observation_space = spaces.Dict({"x": spaces.Box(-1.0, 1.0, (2,), np.float32)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.shown(), 1.0, False, True, {}

    def shown(self) -> dict[str, Any]:
        return {"x": np.ones(2, np.float32), "z": np.zeros(3, np.float32)}


def test_what_a_space_does_not_have_is_not_read_when_time_cuts_an_episode() -> None:
    model = rimrl.RecurrentPPO(
        "MultiInputPolicy", DummyVecEnv([ExtraKey]), n_steps=4, batch_size=4, policy_kwargs={"core_kwargs": SMALL_RIM}
    )
    model.learn(4)
    assert (model.rollout_buffer.rewards != 1.0).all(), "every step was cut, and its end was valued"
