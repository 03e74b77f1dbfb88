"""What is saved comes back, and what cannot be loaded is refused in one line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import VecNormalize

import rimrl
from rimrl.agents.extractors import MiniGridExtractor
from rimrl.agents.policies import CnnRecurrentCorePolicy, MultiInputRecurrentCorePolicy, RecurrentCorePolicy
from rimrl.errors import UsageError
from tests.sb3.helpers import OBSERVATION_SPACES, SMALL_RIM, check_rollouts, randomize, short_episodes

Algorithm = type[rimrl.RecurrentPPO | rimrl.RecurrentA2C]

ALGORITHMS: tuple[Algorithm, ...] = (rimrl.RecurrentPPO, rimrl.RecurrentA2C)
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)

KINDS: dict[str, tuple[str, spaces.Space[Any], dict[str, Any]]] = {
    "rim": ("MlpPolicy", OBSERVATION_SPACES["vector"], {"core": "rim", "core_kwargs": SMALL_RIM}),
    "separate lstm": (
        "MlpPolicy",
        OBSERVATION_SPACES["vector"],
        {"core": "lstm", "core_kwargs": {"hidden_size": 6, "num_layers": 2}, "core_sharing": "separate"},
    ),
    "actor_only gru, extractors apart": (
        "MlpPolicy",
        OBSERVATION_SPACES["vector"],
        {
            "core": "gru",
            "core_kwargs": {"hidden_size": 6},
            "core_sharing": "actor_only",
            "share_features_extractor": False,
            "activation_fn": th.nn.ReLU,
            "net_arch": {"pi": [5], "vf": []},
        },
    ),
    "images": ("CnnPolicy", OBSERVATION_SPACES["image"], {"core_kwargs": SMALL_RIM, "net_arch": [9]}),
    "dict": ("MultiInputPolicy", OBSERVATION_SPACES["dict"], {"core_kwargs": SMALL_RIM}),
    "minigrid": (
        "MultiInputPolicy",
        spaces.Dict({"image": spaces.Box(0, 1, (7, 7, 4), np.uint8), "mission": spaces.Box(0, 9, (5,), np.int64)}),
        {
            "core_kwargs": SMALL_RIM,
            "features_extractor_class": MiniGridExtractor,
            "features_extractor_kwargs": {"features_dim": 12},
        },
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def trained(kind: str = "rim", algorithm: Algorithm = rimrl.RecurrentPPO, n_envs: int = 3, **options: Any) -> Any:
    policy, observation_space, policy_kwargs = KINDS[kind]
    if algorithm is rimrl.RecurrentPPO:
        options = {"batch_size": 16, "n_epochs": 1, **options}
    model = algorithm(
        policy,
        short_episodes(n_envs, observation_space=observation_space),
        n_steps=16,
        sequence_length=8,
        policy_kwargs=policy_kwargs,
        seed=0,
        device="cpu",
        **options,
    )
    model.learn(16 * n_envs)
    return model


def play(policy: Any, space: spaces.Space[Any], n_envs: int | None) -> list[Any]:
    """Deterministic actions and states of a random episode, in a vector or (None) alone."""
    space.seed(7)
    state: Any = None
    answers = []
    for t in range(8):
        drawn = [space.sample() for _ in range(n_envs or 1)]
        obs: Any = drawn[0]
        if n_envs is not None:
            obs = {k: np.stack([o[k] for o in drawn]) for k in obs} if isinstance(obs, dict) else np.stack(drawn)
        starts = np.full(n_envs or 1, t in (0, 5))
        actions, state = policy.predict(obs, state, starts, deterministic=True)
        answers += [actions, *state]
    return answers


def assert_same_play(found: Any, expected: Any, space: spaces.Space[Any]) -> None:
    for n_envs in (None, 1, 4):
        for a, b in zip(play(found, space, n_envs), play(expected, space, n_envs), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [*((kind, rimrl.RecurrentPPO) for kind in KINDS), ("rim", rimrl.RecurrentA2C), ("dict", rimrl.RecurrentA2C)],
)
def test_an_agent_comes_back(kind: str, algorithm: Algorithm, tmp_path: Path) -> None:
    model = trained(kind, algorithm)
    randomize(model.policy, scale=0.2)
    model.save(tmp_path / "model")
    for loaded in (algorithm.load(tmp_path / "model", device="cpu"), rimrl.load(tmp_path / "model.zip", device="cpu")):
        assert type(loaded) is algorithm
        assert type(loaded.policy) is type(model.policy)
        assert loaded.policy_kwargs == model.policy_kwargs
        assert type(loaded.policy.core) is type(model.policy.core)
        assert loaded.policy.core_sharing == model.policy.core_sharing
        assert loaded.sequence_length == 8
        assert loaded.num_timesteps == model.num_timesteps
        assert_same_play(loaded, model, model.observation_space)
        expected = model.policy.optimizer.state_dict()
        found = loaded.policy.optimizer.state_dict()
        assert type(loaded.policy.optimizer) is type(model.policy.optimizer)
        assert found["param_groups"] == expected["param_groups"]
        assert found["state"].keys() == expected["state"].keys()
        for key, entry in expected["state"].items():
            assert all(th.equal(th.as_tensor(found["state"][key][k]), th.as_tensor(v)) for k, v in entry.items())


@every_kind
def test_a_policy_comes_back_on_its_own(kind: str, tmp_path: Path) -> None:
    policy = trained(kind).policy
    randomize(policy, scale=0.2)
    policy.save(str(tmp_path / "policy.pth"))
    classes: dict[str, type[RecurrentCorePolicy]] = {
        "MlpPolicy": RecurrentCorePolicy,
        "CnnPolicy": CnnRecurrentCorePolicy,
        "MultiInputPolicy": MultiInputRecurrentCorePolicy,
    }
    loaded = classes[KINDS[kind][0]].load(str(tmp_path / "policy.pth"), device="cpu")
    assert type(loaded) is type(policy)
    assert type(loaded.core) is type(policy.core)
    assert loaded.core_kwargs == policy.core_kwargs
    assert loaded.core_sharing == policy.core_sharing
    assert loaded.share_features_extractor == policy.share_features_extractor
    assert loaded.activation_fn is policy.activation_fn
    assert str(loaded) == str(policy)
    assert_same_play(loaded, policy, policy.observation_space)


def test_exploration_options_come_back_with_a_policy(tmp_path: Path) -> None:
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        short_episodes(2, spaces.Box(-2.0, 3.0, (2,), np.float32)),
        n_steps=8,
        batch_size=8,
        use_sde=True,
        policy_kwargs={"core_kwargs": SMALL_RIM, "squash_output": True, "log_std_init": -2.0},
        device="cpu",
    )
    randomize(model.policy)
    model.policy.save(str(tmp_path / "policy.pth"))
    loaded = RecurrentCorePolicy.load(str(tmp_path / "policy.pth"), device="cpu")
    assert loaded.use_sde
    assert loaded.squash_output
    assert_same_play(loaded, model.policy, model.observation_space)


@every_algorithm
def test_learning_goes_on_after_loading(algorithm: Algorithm, tmp_path: Path) -> None:
    trained(algorithm=algorithm).save(tmp_path / "model")
    loaded = rimrl.load(tmp_path / "model.zip", env=short_episodes(3), device="cpu")
    before = {name: value.clone() for name, value in loaded.policy.state_dict().items()}
    check_rollouts(loaded, rollouts=2)
    loaded.learn(48, reset_num_timesteps=False)
    assert any(not th.equal(value, before[name]) for name, value in loaded.policy.state_dict().items())
    assert loaded.num_timesteps == 96 + 48


@pytest.mark.parametrize("n_envs", [1, 5])
@every_algorithm
def test_the_number_of_environments_may_change_on_loading(algorithm: Algorithm, n_envs: int, tmp_path: Path) -> None:
    trained(algorithm=algorithm).save(tmp_path / "model")
    loaded = rimrl.load(tmp_path / "model.zip", env=short_episodes(n_envs), device="cpu")
    assert loaded.n_envs == n_envs
    check_rollouts(loaded, rollouts=2)
    loaded.learn(2 * 16 * n_envs)
    assert loaded.rollout_buffer.values.shape == (16, n_envs)


def test_options_may_change_on_loading(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    loaded = rimrl.RecurrentPPO.load(
        tmp_path / "model", env=short_episodes(2), device="cpu", n_steps=8, sequence_length=4, batch_size=8
    )
    loaded.learn(32)
    assert loaded.rollout_buffer.num_sequences == 4
    with pytest.raises(UsageError, match="batch_size 12"):
        rimrl.RecurrentPPO.load(tmp_path / "model", device="cpu", batch_size=12)


def test_with_normalised_observations(tmp_path: Path) -> None:
    env = VecNormalize(short_episodes(3))
    model = rimrl.RecurrentPPO(
        "MlpPolicy", env, n_steps=16, batch_size=16, policy_kwargs={"core_kwargs": SMALL_RIM}, device="cpu"
    )
    model.learn(96)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    loaded_env = VecNormalize.load(str(tmp_path / "vecnormalize.pkl"), short_episodes(3))
    raw = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    normalized = loaded_env.normalize_obs(raw)
    np.testing.assert_allclose(normalized, env.normalize_obs(raw))  # type: ignore[arg-type]
    loaded = rimrl.load(tmp_path / "model.zip", loaded_env, device="cpu")
    assert isinstance(normalized, np.ndarray)
    np.testing.assert_array_equal(
        loaded.predict(normalized, deterministic=True)[0], model.predict(normalized, deterministic=True)[0]
    )
    loaded.learn(48)


def test_states_of_running_episodes_are_not_saved(tmp_path: Path) -> None:
    """A file holds weights, not the memory of the episodes that were running."""
    model = trained()
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read("data"))
    assert "_last_states" not in data
    assert "rollout_buffer" not in data


# -- rimrl.load -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved agent; to read, not to touch."""
    file = tmp_path_factory.mktemp("saved") / "model.zip"
    trained().save(file)
    return file


def refuse(path: Path) -> str:
    """Loading must fail with a message of one line that names the file."""
    with pytest.raises(UsageError) as caught:
        rimrl.load(path, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert path.stem in message
    return message


@every_algorithm
def test_a_run_folder_is_loaded_by_its_model(algorithm: Algorithm, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    trained(algorithm=algorithm).save(tmp_path / "run" / "model")
    assert type(rimrl.load(tmp_path / "run", device="cpu")) is algorithm
    assert type(rimrl.load(str(tmp_path / "run"), device="cpu")) is algorithm


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no saved agent" in refuse(tmp_path / "absent.zip")
    assert "no saved agent" in refuse(tmp_path / "absent")
    assert "model.zip" in refuse(tmp_path)


def test_what_is_not_an_agent_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.zip"
    empty.touch()
    refuse(empty)
    text = tmp_path / "text.zip"
    text.write_text("not a zip")
    refuse(text)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refuse(other)
    for name, data in (("list", "[]"), ("number", "3"), ("broken", "{"), ("nothing", "{}")):
        strange = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(strange, "w") as archive:
            archive.writestr("data", data)
        refuse(strange)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share: float, saved: Path, tmp_path: Path) -> None:
    file, content = tmp_path / "model.zip", saved.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert "damaged" in refuse(file)


def test_a_missing_part_is_refused(saved: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for missing in ("data", "policy.pth", "policy.optimizer.pth"):
        partial = tmp_path / f"without-{missing.replace('.', '-')}.zip"
        with zipfile.ZipFile(partial, "w") as archive:
            for name, content in parts.items():
                if name != missing:
                    archive.writestr(name, content)
        refuse(partial)


def test_a_flipped_byte_is_noticed_anywhere(tmp_path: Path) -> None:
    """Whatever byte is hit, the answer is a refusal or the very same agent."""
    model = trained()
    file = tmp_path / "model.zip"
    model.save(file)
    content = file.read_bytes()
    expected = model.policy.state_dict()
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(len(content), size=60):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        file.write_bytes(damaged)
        try:
            loaded = rimrl.load(file, device="cpu")
        except UsageError as error:
            assert "\n" not in str(error)  # noqa: PT017 (loading may also succeed)
            refused += 1
        else:
            assert all(th.equal(value, expected[name]) for name, value in loaded.policy.state_dict().items())
    assert refused > 40


def test_an_environment_that_does_not_fit_is_blamed_and_not_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    trained().save(file)
    with pytest.raises(UsageError, match=r"Action spaces") as caught:
        rimrl.load(file, env=short_episodes(3, spaces.Discrete(7)), device="cpu")
    assert "not saved by rimrl" not in str(caught.value)


@pytest.mark.parametrize("stranger", [PPO, A2C, DQN])
def test_a_file_of_another_algorithm_is_refused(stranger: Any, tmp_path: Path) -> None:
    file = tmp_path / "stranger.zip"
    stranger("MlpPolicy", "CartPole-v1", device="cpu").save(file)
    refuse(file)


def test_a_file_of_contribs_own_lstm_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "stranger.zip"
    ContribRecurrentPPO("MlpLstmPolicy", "CartPole-v1", device="cpu").save(file)
    refuse(file)


@every_algorithm
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    algorithm: Algorithm, trust: bool, value: float, tmp_path: Path
) -> None:
    model = algorithm("MlpPolicy", short_episodes(1), policy_kwargs={"core_kwargs": SMALL_RIM}, device="cpu")
    with th.no_grad():
        model.policy.value_net.bias.fill_(value)
    model.save(tmp_path / "model.zip")
    with pytest.raises(UsageError, match=r"value_net\.bias"):
        rimrl.load(tmp_path / "model.zip", trust=trust)


@pytest.mark.parametrize("policy", [RecurrentCorePolicy, CnnRecurrentCorePolicy, MultiInputRecurrentCorePolicy])
def test_policies_stay_where_earlier_files_look_for_them(policy: type) -> None:
    """Pickles in a ``.zip`` name a class by its module, and sb3-contrib imports it from there."""
    assert policy.__module__ == "rimrl.agents.policies"
