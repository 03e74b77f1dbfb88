"""Policies: how they are built, what they refuse, and when they remember or forget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import ActorCriticPolicy

import rimrl
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.cores.base import RecurrentCore
from rimrl.cores.rim import RIM
from rimrl.errors import UsageError
from tests.sb3.helpers import SMALL_RIM, assert_close, gradients, randomize, short_episodes

ALGORITHMS = (rimrl.RecurrentPPO, rimrl.RecurrentA2C)
SHARINGS = ("shared", "separate", "actor_only")

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
every_sharing = pytest.mark.parametrize("sharing", SHARINGS)


def agent(
    core: str | type[RecurrentCore] = "rim",
    core_kwargs: dict[str, Any] | None = None,
    sharing: str = "shared",
    n_envs: int = 3,
    **policy_kwargs: Any,
) -> rimrl.RecurrentPPO:
    """An untrained agent with weights of some size."""
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        short_episodes(n_envs),
        n_steps=16,
        batch_size=16,
        n_epochs=2,
        policy_kwargs={
            "core": core,
            "core_kwargs": SMALL_RIM if core_kwargs is None else core_kwargs,
            "core_sharing": sharing,
            **policy_kwargs,
        },
        seed=0,
        device="cpu",
    )
    randomize(model.policy)
    return model


def observations(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def assert_states_equal(a: Any, b: Any, tol: float = 1e-6) -> None:
    for x, y in zip(a, b, strict=True):
        assert_close(x, y, "state", tol)


# -- building ---------------------------------------------------------------------------------------------------------


def test_the_core_is_what_was_asked_for() -> None:
    core = agent(core_kwargs={"num_units": 3, "num_active": 2, "unit_size": 4, "dynamics": "gru"}).policy.core
    assert isinstance(core, RIM)
    assert (core.num_units, core.num_active, core.unit_size, core.hidden_size) == (3, 2, 4, 12)
    assert isinstance(agent(core_kwargs={}).policy.core, RIM)
    assert agent("lstm", {"hidden_size": 9, "num_layers": 2}).policy.lstm_hidden_state_shape == (2, 1, 9)


def test_a_core_class_of_ones_own() -> None:
    class Twice(RIM):
        pass

    model = agent(Twice)
    assert type(model.policy.core) is Twice
    model.learn(48)


@pytest.mark.parametrize(("sharing", "cores", "linear"), [("shared", 1, 0), ("separate", 2, 0), ("actor_only", 1, 1)])
def test_sharing_decides_how_many_cores_there_are(sharing: str, cores: int, linear: int) -> None:
    policy = agent(sharing=sharing).policy
    assert sum(isinstance(module, RecurrentCore) for module in policy.modules()) == cores
    assert (policy.critic is not None) == bool(linear)
    trained = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in policy.parameters()}, "every weight must be in the optimiser"
    pi, vf = policy.initial_states(2)
    assert (vf is pi) == (sharing != "separate")


def test_the_critics_core_is_its_own() -> None:
    policy = agent(sharing="separate").policy
    assert policy.critic_core is not None
    own = {id(p) for p in policy.critic_core.parameters()}
    assert own.isdisjoint(id(p) for p in policy.core.parameters())


@every_sharing
def test_the_value_sees_its_own_memory_alone(sharing: str) -> None:
    """An earlier observation changes the value unless the critic has no memory; the actor always remembers."""
    policy = agent(sharing=sharing).policy
    obs = th.as_tensor(observations(2, 1))
    changed = obs.clone()
    changed[0] += 1.0
    starts = th.tensor([[True], [False]])
    actions = th.zeros(2, 1, dtype=th.long)
    with th.no_grad():
        a, b = (policy.evaluate_sequences(x, actions, policy.initial_states(1), starts) for x in (obs, changed))
    assert (float((a.values - b.values)[1].abs()) > 1e-6) == (sharing != "actor_only")
    assert float((a.log_prob - b.log_prob)[1].abs()) > 1e-6


@pytest.mark.parametrize("core", ["rim", "lstm"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_critic_sends_a_share_of_its_gradient_into_a_shared_core(core: str, share: float) -> None:
    """Core and features get the actor's gradient and that share of the critic's; the value head gets all of its own."""
    kwargs = {"hidden_size": 8} if core == "lstm" else SMALL_RIM

    def flow(part: str, **options: Any) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        policy = agent(core, kwargs, **options).policy
        obs, starts = th.as_tensor(observations(5, 2)), th.zeros(5, 2)
        found = policy.evaluate_sequences(obs, th.ones(5, 2, dtype=th.long), policy.initial_states(2), starts)
        outputs = {"actor": found.log_prob.square().sum(), "critic": found.values.square().sum()}
        outputs["both"] = outputs["actor"] + outputs["critic"]
        th.autograd.backward(outputs[part])
        return found.values.detach(), gradients(policy)

    values, both = flow("both", critic_gradient=share)
    plain, actor = flow("actor")
    _, critic = flow("critic")
    assert th.equal(values, plain)
    for name, gradient in both.items():
        shared = name.startswith("lstm_actor.")
        expected = actor[name] + (share if shared else 1.0) * critic[name]
        assert_close(gradient, expected, name, 1e-5)
    assert max(float(g.abs().max()) for name, g in critic.items() if name.startswith("lstm_actor.")) > 1e-3


# -- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        ({"core": "rimm"}, r"'rim'"),
        ({"core": "transformer"}, "unknown core 'transformer'"),
        ({"core_kwargs": {"num_unit": 3}}, r"'num_units'"),
        ({"core_kwargs": {"num_units": 3, "num_active": 4}}, "num_active .*4"),
        ({"core": "lstm", "core_kwargs": {"num_units": 3}}, "core 'lstm'"),
        ({"core_sharing": "both"}, r"core_sharing.*actor_only"),
        ({"core_sharing": "shared", "share_features_extractor": False}, "share_features_extractor"),
        ({"critic_gradient": 1.5}, r"critic_gradient.*number.*0.*1.*1.5"),
        ({"critic_gradient": True}, r"critic_gradient.*number.*0.*1.*True"),
        ({"critic_gradient": 0.5, "core_sharing": "separate"}, 'critic_gradient 0.5 needs core_sharing="shared"'),
        ({"core_kwargs": {"initialization": "xaver"}}, r"'xavier'"),
    ],
)
@every_algorithm
def test_wrong_options_are_refused_in_one_line(algorithm: Any, policy_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        algorithm("MlpPolicy", short_episodes(2), policy_kwargs=policy_kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "policy_kwargs"),
    [
        (ActorCriticPolicy, {}),
        (ActorCriticPolicy, {"core": "rim"}),
        (RecurrentActorCriticPolicy, {}),
        (RecurrentActorCriticPolicy, {"lstm_hidden_size": 8}),
        ("MlpLstmPolicy", {}),
    ],
)
@every_algorithm
def test_a_policy_without_a_core_is_refused(algorithm: Any, policy: Any, policy_kwargs: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="MlpPolicy") as caught:
        algorithm(policy, short_episodes(2), policy_kwargs=policy_kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("clip_range_vf", [0, -0.1])
def test_a_value_clip_that_is_not_positive_is_refused(clip_range_vf: float) -> None:
    with pytest.raises(UsageError, match="clip_range_vf"):
        rimrl.RecurrentPPO("MlpPolicy", short_episodes(2), clip_range_vf=clip_range_vf)


def test_options_passed_in_are_left_as_they_were() -> None:
    """The same dict may go to A2C, which brings RMSProp, and then to PPO, which must stay with Adam."""
    policy_kwargs = {"core": "rim", "core_kwargs": dict(SMALL_RIM)}
    rimrl.RecurrentA2C("MlpPolicy", short_episodes(2), policy_kwargs=policy_kwargs, device="cpu")
    assert policy_kwargs == {"core": "rim", "core_kwargs": SMALL_RIM}


# -- remembering and forgetting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("core", "core_kwargs"),
    [
        ("rim", SMALL_RIM),
        ("rim", {**SMALL_RIM, "learn_initial_state": True}),
        ("rim", {**SMALL_RIM, "learn_initial_state": True, "dynamics": "gru"}),
        ("lstm", {"hidden_size": 6, "num_layers": 2}),
        ("gru", {"hidden_size": 6}),
    ],
)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_no_state_and_an_episode_start_are_the_same(core: str, core_kwargs: dict[str, Any], n_envs: int) -> None:
    policy = agent(core, core_kwargs, n_envs=n_envs).policy
    obs = observations(n_envs)
    shape = (policy.core.num_layers, n_envs, policy.core.hidden_size)
    h, c = (np.random.default_rng(k).normal(size=shape).astype(np.float32) for k in (1, 2))

    from_none, after_none = policy.predict(obs, None, None, deterministic=True)
    restarted, after_restart = policy.predict(obs, (h, c), np.ones(n_envs, bool), deterministic=True)
    np.testing.assert_array_equal(from_none, restarted)
    assert after_restart is not None
    assert_states_equal(after_none, after_restart)
    assert after_restart[0].shape == shape

    with th.no_grad():  # the answer of the core itself
        features = policy.extract_features(th.as_tensor(obs))
        assert isinstance(features, th.Tensor)
        _, expected = policy.core.step(features, policy.core.initial_state(n_envs))
    assert_states_equal(after_none, expected)

    _, carried_on = policy.predict(obs, (h, c), np.zeros(n_envs, bool), deterministic=True)
    assert carried_on is not None
    assert np.abs(carried_on[0] - after_restart[0]).max() > 1e-3


def test_one_observation_without_a_batch_axis_starts_from_the_learned_state() -> None:
    policy = agent(core_kwargs={**SMALL_RIM, "learn_initial_state": True}).policy
    obs = observations(1)
    batched, batched_state = policy.predict(obs, deterministic=True)
    single, single_state = policy.predict(obs[0], deterministic=True)
    assert np.shape(single) == ()
    assert single == batched[0]
    assert_states_equal(single_state, batched_state)


def test_predict_restarts_exactly_the_environments_whose_episode_starts() -> None:
    policy = agent().policy
    steps = observations(6, 3)
    starts = np.zeros((6, 3), bool)
    starts[0], starts[3, 1], starts[4, 0] = True, True, True
    state: Any = None
    together = []
    for obs, start in zip(steps, starts, strict=True):
        actions, state = policy.predict(obs, state, start, deterministic=True)
        together.append((actions, state))

    for env in range(3):
        alone: Any = None
        for t in range(6):
            if starts[t, env]:
                alone = None  # a fresh episode, played on its own
            action, alone = policy.predict(steps[t, env], alone, deterministic=True)
            actions, states = together[t]
            assert action == actions[env]
            assert_states_equal((alone[0][:, 0], alone[1][:, 0]), (states[0][:, env], states[1][:, env]))


def test_acting_evaluating_and_the_distribution_agree() -> None:
    """Five ways to ask the same policy about the same episode."""
    policy = agent(sharing="separate").policy
    steps = th.as_tensor(observations(5, 2))
    starts = th.zeros(5, 2, dtype=th.bool)
    starts[0], starts[2, 1] = True, True
    states = first = policy.initial_states(2)
    acted = []
    with th.no_grad():
        for obs, start in zip(steps, starts, strict=True):
            actions, values, log_prob, after = policy(obs, states, start)
            distribution, actor_state = policy.get_distribution(obs, states.pi, start)
            assert_states_equal(actor_state, after.pi)
            assert_close(distribution.log_prob(actions), log_prob, "log_prob of the distribution")
            assert_close(policy.predict_values(obs, states.vf, start), values, "predict_values")
            acted.append((actions, values.flatten(), log_prob))
            states = after
        actions, values, log_prob = (th.stack(parts) for parts in zip(*acted, strict=True))
        evaluated = policy.evaluate_sequences(steps, actions, first, starts)
        flat = policy.evaluate_actions(
            steps.transpose(0, 1).flatten(0, 1), actions.t().flatten(), first, starts.t().flatten().float()
        )
    assert_close(evaluated.values, values, "values")
    assert_close(evaluated.log_prob, log_prob, "log_prob")
    assert_close(flat[0].view(2, 5).t(), values, "flat values")
    assert_close(flat[1].view(2, 5).t(), log_prob, "flat log_prob")


def test_traces_come_on_request_and_change_nothing() -> None:
    policy = agent(sharing="separate").policy
    obs, starts = th.as_tensor(observations(4, 2)), th.zeros(4, 2, dtype=th.bool)
    actions, states = th.zeros(4, 2, dtype=th.long), policy.initial_states(2)
    plain = policy.evaluate_sequences(obs, actions, states, starts)
    traced = policy.evaluate_sequences(obs, actions, states, starts, return_trace=True)
    assert plain.trace is plain.critic_trace is None
    assert th.equal(plain.values, traced.values)
    assert th.equal(plain.log_prob, traced.log_prob)
    assert traced.trace is not None
    assert traced.critic_trace is not None
    features = policy.extract_features(obs.flatten(0, 1))
    assert isinstance(features, th.Tensor)
    _, _, actor = policy.core(features.view(4, 2, -1), states.pi, starts, return_trace=True)
    assert th.equal(traced.trace.active, actor.active)
    assert not th.equal(traced.trace.active, traced.critic_trace.active)


def test_dropout_is_off_while_acting_and_on_while_learning() -> None:
    model = agent(core_kwargs={**SMALL_RIM, "input_dropout": 0.5, "communication_dropout": 0.5})
    obs = observations(3)
    states = [model.policy.predict(obs, deterministic=True)[1] for _ in range(3)]
    for state in states[1:]:
        assert_states_equal(state, states[0])
    model.learn(48)
    batch = next(model.rollout_buffer.get(16))

    def values() -> th.Tensor:
        return model.policy.evaluate_sequences(
            batch.observations, batch.actions, batch.states, batch.episode_starts
        ).values

    model.policy.set_training_mode(True)
    assert not th.equal(values(), values())
    model.policy.set_training_mode(False)
    assert th.equal(values(), values())


@every_sharing
@every_algorithm
def test_the_initial_state_is_learned(algorithm: Any, sharing: str) -> None:
    """An episode's outcome reaches the learned initial state, of the critic's core too, and moves it."""
    model = algorithm(
        "MlpPolicy",
        short_episodes(3),
        n_steps=16,
        policy_kwargs={"core_kwargs": {**SMALL_RIM, "learn_initial_state": True}, "core_sharing": sharing},
        seed=0,
        device="cpu",
        **({"batch_size": 16, "n_epochs": 2} if algorithm is rimrl.RecurrentPPO else {}),
    )
    cores = [model.policy.core] + ([model.policy.critic_core] if sharing == "separate" else [])
    before = [core.initial_h.detach().clone() for core in cores]
    model.learn(3 * 48)
    for core, start in zip(cores, before, strict=True):
        assert not th.allclose(core.initial_h, start, atol=1e-5)


def test_a_run_in_two_parts_equals_a_run_in_one() -> None:
    """Stopping between rollouts loses nothing: environments, recurrent states and optimiser go on."""
    whole, parts = agent(), agent()
    for model in (whole, parts):
        model.get_env().seed(3)  # type: ignore[union-attr]
        th.manual_seed(3)
        np.random.seed(3)
        if model is whole:
            model.learn(4 * 48)
        else:
            model.learn(48)
            model.learn(3 * 48, reset_num_timesteps=False)
    assert parts.num_timesteps == whole.num_timesteps == 4 * 48
    expected = whole.policy.state_dict()
    for name, value in parts.policy.state_dict().items():
        assert th.equal(value, expected[name]), name


def test_a_fresh_run_starts_fresh_episodes() -> None:
    model = agent()
    model.learn(48)
    model.learn(48)
    assert model.num_timesteps == 48
    assert model.rollout_buffer.episode_starts[0].all()


def test_set_env_goes_on_in_the_new_environment() -> None:
    model = agent()
    model.learn(48)
    env = short_episodes(3)
    model.set_env(env)
    model.learn(48, reset_num_timesteps=False)
    assert model.get_env() is env
    assert model.num_timesteps == 96
    assert model.rollout_buffer.episode_starts[0].all(), "the new environment begins with new episodes"


def test_device_and_single_environment_by_id() -> None:
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        "rimrl/CartPoleNoVelocity-v0",
        n_steps=8,
        batch_size=8,
        policy_kwargs={"core_kwargs": SMALL_RIM},
        device="cpu",
    )
    model.learn(16)
    assert isinstance(model.policy, RecurrentCorePolicy)
    assert model.policy.device == th.device("cpu")
    assert model.n_envs == 1
    assert isinstance(model.policy.initial_states(1), RNNStates)


@every_algorithm
@every_sharing
def test_equal_seeds_give_equal_weights(algorithm: Any, sharing: str) -> None:
    def weights(seed: int) -> dict[str, th.Tensor]:
        model = algorithm(
            "MlpPolicy",
            short_episodes(3),
            n_steps=16,
            sequence_length=8,
            policy_kwargs={"core_kwargs": SMALL_RIM, "core_sharing": sharing},
            seed=seed,
            device="cpu",
            **({"batch_size": 16, "n_epochs": 2} if algorithm is rimrl.RecurrentPPO else {}),
        )
        model.learn(3 * 48)
        state: dict[str, th.Tensor] = model.policy.state_dict()
        return state

    first, second, other = weights(1), weights(1), weights(2)
    assert all(th.equal(first[name], second[name]) for name in first)
    assert not all(th.equal(first[name], other[name]) for name in first)
