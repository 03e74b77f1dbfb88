"""Features that are a set of positions (RIM paper, Eq. 3): the right numbers at the right places, up to the core."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.torch_layers import NatureCNN

import rimrl
from rimrl.agents.extractors import MiniGridExtractor, NatureMap, SmallCNN
from rimrl.envs.vector import make_env, make_vec_env
from rimrl.errors import UsageError

SMALL_RIM: dict[str, Any] = {"num_units": 3, "num_active": 2, "unit_size": 5, "input_key_size": 4}
SPATIAL: dict[str, Any] = {
    "core": "rim",
    "core_kwargs": SMALL_RIM,
    "features_extractor_class": MiniGridExtractor,
    "features_extractor_kwargs": {"positions": True, "tile_channels": 6},
}


def observations(count: int, **env_kwargs: Any) -> dict[str, th.Tensor]:
    env = make_env("distractors", **env_kwargs)
    seen = [env.reset(seed=seed)[0] for seed in range(count)]
    return {key: th.as_tensor(np.stack([obs[key] for obs in seen])).float() for key in seen[0]}


def test_tiles_are_handed_on_one_after_the_other() -> None:
    """The linear layer of the flat form, applied to the positions, gives the flat form's features."""
    space = make_env("distractors").observation_space
    flat, spatial = MiniGridExtractor(space), MiniGridExtractor(space, positions=True)
    spatial.load_state_dict(flat.state_dict(), strict=False)
    obs = observations(4)
    positions = spatial(obs).view(4, 49, 32)
    assert spatial.num_positions == 49
    assert spatial.features_dim == 49 * 32
    channels_first = positions.transpose(1, 2).flatten(1)
    assert th.allclose(flat.read(channels_first).relu(), flat(obs), atol=1e-6)


def test_a_position_sees_its_own_tile_alone() -> None:
    extractor = MiniGridExtractor(make_env("distractors").observation_space, positions=True)
    obs = observations(1)
    changed = {"image": obs["image"].clone(), "mission": obs["mission"]}
    changed["image"][0, 2, 5] = 1.0 - changed["image"][0, 2, 5]
    moved = (extractor(obs) - extractor(changed)).view(49, -1).abs().amax(1) > 0
    assert moved.nonzero().flatten().tolist() == [2 * 7 + 5]


@pytest.mark.parametrize("tiles", ["one_hot", "rgb"])
def test_a_view_of_three_tiles_is_read_at_its_places(tiles: str) -> None:
    env = make_vec_env("memory", n_envs=2, seed=0, tiles=tiles)
    policy = rimrl.RecurrentPPO("MultiInputPolicy", env, n_steps=8, batch_size=16, policy_kwargs=SPATIAL).policy
    assert (policy.core.num_inputs, policy.core.input_size) == (9, 6)
    flat = MiniGridExtractor(policy.observation_space)
    image = th.as_tensor(policy.observation_space["image"].sample()[None]).float()  # type: ignore[index]
    tile = flat.tiles.kernel_size[0]
    assert image.shape[1 if tile == 1 else 2] == 3 * tile
    assert flat.read.in_features == 9 * 32
    assert flat({"image": image}).shape == (1, 128)


def test_the_nature_map_is_what_nature_cnn_flattens() -> None:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    whole, parts = NatureCNN(space), NatureMap(space)
    parts.cnn.load_state_dict(whole.cnn.state_dict())
    images = th.rand(2, 4, 84, 84)
    assert parts.num_positions == 49
    positions = parts(images).view(2, 49, 64)
    assert th.allclose(whole.linear(positions.transpose(1, 2).flatten(1)), whole(images), atol=1e-6)


def test_small_cnn_is_two_convolutions() -> None:
    """Sums over patches again, by hand."""
    extractor = SmallCNN(spaces.Box(0, 255, (1, 42, 42), np.uint8))
    maps = image = np.random.default_rng(0).random((1, 42, 42)).astype(np.float32)
    layers = [module for module in extractor.cnn if isinstance(module, th.nn.Conv2d)]
    for layer, size, stride in zip(layers, (6, 4), (3, 2), strict=True):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()  # type: ignore[union-attr]
        patches = np.lib.stride_tricks.sliding_window_view(maps, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        maps = np.maximum(np.einsum("cyxij,ocij->oyx", patches, weight) + bias[:, None, None], 0)
    assert maps.shape == (32, 5, 5)
    (linear,) = [module for module in extractor.linear if isinstance(module, th.nn.Linear)]
    expected = np.maximum(linear.weight.detach().numpy() @ maps.reshape(-1) + linear.bias.detach().numpy(), 0)
    found = extractor(th.as_tensor(image[None])).detach().numpy()
    np.testing.assert_allclose(found, expected[None], atol=1e-5)


@pytest.mark.parametrize(("size", "features_dim"), [((42, 42), 128), ((21, 25), 128), ((84, 43), 64)])
def test_small_cnn_has_the_width_that_is_asked_for(size: tuple[int, int], features_dim: int) -> None:
    extractor = SmallCNN(spaces.Box(0, 255, (4, *size), np.uint8), features_dim)
    assert extractor.features_dim == features_dim
    assert extractor(th.rand(2, 4, *size)).shape == (2, features_dim)


@pytest.mark.parametrize(
    ("space", "found"),
    [(spaces.Box(0, 255, (4, 16, 42), np.uint8), "21x21.*16x42"), (spaces.Box(-1, 1, (42,)), r"float32 \[42\]")],
)
def test_small_cnn_refuses_what_it_does_not_fit(space: spaces.Space[Any], found: str) -> None:
    with pytest.raises(UsageError, match=f"^SmallCNN needs images.*{found}"):
        SmallCNN(space)


def rooms(tiles: str, count: int) -> tuple[dict[str, th.Tensor], th.Tensor]:
    """First observations of so many rooms, as extractors get them, and the tile that each mission names (49: none)."""
    env: Any = make_env("distractors", tiles=tiles)
    seen, wanted = [], []
    for seed in range(count):
        seen.append(env.reset(seed=seed)[0])
        cells = env.unwrapped.gen_obs()["image"]
        target = (OBJECT_TO_IDX[env.unwrapped.target_type], COLOR_TO_IDX[env.unwrapped.target_color])
        at = np.argwhere((cells[..., 0] == target[0]) & (cells[..., 1] == target[1]))
        wanted.append(int(at[0] @ (7, 1)) if len(at) else 49)
    images = th.as_tensor(np.stack([obs["image"] for obs in seen])).float()
    if tiles == "colors":
        images = images.permute(0, 3, 1, 2) / 255
    return {"image": images, "mission": th.as_tensor(np.stack([obs["mission"] for obs in seen]))}, th.tensor(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("tiles", ["one_hot", "colors"])
def test_the_object_of_the_mission_is_found_in_new_rooms(tiles: str) -> None:
    """Reached: 0.997 with one-hot tiles, 0.988 with colours; 0.78 with colours of evenly stepped brightness."""
    obs, wanted = rooms(tiles, 6000)
    shape, high = ((3, 7, 7), 255) if tiles == "colors" else ((7, 7, 20), 1)
    th.manual_seed(0)
    mission = make_env("distractors").observation_space["mission"]  # type: ignore[index]
    extractor = MiniGridExtractor(spaces.Dict({"image": spaces.Box(0, high, shape, np.uint8), "mission": mission}))
    head = th.nn.Linear(128, 50)
    optimizer = th.optim.Adam([*extractor.parameters(), *head.parameters()], 1.5e-3)
    for _ in range(900):
        batch = th.randint(0, 5000, (256,))
        answers = head(extractor({key: value[batch] for key, value in obs.items()}))
        optimizer.zero_grad()
        th.nn.functional.cross_entropy(answers, wanted[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with th.no_grad():
        answers = head(extractor({key: value[5000:] for key, value in obs.items()})).argmax(1)
    assert (answers == wanted[5000:]).float().mean() > 0.95


@pytest.mark.parametrize("sharing", ["shared", "separate", "actor_only"])
def test_the_core_reads_every_position(sharing: str) -> None:
    env = make_vec_env("distractors", n_envs=3, seed=0)
    options = {**SPATIAL, "core_sharing": sharing}
    policy = rimrl.RecurrentPPO("MultiInputPolicy", env, n_steps=8, batch_size=24, policy_kwargs=options).policy
    assert (policy.core.num_inputs, policy.core.input_size) == (49, 6)
    obs = observations(5)
    starts = th.tensor([[1.0], [0], [1], [0], [0]])
    states = policy.initial_states(1)
    whole = policy.evaluate_sequences(
        {key: value.unsqueeze(1) for key, value in obs.items()}, th.zeros(5, 1), states, starts, return_trace=True
    )
    assert whole.trace is not None
    assert whole.trace.input_attention is not None
    assert whole.trace.input_attention.shape == (5, 1, 3, 50)
    for t in range(5):
        one = {key: value[t : t + 1] for key, value in obs.items()}
        values = policy.predict_values(one, states.vf, starts[t])
        distribution, _ = policy.get_distribution(one, states.pi, starts[t])
        _, acted, _, states = policy(one, states, starts[t], deterministic=True)
        assert th.allclose(values, acted)
        assert th.allclose(values[0, 0], whole.values[t, 0], atol=1e-6)
        assert th.allclose(distribution.log_prob(th.zeros(1))[0], whole.log_prob[t, 0], atol=1e-6)


def test_plain_contrib_reads_positions_too() -> None:
    """contrib's flat batches and rimrl's sequences are the same numbers."""
    env = make_vec_env("distractors", n_envs=2, seed=0)
    policy = ContribRecurrentPPO(
        rimrl.MultiInputRecurrentCorePolicy, env, n_steps=4, batch_size=8, policy_kwargs=SPATIAL
    ).policy
    assert isinstance(policy, rimrl.RecurrentCorePolicy)
    obs, states = observations(6), policy.initial_states(2)
    values, log_prob, _ = policy.evaluate_actions(obs, th.zeros(6), states, th.zeros(6))  # 2 sequences of 3 steps
    sequences = {key: value.view(2, 3, *value.shape[1:]).transpose(0, 1) for key, value in obs.items()}
    expected = policy.evaluate_sequences(sequences, th.zeros(3, 2), states, th.zeros(3, 2))
    assert th.allclose(values.view(2, 3).T, expected.values, atol=1e-6)
    assert th.allclose(log_prob.view(2, 3).T, expected.log_prob, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"core": "lstm", "core_kwargs": {}}, ["'lstm'", "without positions", "49 positions", "'rim'"]),
        ({"core_kwargs": {**SMALL_RIM, "num_inputs": 7}}, ["num_inputs", "49, the positions", "got 7"]),
        (
            {"features_extractor_kwargs": {}, "core_kwargs": {**SMALL_RIM, "num_inputs": 7}},
            ["num_inputs", "1, the positions", "got 7"],
        ),
    ],
)
def test_positions_and_cores_that_do_not_fit(changed: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        rimrl.RecurrentPPO("MultiInputPolicy", make_vec_env("distractors"), policy_kwargs={**SPATIAL, **changed})
    for words in named:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
