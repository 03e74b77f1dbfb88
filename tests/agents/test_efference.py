"""Features with the previous action and reward beside them, up to a saved agent in plain sb3-contrib."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecEnv

import rimrl
from rimrl.agents.extractors import COPIES, EfferenceExtractor, MiniGridExtractor, NatureMap
from rimrl.agents.precision import has_bf16
from rimrl.envs.efference import OBSERVATION, PREVIOUS_ACTION, PREVIOUS_REWARD, ActionEncoding, VecEfferenceCopies
from rimrl.envs.efference import with_copies as space_with_copies
from rimrl.envs.vector import make_env, make_vec_env
from rimrl.errors import UsageError
from tests.sb3.helpers import OBSERVATION_SPACES, SMALL_RIM, check_rollouts, randomize, short_episodes

MINIGRID = make_env("distractors").observation_space
FRAMES = spaces.Box(0, 255, (4, 40, 44), np.uint8)
# Observation, action, extractor and its options.
KINDS: dict[str, tuple[spaces.Space[Any], spaces.Space[Any], type[Any] | None, dict[str, Any]]] = {
    "vector": (OBSERVATION_SPACES["vector"], spaces.Discrete(3), None, {}),
    "number": (spaces.Discrete(5), spaces.MultiDiscrete([2, 3]), None, {}),
    "dict": (OBSERVATION_SPACES["dict"], spaces.Box(-1.0, 1.0, (2,)), None, {}),
    "frames": (FRAMES, spaces.Discrete(6), None, {"features_dim": 20}),
    "picture": (OBSERVATION_SPACES["image"], spaces.MultiBinary(3), None, {}),
    "minigrid": (MINIGRID, spaces.Discrete(4), MiniGridExtractor, {"features_dim": 12}),
    "map": (FRAMES, spaces.Discrete(6), NatureMap, {}),
    "tiles": (MINIGRID, spaces.Discrete(4), MiniGridExtractor, {"positions": True, "tile_channels": 6}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def copying(kind: str, n_envs: int = 3) -> VecEnv:
    observation, action, _, _ = KINDS[kind]
    return VecEfferenceCopies(short_episodes(n_envs, action, observation))


def policy_kwargs(kind: str) -> dict[str, Any]:
    _, _, inner, options = KINDS[kind]
    return {
        "features_extractor_class": EfferenceExtractor,
        "features_extractor_kwargs": {"extractor_class": inner, "extractor_kwargs": options},
        "core_kwargs": SMALL_RIM,
        "net_arch": [],
    }


def agent(kind: str, **options: Any) -> rimrl.RecurrentPPO:
    return rimrl.RecurrentPPO(
        "MultiInputPolicy",
        copying(kind),
        n_steps=16,
        sequence_length=8,
        batch_size=16,
        n_epochs=1,
        policy_kwargs=policy_kwargs(kind),
        seed=0,
        device="cpu",
        **options,
    )


def test_both_sides_mean_the_same_keys() -> None:
    """Agents do not import environments: the names are written down twice."""
    assert (PREVIOUS_ACTION, PREVIOUS_REWARD) == COPIES
    alone = space_with_copies(OBSERVATION_SPACES["vector"], ActionEncoding(spaces.Discrete(3)).space)
    assert alone.spaces.keys() == {OBSERVATION, *COPIES}
    assert isinstance(EfferenceExtractor(alone).extractor, FlattenExtractor)


@every_kind
def test_copies_are_appended_to_the_features_of_the_observation(kind: str) -> None:
    """The inner extractor, asked alone, gives the first features; the others are the copies, or their one element."""
    space = agent(kind).observation_space  # images turned as the policy sees them
    extractor = EfferenceExtractor(space, *KINDS[kind][2:])
    expected_class = KINDS[kind][2] or {"dict": CombinedExtractor, "frames": NatureCNN, "picture": NatureCNN}.get(
        kind, FlattenExtractor
    )
    assert type(extractor.extractor) is expected_class
    assert isinstance(space, spaces.Dict)
    prepared: Any = {}
    for key, part in space.spaces.items():
        part.seed(0)
        drawn = th.stack([th.as_tensor(part.sample()).float() for _ in range(5)])
        prepared[key] = (
            th.nn.functional.one_hot(drawn.long(), 5).float() if isinstance(part, spaces.Discrete) else drawn
        )
    if kind == "dict":
        prepared["kind"] = prepared["kind"][:, :4]
    features = extractor(prepared)
    assert features.shape == (5, extractor.features_dim)
    rest = {key: value for key, value in prepared.items() if key not in COPIES}
    alone = extractor.extractor(rest["observation"] if set(rest) == {"observation"} else rest)
    copies = th.cat([prepared["previous_action"], prepared["previous_reward"]], dim=1)
    split = alone.shape[1]
    assert th.equal(features[:, :split], alone)
    if extractor.element is None:
        assert extractor.num_positions == 1
        assert th.equal(features[:, split:], copies)
    else:
        assert kind in ("map", "tiles")
        positions: Any = extractor.extractor.num_positions
        assert extractor.num_positions == positions + 1
        assert th.equal(features[:, split:], extractor.element(copies))
        assert features.shape[1] == (positions + 1) * (split // positions)


@pytest.mark.parametrize("kind", ["map", "tiles"])
def test_the_copies_are_one_more_element_of_a_set(kind: str) -> None:
    policy = agent(kind).policy
    randomize(policy, scale=0.1)
    positions = {"map": 2, "tiles": 49}[kind]
    obs: Any = copying(kind).reset()
    rng, starts = np.random.default_rng(0), np.zeros(3)
    state = tuple(rng.normal(size=part.shape).astype(np.float32) for part in policy.initial_states(3).pi)
    before = policy.trace(obs, state, starts).input_attention
    assert before is not None
    assert before.shape == (1, 3, 4, 1 + positions + 1)  # null, positions, copies
    obs["previous_reward"] = obs["previous_reward"] + 3.0
    after = policy.trace(obs, state, starts).input_attention
    assert after is not None
    ratio = after / before
    # A softmax over the elements: one score that moves changes the shares of the others by one common factor.
    assert th.allclose(ratio[..., :-1], ratio[..., :1].expand_as(ratio[..., :-1]), rtol=1e-3)
    assert not th.allclose(ratio[..., -1], ratio[..., 0], rtol=1e-2)


@every_kind
def test_what_is_stored_is_what_the_policy_saw(kind: str) -> None:
    model = agent(kind)
    randomize(model.policy, scale=0.1)
    check_rollouts(model, rollouts=2, tol=1e-4)
    stored = model.rollout_buffer.observations
    assert isinstance(stored, dict)
    if kind in ("frames", "picture", "map"):
        assert stored["observation"].dtype == np.uint8
    started = model.rollout_buffer.episode_starts.astype(bool)
    assert not stored["previous_action"][started].any()
    assert not stored["previous_reward"][started].any()
    # Row t + 1 holds the action and reward of row t, but where an episode began in between.
    rewards = stored["previous_reward"][1:, :, 0]
    went_on = ~started[1:]
    np.testing.assert_array_equal(rewards[went_on], model.rollout_buffer.rewards[:-1][went_on])


@pytest.mark.skipif(not has_bf16(th.device("cpu")), reason="no bfloat16 on this processor")
def test_the_copies_keep_their_precision_under_autocast() -> None:
    """bfloat16 has 8 bits: a reward of 1 + 2^-10 would come out as 1."""
    model = agent("frames", autocast="bf16")
    obs: Any = copying("frames").reset()
    obs["previous_reward"] = np.full((3, 1), 1 + 2**-10, dtype=np.float32)
    features = model.policy.extract_features(model.policy.obs_to_tensor(obs)[0])
    assert isinstance(features, th.Tensor)
    assert features.dtype == th.float32
    assert th.equal(features[:, -1], th.full((3,), 1 + 2**-10))
    exact = agent("frames").policy
    exact.load_state_dict(model.policy.state_dict())
    expected = exact.extract_features(exact.obs_to_tensor(obs)[0])
    assert isinstance(expected, th.Tensor)
    assert 0 < (features - expected).abs().max() < 0.05
    model.learn(48)


LOAD_AND_ACT = """
import sys
import numpy as np
from sb3_contrib import RecurrentPPO
for kind in sys.argv[1:]:
    model = RecurrentPPO.load(f"{kind}.zip", device="cpu")
    actions, _ = model.predict(dict(np.load(f"{kind}.npz")), deterministic=True)
    print(type(model).__module__, actions.tolist())
"""


def test_saved_agents_act_the_same_in_plain_contrib_that_never_imported_rimrl(tmp_path: Path) -> None:
    kinds, expected = ["minigrid", "tiles", "frames", "map"], []
    for kind in kinds:
        model = agent(kind)
        randomize(model.policy, scale=0.2)
        model.save(tmp_path / f"{kind}.zip")
        observation: Any = copying(kind, 8).reset()
        observation["previous_reward"] += 0.5
        np.savez(tmp_path / f"{kind}.npz", **observation)
        actions, _ = model.predict(observation, deterministic=True)
        again = rimrl.load(tmp_path / f"{kind}.zip", device="cpu")
        np.testing.assert_array_equal(again.predict(observation, deterministic=True)[0], actions)
        expected.append(f"sb3_contrib.ppo_recurrent.ppo_recurrent {actions.tolist()}")
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_ACT, *kinds], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == expected


def test_contribs_own_policy_reads_them_as_they_are() -> None:
    env = make_vec_env("rimrl/Bandit-v0", n_envs=2, seed=0, efference_copies=True)
    ContribRecurrentPPO("MultiInputLstmPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(16)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (
            lambda: MiniGridExtractor(make_env("distractors", efference_copies=True).observation_space),
            ["'previous_action'", "EfferenceExtractor"],
        ),
        (lambda: EfferenceExtractor(MINIGRID), ["previous_action and previous_reward", "efference_copies=True"]),
        (lambda: EfferenceExtractor(FRAMES), ["EfferenceExtractor needs a Dict", "efference_copies=True"]),
        (
            lambda: MiniGridExtractor(spaces.Dict({"image": spaces.Box(0, 255, (3, 28, 28), np.uint8)})),
            ["28x28", "tiles of 8x8", "tile_pixels"],
        ),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, named: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    for words in named:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def bandit_return(efference_copies: bool) -> float:
    """Mean return of the most probable actions of an agent without memory."""

    def env(n_envs: int, seed: int) -> VecEnv:
        return make_vec_env("rimrl/Bandit-v0", n_envs=n_envs, seed=seed, efference_copies=efference_copies)

    extractor = {"features_extractor_class": EfferenceExtractor} if efference_copies else {}
    model = rimrl.RecurrentPPO(
        "MultiInputPolicy" if efference_copies else "MlpPolicy",
        env(64, 0),
        learning_rate=3e-3,
        n_steps=20,
        # Whole rollouts and a hidden layer: the task is an exclusive or of action and reward, and in small minibatches
        # one arm's luck saturates the policy before it is found.
        batch_size=64 * 20,
        n_epochs=10,
        gamma=0.5,
        ent_coef=0.05,
        policy_kwargs={
            "core": "feedforward",
            "core_kwargs": {"hidden_size": 64},
            "net_arch": [64],
            "activation_fn": th.nn.ReLU,
            **extractor,
        },
        seed=0,
        device="cpu",
    )
    model.learn(25_600)
    returns, _ = evaluate_policy(model, env(20, 10_000), 400, deterministic=True, return_episode_rewards=True)
    return float(np.mean(returns))


@pytest.mark.slow
def test_only_with_copies_is_the_bandit_learned() -> None:
    assert bandit_return(efference_copies=True) == pytest.approx(9.5, abs=4 * 0.5 / 20)
    assert bandit_return(efference_copies=False) == pytest.approx(5.0, abs=4 * 5.0 / 20)


def test_colour_pictures_are_read_tile_by_tile() -> None:
    """One pixel is a tile: no convolution over neighbours, whatever Stable-Baselines3 does to the picture's axes."""
    env = make_vec_env("distractors", n_envs=2, seed=0, tiles="colors")
    model = rimrl.RecurrentPPO(
        "MultiInputPolicy",
        env,
        n_steps=8,
        batch_size=16,
        policy_kwargs={"features_extractor_class": MiniGridExtractor, "core_kwargs": SMALL_RIM},
        device="cpu",
    )
    space = model.observation_space
    assert isinstance(space, spaces.Dict)
    assert space["image"].shape == (3, 7, 7)
    extractor = model.policy.features_extractor
    assert isinstance(extractor, MiniGridExtractor)
    assert tuple(extractor.tiles.weight.shape) == (32, 3, 1, 1)
    check_rollouts(model, rollouts=1)
    obs: Any = env.reset()
    seen, _ = model.policy.obs_to_tensor({"image": obs["image"].transpose(0, 3, 1, 2), "mission": obs["mission"]})
    prepared: Any = model.policy._prepare(seen)
    assert float(prepared["image"].max()) == pytest.approx(obs["image"].max() / 255)
