"""Every kind of observation and action that Stable-Baselines3 knows, and the wrappers around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

import rimrl
from tests.sb3.helpers import (
    ACTION_SPACES,
    OBSERVATION_SPACES,
    SMALL_RIM,
    ShortEpisodes,
    assert_close,
    check_rollouts,
    randomize,
    short_episodes,
)

OBSERVATIONS: dict[str, tuple[str, spaces.Space[Any]]] = {
    **{name: (policy, OBSERVATION_SPACES[name]) for name, policy in (("vector", "MlpPolicy"), ("image", "CnnPolicy"))},
    "double": ("MlpPolicy", spaces.Box(-1.0, 1.0, (3,), np.float64)),
    "matrix": ("MlpPolicy", spaces.Box(-1.0, 1.0, (2, 3), np.float32)),
    "number": ("MlpPolicy", spaces.Discrete(5)),
    "numbers": ("MlpPolicy", spaces.MultiDiscrete([3, 4])),
    "bits": ("MlpPolicy", spaces.MultiBinary(4)),
    "dict": ("MultiInputPolicy", OBSERVATION_SPACES["dict"]),
    "dict with an image": (
        "MultiInputPolicy",
        spaces.Dict({"image": spaces.Box(0, 255, (36, 36, 3), np.uint8), "place": spaces.Box(-1.0, 1.0, (2,))}),
    ),
}

ACTIONS: dict[str, spaces.Space[Any]] = {
    **ACTION_SPACES,
    "multi_binary": spaces.MultiBinary(3),
    "wide_box": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 9.0], np.float32)),
    "double_box": spaces.Box(-1.0, 1.0, (2,), np.float64),
    "integer_box": spaces.Box(-5, 5, (2,), np.int32),
    "matrix_box": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
}


def build(
    env: Any,
    policy: str = "MlpPolicy",
    algorithm: type[rimrl.RecurrentPPO | rimrl.RecurrentA2C] = rimrl.RecurrentPPO,
    sharing: str = "shared",
    **options: Any,
) -> Any:
    """A small RIM agent with weights of some size."""
    if algorithm is rimrl.RecurrentPPO:
        options = {"batch_size": 16, "n_epochs": 2, **options}
    policy_kwargs = {"core_kwargs": SMALL_RIM, "core_sharing": sharing, **options.pop("policy_kwargs", {})}
    return algorithm(
        policy,
        env,
        n_steps=16,
        sequence_length=8,
        policy_kwargs=policy_kwargs,
        seed=0,
        device="cpu",
        **options,
    )


def weights(model: Any) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_learns_and_acts(model: Any) -> None:
    """An update moves finite weights, and `predict` gives actions of the space for a batch and for one observation."""
    before = weights(model)
    model.learn(2 * model.n_steps * model.n_envs)
    after = weights(model)
    assert all(bool(th.isfinite(value).all()) for value in after.values())
    assert any(not th.equal(after[name], before[name]) for name in before)

    env = model.get_env()
    obs = env.reset()
    actions, state = model.predict(obs, episode_start=np.ones(env.num_envs, bool), deterministic=True)
    assert actions.shape == (env.num_envs, *model.action_space.shape)
    for action in actions:
        assert model.action_space.contains(action.astype(model.action_space.dtype))
    one = {key: value[0] for key, value in obs.items()} if isinstance(obs, dict) else obs[0]
    single, single_state = model.predict(one, deterministic=True)
    np.testing.assert_allclose(single, actions[0], atol=1e-5)
    for part, whole in zip(single_state, state, strict=True):
        assert_close(part[:, 0], whole[:, 0], "state", 1e-5)


@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_observations(observations: str) -> None:
    policy, space = OBSERVATIONS[observations]
    model = build(short_episodes(3, observation_space=space), policy)
    check_rollouts(model)
    assert_learns_and_acts(model)


@pytest.mark.parametrize("algorithm", [rimrl.RecurrentPPO, rimrl.RecurrentA2C])
@pytest.mark.parametrize("actions", ACTIONS)
def test_actions(actions: str, algorithm: type[rimrl.RecurrentPPO | rimrl.RecurrentA2C]) -> None:
    model = build(short_episodes(3, ACTIONS[actions]), algorithm=algorithm)
    check_rollouts(model)
    assert_learns_and_acts(model)


@pytest.mark.parametrize("sharing", ["separate", "actor_only"])
@pytest.mark.parametrize("share_features_extractor", [True, False])
def test_dict_observations_with_other_sharings(sharing: str, share_features_extractor: bool) -> None:
    policy, space = OBSERVATIONS["dict with an image"]
    model = build(
        short_episodes(3, observation_space=space),
        policy,
        sharing=sharing,
        policy_kwargs={"share_features_extractor": share_features_extractor},
    )
    check_rollouts(model)
    assert_learns_and_acts(model)


def test_unequal_extractors_feed_actor_and_critic() -> None:
    """With extractors of their own, the critic's must not change what the actor does, nor the other way round."""
    model = build(
        short_episodes(3, observation_space=OBSERVATIONS["image"][1]),
        "CnnPolicy",
        sharing="separate",
        policy_kwargs={"share_features_extractor": False},
    )
    randomize(model.policy, scale=0.1)
    obs, _ = model.policy.obs_to_tensor(model.get_env().reset())
    states, starts = model.policy.initial_states(3), th.ones(3)

    def outputs() -> tuple[th.Tensor, th.Tensor]:
        th.manual_seed(0)
        _, values, log_prob, _ = model.policy(obs, states, starts)
        return values.detach(), log_prob.detach()

    values, log_prob = outputs()
    randomize(model.policy.vf_features_extractor, seed=9, scale=0.1)
    new_values, new_log_prob = outputs()
    assert th.equal(new_log_prob, log_prob)
    assert not th.allclose(new_values, values)
    randomize(model.policy.pi_features_extractor, seed=10, scale=0.1)
    newer_values, newer_log_prob = outputs()
    assert th.equal(newer_values, new_values)
    assert not th.allclose(newer_log_prob, new_log_prob)


# -- images -----------------------------------------------------------------------------------------------------------


def test_images_are_stored_as_bytes_channels_first_and_scaled_once() -> None:
    model = build(short_episodes(3, observation_space=OBSERVATIONS["image"][1]), "CnnPolicy")
    assert isinstance(model.get_env(), VecTransposeImage)
    randomize(model.policy, scale=0.1)
    check_rollouts(model, rollouts=1)
    stored = model.rollout_buffer.observations
    assert stored.dtype == np.uint8
    assert stored.shape == (16, 3, 3, 36, 36)
    assert stored.max() > 200

    last, _ = model.policy.obs_to_tensor(stored[0])
    expected = model.policy.features_extractor(last.float() / 255.0)
    assert_close(model.policy.extract_features(last), expected, "features")


def test_predict_takes_images_as_the_environment_gives_them() -> None:
    model = build(short_episodes(3, observation_space=OBSERVATIONS["image"][1]), "CnnPolicy")
    randomize(model.policy, scale=0.1)
    image = OBSERVATIONS["image"][1].sample()
    as_given, state = model.predict(image, deterministic=True)
    turned, turned_state = model.predict(image.transpose(2, 0, 1), deterministic=True)
    assert as_given == turned
    np.testing.assert_array_equal(state[0], turned_state[0])


def test_stacked_frames() -> None:
    env = VecFrameStack(short_episodes(2, observation_space=spaces.Box(0, 255, (36, 36, 1), np.uint8)), 4)
    model = build(env, "CnnPolicy")
    check_rollouts(model, rollouts=1)
    assert model.rollout_buffer.observations.shape == (16, 2, 4, 36, 36)
    assert_learns_and_acts(model)


# -- VecNormalize -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float", "byte"])
def test_vec_normalize(kind: str) -> None:
    """What is stored is what the policy saw: normalised numbers, whatever the dtype of the raw ones."""
    space = spaces.Box(0, 255, (5,), np.uint8) if kind == "byte" else spaces.Box(-9.0, 9.0, (5,), np.float32)
    env = VecNormalize(short_episodes(3, observation_space=space))
    model = build(env)
    check_rollouts(model)
    assert_learns_and_acts(model)


def test_vec_normalize_of_a_dict() -> None:
    space = spaces.Dict({"place": spaces.Box(-9.0, 9.0, (3,)), "pixels": spaces.Box(0, 255, (36, 36, 3), np.uint8)})
    env = VecNormalize(short_episodes(3, observation_space=space), norm_obs_keys=["place"])
    model = build(env, "MultiInputPolicy")
    check_rollouts(model)
    assert_learns_and_acts(model)
    assert model.rollout_buffer.observations["pixels"].dtype == np.uint8


# -- actions ----------------------------------------------------------------------------------------------------------


class _Recorder(ShortEpisodes):
    """Keeps the actions it gets."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        super().__init__(action_space)
        self.received: list[NDArray[Any]] = []

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.received.append(np.array(action))
        return super().step(action)


def recorded(**options: Any) -> tuple[Any, NDArray[Any], NDArray[Any]]:
    """A rollout over a Box from -2 to 3 and 0 to 9: the model, the actions stored and the actions that arrived."""
    recorder = _Recorder(ACTIONS["wide_box"])
    model = build(DummyVecEnv([lambda: recorder]), **options)
    randomize(model.policy, scale=0.5)
    with th.no_grad():
        model.policy.action_net.bias.zero_()
        if not model.use_sde:
            model.policy.log_std.fill_(2.0)
    check_rollouts(model, rollouts=1, tol=1e-4)
    return model, model.rollout_buffer.actions[:, 0], np.stack(recorder.received)


def test_gaussian_actions_are_clipped_for_the_environment_alone() -> None:
    _, stored, received = recorded()
    low, high = ACTIONS["wide_box"].low, ACTIONS["wide_box"].high  # type: ignore[attr-defined]
    np.testing.assert_allclose(received, np.clip(stored, low, high), rtol=1e-6)
    assert (stored < low).any()
    assert (stored > high).any()


def test_squashed_actions_are_stretched_to_the_space() -> None:
    model, stored, received = recorded(use_sde=True, policy_kwargs={"squash_output": True})
    assert (np.abs(stored) <= 1.0).all()
    low, high = ACTIONS["wide_box"].low, ACTIONS["wide_box"].high  # type: ignore[attr-defined]
    np.testing.assert_allclose(received, low + (stored + 1.0) / 2.0 * (high - low), rtol=1e-5, atol=1e-5)
    obs = np.zeros(3, np.float32)
    squashed = model.policy.get_distribution(th.zeros(1, 3), model.policy.initial_states(1).pi, th.ones(1))[
        0
    ].get_actions(deterministic=True)
    expected = low + (squashed[0].detach().numpy() + 1.0) / 2.0 * (high - low)
    np.testing.assert_allclose(model.predict(obs, deterministic=True)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("sde_sample_freq", [-1, 4])
@pytest.mark.parametrize("squash_output", [False, True])
@pytest.mark.parametrize("algorithm", [rimrl.RecurrentPPO, rimrl.RecurrentA2C])
def test_state_dependent_exploration(
    sde_sample_freq: int, squash_output: bool, algorithm: type[rimrl.RecurrentPPO | rimrl.RecurrentA2C]
) -> None:
    model = build(
        short_episodes(3, ACTION_SPACES["box"]),
        algorithm=algorithm,
        use_sde=True,
        sde_sample_freq=sde_sample_freq,
        policy_kwargs={"squash_output": squash_output, "log_std_init": -1.0},
    )
    check_rollouts(model, tol=1e-4)
    assert_learns_and_acts(model)


@pytest.mark.parametrize(("sde_sample_freq", "samples"), [(-1, 1), (4, 1 + 4)])
def test_exploration_noise_is_drawn_as_often_as_asked(
    sde_sample_freq: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(short_episodes(3, ACTION_SPACES["box"]), use_sde=True, sde_sample_freq=sde_sample_freq)
    drawn: list[int] = []
    reset_noise = model.policy.reset_noise

    def spy(n_envs: int) -> None:
        drawn.append(n_envs)
        reset_noise(n_envs)

    monkeypatch.setattr(model.policy, "reset_noise", spy)
    check_rollouts(model, rollouts=1)
    assert drawn == [3] * samples
