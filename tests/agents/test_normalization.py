"""Observations are normalised as Stable-Baselines3 does it, wherever the agent goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

import rimrl
from rimrl.agents.extractors import SmallCNN
from rimrl.agents.normalization import ObservationStatistics, RunningPixelMoments
from rimrl.agents.saved.exported import write_exported
from rimrl.agents.transfer import initialize_from
from rimrl.errors import UsageError
from tests.sb3.helpers import SMALL_RIM, check_rollouts, short_episodes

N_STEPS, N_ENVS = 8, 3
OFFSET, SCALE = np.array([1000.0, -3.0, 0.0]), np.array([50.0, 0.1, 1.0])
MIXED = spaces.Dict(
    {
        "place": spaces.Box(-1.0, 1.0, (3,), np.float32),
        "grid": spaces.Box(0.0, 1.0, (4, 4, 2), np.float32),
        "kind": spaces.Discrete(4),
        "previous_reward": spaces.Box(-1.0, 1.0, (1,), np.float32),
    }
)


def wide() -> spaces.Box:
    low, high = (OFFSET - SCALE).astype(np.float32), (OFFSET + SCALE).astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def _policy_for(space: spaces.Space[Any] | None) -> str:
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if space is not None and is_image_space(space) else "MlpPolicy"


def agent(algorithm: Any = rimrl.RecurrentPPO, space: spaces.Space[Any] | None = None, **policy_kwargs: Any) -> Any:
    options = {"batch_size": N_STEPS * N_ENVS, "n_epochs": 2} if algorithm is rimrl.RecurrentPPO else {}
    return algorithm(
        _policy_for(space),
        short_episodes(N_ENVS, observation_space=space or wide()),
        n_steps=N_STEPS,
        policy_kwargs={"core_kwargs": SMALL_RIM, "net_arch": [6], "normalize_observations": True} | policy_kwargs,
        seed=0,
        device="cpu",
        **options,
    )


def seen_by(model: Any) -> list[NDArray[Any]]:
    """Observations of every rollout from now on."""
    seen, train = [], model.train

    def noted() -> None:
        seen.append(np.array(model.rollout_buffer.observations).reshape(-1, 3))
        train()

    model.train = noted
    return seen


@pytest.mark.parametrize("algorithm", [rimrl.RecurrentPPO, rimrl.RecurrentA2C], ids=["ppo", "a2c"])
def test_statistics_are_stable_baselines(algorithm: Any) -> None:
    model = agent(algorithm)
    seen = seen_by(model)
    model.learn(3 * N_STEPS * N_ENVS)
    expected = RunningMeanStd(shape=(3,))
    for rollout in seen:
        expected.update(rollout.astype(np.float64))
    assert len(seen) == 3
    part = model.policy.observation_statistics.parts[0]
    np.testing.assert_allclose(part.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(part.var, expected.var, rtol=1e-10)
    np.testing.assert_allclose(part.count, expected.count, rtol=1e-12)
    # And what the extractor gets is what VecNormalize would have given it.
    twin = VecNormalize(short_episodes(1, observation_space=wide()), training=False)
    twin.obs_rms = expected  # type: ignore[assignment]
    observations = np.concatenate([seen[-1][:5], OFFSET[None] * 1e6]).astype(np.float32)
    given = model.policy._prepare(th.as_tensor(observations))
    np.testing.assert_allclose(given, np.asarray(twin.normalize_obs(observations)), rtol=1e-6, atol=1e-6)
    assert given.dtype == th.float32
    assert float(given.max()) == 10.0


def test_an_update_sees_what_the_rollout_saw() -> None:
    model = agent()
    model.learn(2 * N_STEPS * N_ENVS)
    part = model.policy.observation_statistics.parts[0]
    before = part.mean.clone()
    check_rollouts(model)
    assert th.equal(part.mean, before)  # only an update brings them up to date
    model.predict(np.zeros((4, 3), np.float32))
    assert th.equal(part.mean, before)


def test_each_pixel_of_an_image_has_statistics_of_its_own() -> None:
    shape, rng = (4, 21, 21), np.random.default_rng(0)
    statistics = ObservationStatistics(spaces.Box(0, 255, shape, np.uint8))
    frames = rng.integers(0, 256, (150, 4, *shape), dtype=np.uint8)  # more than are taken in at once
    frames[..., :5, :] = 87  # what never changes
    first = th.as_tensor(frames[0])
    np.testing.assert_allclose(statistics.normalized(None, first), frames[0] / 255, atol=1e-5)
    statistics.update(th.as_tensor(frames), lambda own: own)
    flat = frames.reshape(-1, *shape).astype(np.float64)
    normalized = statistics.normalized(None, first)
    assert normalized.dtype == th.float32
    np.testing.assert_allclose(
        normalized, (frames[0] - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + 1), rtol=1e-3, atol=1e-3
    )
    assert float(normalized[..., :5, :].abs().max()) < 1e-3
    # One grey level more, where there was never any, counts for one deviation; many of them are clipped.
    other = first.clone()
    other[..., 0, 0], other[..., 0, 1] = 88, 200
    np.testing.assert_allclose(statistics.normalized(None, other)[..., 0, :2], [[[1.0, 10.0]] * 4] * 4, atol=1e-2)


def test_a_blank_screen_is_zero_and_changes_nothing() -> None:
    shape, rng = (2, 6, 7), np.random.default_rng(0)
    frames = rng.integers(1, 256, (40, 10, *shape), dtype=np.uint8)
    frames[rng.random((40, 10)) < 0.5, 0] = 0
    frames[rng.random((40, 10)) < 0.9, 1] = 0  # of a stack, one screen may be blank and another not
    statistics = ObservationStatistics(spaces.Box(0, 255, shape, np.uint8))
    statistics.update(th.zeros((3, 2, *shape), dtype=th.uint8), lambda own: own)  # nothing to be seen yet
    np.testing.assert_allclose(statistics.normalized(None, th.as_tensor(frames[0])), frames[0] / 255, atol=1e-5)
    for rollout in np.split(frames, 4):
        statistics.update(th.as_tensor(rollout), lambda own: own)
    flat, part = frames.reshape(-1, *shape).astype(np.float64), statistics.parts[0]
    assert isinstance(part, RunningPixelMoments)
    normalized = statistics.normalized(None, th.as_tensor(frames[0])).numpy()
    for channel in range(2):
        of_channel = flat[:, channel]
        seen = of_channel[of_channel.any(axis=(1, 2))]
        assert float(part.count[channel]) == pytest.approx(len(seen), abs=1e-3)
        np.testing.assert_allclose(part.mean[channel], seen.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(part.var[channel], seen.var(axis=0), rtol=1e-2)
        blank = ~frames[0, :, channel].any(axis=(1, 2))
        assert blank.any()
        assert not normalized[blank, channel].any()
        assert normalized[~blank, channel].any(axis=(1, 2)).all()


def test_ranks_put_their_images_together() -> None:
    space = spaces.Box(0, 255, (1, 4, 5), np.uint8)
    one, other, both = (ObservationStatistics(space) for _ in range(3))
    frames = th.randint(0, 256, (8, 4, 1, 4, 5), dtype=th.uint8)
    frames[:, 1] = 0
    rows: list[th.Tensor] = []
    other.update(frames[:, 2:], lambda own: rows.append(own) or own)  # type: ignore[func-returns-value]
    one.update(frames[:, :2], lambda own: th.cat([own, *rows]))
    both.update(frames, lambda own: own)
    for name in ("mean", "var", "count"):
        np.testing.assert_allclose(getattr(one.parts[0], name), getattr(both.parts[0], name), rtol=1e-10)


def test_images_follow_the_new_environment() -> None:
    space = spaces.Box(0, 255, (24, 24, 1), np.uint8)
    source = agent(space=space, features_extractor_class=SmallCNN)
    source.learn(N_STEPS * N_ENVS)
    part = source.policy.observation_statistics.parts[0]
    part.count.fill_(1e6)
    for trunk in ("learned", "frozen", "progressive"):
        target = agent(space=space, features_extractor_class=SmallCNN, trunk=trunk)
        initialize_from(target.policy, source.policy)
        own = target.policy.observation_statistics.parts[0]
        assert th.equal(own.mean, part.mean)
        target.policy.observation_statistics.update(th.full((100, 100, 1, 24, 24), 7, dtype=th.uint8), lambda own: own)
        share = 10_000 / 11_000
        np.testing.assert_allclose(own.mean, (1 - share) * part.mean + share * 7, rtol=1e-6)


def test_an_agent_sees_normalised_frames() -> None:
    space = spaces.Box(0, 255, (24, 24, 1), np.uint8)
    model = agent(space=space, features_extractor_class=SmallCNN)
    model.learn(2 * N_STEPS * N_ENVS)
    part, policy = model.policy.observation_statistics.parts[0], model.policy
    assert tuple(part.mean.shape) == (1, 24, 24)
    assert float(part.count) > 2 * N_STEPS * N_ENVS
    frames = th.randint(0, 256, (5, 1, 24, 24), dtype=th.uint8)
    expected = (frames - part.mean) / (part.var + 1).sqrt()
    np.testing.assert_allclose(policy._prepare(frames), expected.clamp(-10, 10), rtol=1e-5, atol=1e-5)
    check_rollouts(model)


def test_maps_and_choices_are_not_normalised() -> None:
    assert ObservationStatistics(MIXED).keys == ["place"]
    model = agent(space=MIXED)
    model.learn(N_STEPS * N_ENVS)
    assert float(model.policy.observation_statistics.parts[0].count) > N_STEPS * N_ENVS


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.Box(0.0, 1.0, (4, 4, 2), np.float32)], ids=["choice", "map"]
)
def test_nothing_to_normalise_is_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(UsageError, match=r"normalize_observations.*vectors"):
        ObservationStatistics(space)


def test_without_it_nothing_is_there() -> None:
    model = agent(normalize_observations=False)
    assert model.policy.observation_statistics is None
    assert not [name for name in model.policy.state_dict() if "statistics" in name]


@pytest.fixture
def trained() -> Any:
    model = agent()
    model.learn(3 * N_STEPS * N_ENVS)
    return model


def answers(model: Any) -> NDArray[Any]:
    """Values of a few observations, which unnormalised ones would change."""
    obs = th.as_tensor((OFFSET + SCALE * np.linspace(-1, 1, 5)[:, None]).astype(np.float32))
    state = model.policy.initial_states(5)
    with th.no_grad():
        values: NDArray[Any] = model.policy.predict_values(obs, state.vf, th.zeros(5)).numpy()
    return values


def test_it_goes_wherever_the_agent_goes(trained: Any, tmp_path: Path) -> None:
    expected = answers(trained)
    trained.save(tmp_path / "model.zip")
    (tmp_path / "exported").mkdir()
    write_exported(trained, tmp_path / "exported", {})
    for found in (
        rimrl.load(tmp_path / "model.zip"),
        rimrl.load(tmp_path / "exported"),
        ContribRecurrentPPO.load(tmp_path / "model.zip"),
    ):
        np.testing.assert_array_equal(answers(found), expected)
    unlike = rimrl.load(tmp_path / "model.zip")
    statistics = unlike.policy.observation_statistics
    assert statistics is not None
    statistics.get_buffer("parts.0.mean").zero_()
    assert np.abs(answers(unlike) - expected).max() > 1e-3


@pytest.mark.parametrize(("trunk", "stays"), [("learned", False), ("frozen", True), ("progressive", True)])
def test_transfer_takes_it_over(trained: Any, trunk: str, stays: bool) -> None:
    target = agent(trunk=trunk)
    initialize_from(target.policy, trained.policy)
    part = target.policy.observation_statistics.parts[0]
    source = trained.policy.observation_statistics.parts[0]
    assert th.equal(part.mean, source.mean)
    target.learn(N_STEPS * N_ENVS)
    assert th.equal(part.mean, source.mean) is stays


@pytest.mark.parametrize("normalized", [True, False])
def test_transfer_refuses_what_was_trained_otherwise(trained: Any, normalized: bool) -> None:
    plain = agent(normalize_observations=False)
    one, other = (trained, plain) if normalized else (plain, trained)
    with pytest.raises(UsageError, match=f"was trained {'with' if normalized else 'without'} normalize_observations"):
        initialize_from(other.policy, one.policy)
