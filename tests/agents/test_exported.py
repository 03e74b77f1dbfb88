"""Exported agents: the same actions for every core, space and extractor; and nothing that does not fit is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from stable_baselines3.common.vec_env import VecEnv

import rimrl
from rimrl.agents.extractors import EfferenceExtractor, MiniGridExtractor, NatureMap, SmallCNN
from rimrl.agents.saved.exported import write_exported
from rimrl.agents.saved.options import options_from_json, options_to_json
from rimrl.agents.saved.spaces import space_from_json, space_to_json
from rimrl.cores.registry import CORES, core_class
from rimrl.envs.efference import VecEfferenceCopies
from rimrl.errors import UsageError
from tests.agents.test_saving import play
from tests.cores.builders import SPECS, small_options
from tests.sb3.helpers import ACTION_SPACES, OBSERVATION_SPACES, randomize, short_episodes

MINIGRID = spaces.Dict({"image": spaces.Box(0, 1, (7, 7, 4), np.uint8), "mission": spaces.Box(0, 9, (5,), np.int64)})
# Policy, observations, actions, extractor and its options.
WORLDS: dict[str, tuple[str, spaces.Space[Any], spaces.Space[Any], type[Any] | None, dict[str, Any]]] = {
    "vector": ("MlpPolicy", OBSERVATION_SPACES["vector"], ACTION_SPACES["multi_discrete"], None, {}),
    "image": ("CnnPolicy", OBSERVATION_SPACES["image"], ACTION_SPACES["box"], None, {"features_dim": 20}),
    "minigrid": ("MultiInputPolicy", MINIGRID, ACTION_SPACES["discrete"], MiniGridExtractor, {"features_dim": 12}),
}
MAPS: dict[str, tuple[str, spaces.Space[Any], spaces.Space[Any], type[Any] | None, dict[str, Any]]] = {
    "map": ("CnnPolicy", OBSERVATION_SPACES["image"], ACTION_SPACES["discrete"], NatureMap, {}),
    "small_screen": ("CnnPolicy", OBSERVATION_SPACES["image"], ACTION_SPACES["discrete"], SmallCNN, {}),
    "tiles": (
        "MultiInputPolicy",
        MINIGRID,
        spaces.MultiBinary(3),
        MiniGridExtractor,
        {"positions": True, "tile_channels": 6},
    ),
}


def make_agent(
    world: str = "vector", core: str = "rim", copies: bool = False, algorithm: Any = rimrl.RecurrentPPO, **options: Any
) -> Any:
    policy, observation, action, extractor, extractor_kwargs = {**WORLDS, **MAPS}[world]
    env: VecEnv = short_episodes(2, action, observation)
    kwargs: dict[str, Any] = {"core": core, "core_kwargs": small_options(core), "net_arch": [5]}
    if copies:
        env = VecEfferenceCopies(env)
        policy = "MultiInputPolicy"
        inner = {"extractor_class": extractor, "extractor_kwargs": extractor_kwargs}
        kwargs |= {"features_extractor_class": EfferenceExtractor, "features_extractor_kwargs": inner}
    else:
        kwargs |= {"features_extractor_class": extractor} if extractor else {}
        kwargs |= {"features_extractor_kwargs": extractor_kwargs}
    kwargs |= options.pop("policy_kwargs", {})
    if algorithm is rimrl.RecurrentPPO:
        options = {"batch_size": 8, **options}
    agent = algorithm(policy, env, n_steps=8, policy_kwargs=kwargs, seed=0, device="cpu", **options)
    randomize(agent.policy, scale=0.3)
    return agent


def check_round_trip(agent: Any, folder: Path) -> None:
    """From the card, from the archive and in memory: the same actions and the same memories."""
    write_exported(agent, folder)
    agent.save(folder / "agent.zip")
    exported = rimrl.load(folder, device="cpu")
    archived = rimrl.load(folder / "agent.zip", device="cpu")
    assert type(exported) is type(archived) is type(agent)
    assert exported.observation_space == archived.observation_space == agent.observation_space
    assert exported.action_space == archived.action_space == agent.action_space
    assert exported.policy_kwargs == archived.policy_kwargs == agent.policy_kwargs
    expected = play(agent, agent.observation_space, 2)
    for loaded in (exported, archived):
        for found, known in zip(play(loaded, agent.observation_space, 2), expected, strict=True):
            np.testing.assert_array_equal(found, known)


@pytest.mark.parametrize("copies", [False, True], ids=["plain", "copies"])
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("core", sorted(CORES))
def test_every_core_acts_the_same_after_export(core: str, world: str, copies: bool, tmp_path: Path) -> None:
    check_round_trip(make_agent(world, core, copies), tmp_path)


@pytest.mark.parametrize("copies", [False, True], ids=["plain", "copies"])
@pytest.mark.parametrize("world", MAPS)
def test_sets_of_positions_act_the_same_after_export(world: str, copies: bool, tmp_path: Path) -> None:
    check_round_trip(make_agent(world, "rim", copies), tmp_path)


@pytest.mark.parametrize("spec", SPECS)
def test_every_variant_of_every_core_is_described(spec: str) -> None:
    core, options = SPECS[spec]
    kwargs = {"core": core_class(core), "core_kwargs": options, "activation_fn": th.nn.ReLU, "net_arch": [3]}
    text = json.dumps(options_to_json(kwargs), allow_nan=False)
    assert options_from_json(json.loads(text), "here", largest=1000) == kwargs | {"core": core}


@pytest.mark.parametrize(
    "options",
    [
        {"policy_kwargs": {"core_sharing": "separate"}},
        {"policy_kwargs": {"critic_gradient": 0.25}},
        {"policy_kwargs": {"trunk": "frozen"}},
        {"world": "minigrid", "policy_kwargs": {"trunk": "progressive"}},
        {"world": "tiles", "copies": True, "policy_kwargs": {"trunk": "progressive", "core_sharing": "separate"}},
        {"policy_kwargs": {"core_sharing": "actor_only", "share_features_extractor": False}},
        {"policy_kwargs": {"net_arch": {"pi": [4], "vf": []}, "activation_fn": th.nn.ReLU}},
        {"algorithm": rimrl.RecurrentA2C},
        {"algorithm": rimrl.RecurrentA2C, "use_rms_prop": False, "learning_rate": 0.1},
        {"world": "image", "use_sde": True, "policy_kwargs": {"squash_output": True, "log_std_init": -2.0}},
        {"world": "image", "policy_kwargs": {"normalize_images": False}},
    ],
    ids=str,
)
def test_every_option_of_a_policy_is_described(options: dict[str, Any], tmp_path: Path) -> None:
    check_round_trip(make_agent(**options), tmp_path)


def test_half_precision_halves_the_file_and_rounds_every_weight_once(tmp_path: Path) -> None:
    agent = make_agent()
    for name in ("whole", "half"):
        (tmp_path / name).mkdir()
        write_exported(agent, tmp_path / name, half=name == "half")
    known = agent.policy.state_dict()
    loaded = rimrl.load(tmp_path / "half", device="cpu").policy.state_dict()
    for name, tensor in known.items():
        assert loaded[name].dtype == tensor.dtype == th.float32
        # float16 has 11 significant bits.
        assert ((loaded[name] - tensor).abs() <= tensor.abs() * 2**-11 + 2**-25).all(), name
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {th.float16}
    with th.no_grad():
        agent.policy.value_net.weight.fill_(1e5)  # float16 ends at 65504
    with pytest.raises(UsageError, match="infinite"):
        write_exported(agent, tmp_path / "half", half=True)


def test_an_exported_agent_can_go_on_learning(tmp_path: Path) -> None:
    agent = make_agent()
    write_exported(agent, tmp_path)
    loaded = rimrl.load(tmp_path, env=short_episodes(4, ACTION_SPACES["multi_discrete"]), device="cpu")
    before = loaded.policy.value_net.weight.detach().clone()
    loaded.learn(4 * loaded.n_steps)
    assert not th.equal(loaded.policy.value_net.weight, before)


def test_an_environment_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_exported(make_agent(), tmp_path)
    with pytest.raises(UsageError, match=r"Action spaces"):
        rimrl.load(tmp_path, env=short_episodes(2), device="cpu")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-1.5, -np.inf], np.float32), np.array([0.1, np.inf], np.float32)),
        spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
        spaces.Box(0, 255, (3, 36, 36), np.uint8),
        spaces.Box(-1.0, 1.0, (), np.float32),
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([2, 7]),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 3]),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 1, (2,), np.int64)}),
    ],
    ids=str,
)
def test_spaces_come_back_equal(space: spaces.Space[Any]) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    found = space_from_json(json.loads(text), "here")
    assert found == space
    assert found.dtype == space.dtype


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Tuple([spaces.Discrete(2)])], ids=str)
def test_spaces_that_nothing_learns_with_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(UsageError, match="cannot be exported"):
        space_to_json(space)


# -- what does not fit ------------------------------------------------------------------------------------------------


class OwnExtractor(MiniGridExtractor):
    """An extractor that no card can bring along."""


def test_classes_of_ones_own_are_not_exported(tmp_path: Path) -> None:
    own = {"features_extractor_class": OwnExtractor}
    with pytest.raises(UsageError, match="OwnExtractor cannot be exported"):
        write_exported(make_agent("minigrid", policy_kwargs=own), tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    agent = make_agent()
    with th.no_grad():
        agent.policy.value_net.bias.fill_(float("nan"))
    with pytest.raises(UsageError, match=r"value_net.bias.*NaN"):
        write_exported(agent, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    write_exported(make_agent(), folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def refuse(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        rimrl.load(folder, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    assert len(message) < 700
    return message


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a field of the card; without a value, take it away."""

    def change(card: dict[str, Any]) -> None:
        *above, last = path
        for key in above:
            card = card[key]
        if value is ...:
            del card[last]
        else:
            card[last] = value

    return change


HUGE = 10**9
KWARGS = ("agent", "policy_kwargs")
CHOICES_OF_INT8 = {"type": "MultiDiscrete", "nvec": [2, 300], "dtype": "int8"}
ENDLESS = {"type": "Box", "shape": [2], "dtype": "float32", "low": "-inf", "high": "inf"}
BAD_CARDS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no format": (put("format", value=...), "does not say format"),
    "other format": (put("format", value="pickle"), "does not say format"),
    "newer version": (put("format_version", value=2), "must be 1 for this rimrl, got 2"),
    "no agent": (put("agent", value=...), "must be a mapping"),
    "agent is a list": (put("agent", value=[1]), "must be a mapping"),
    "field missing": (put("agent", "policy", value=...), "lacks 'policy'"),
    "field too many": (put("agent", "code", value="import os"), "unknown field 'code'"),
    "unknown algorithm": (put("agent", "algorithm", value="RecurrentPO"), "did you mean 'RecurrentPPO'"),
    "algorithm is a number": (put("agent", "algorithm", value=3), "must be the name of an algorithm"),
    "unknown policy": (put("agent", "policy", value="os.system"), "unknown policy 'os.system'"),
    "unknown core": (put(*KWARGS, "core", value="rimm"), "did you mean 'rim'"),
    "core is a path": (put(*KWARGS, "core", value="os:system"), "is no subclass of"),
    "unknown core option": (put(*KWARGS, "core_kwargs", "num_unit", value=3), "did you mean 'num_units'"),
    "core option of a wrong type": (put(*KWARGS, "core_kwargs", "num_units", value="four"), "num_units"),
    "core options are a list": (put(*KWARGS, "core_kwargs", value=[1]), "must be a mapping"),
    "a billion units": (put(*KWARGS, "core_kwargs", "num_units", value=HUGE), "must be an integer from"),
    "a wide core": (put(*KWARGS, "core_kwargs", "unit_size", value=60_000), "far more weights than"),
    "many units": (put(*KWARGS, "core_kwargs", "num_units", value=60_000), "far more weights than"),
    "a negative size": (put(*KWARGS, "core_kwargs", "unit_size", value=-3), "unit_size"),
    "unknown argument": (put(*KWARGS, "device", value="cpu"), "unknown argument 'device'"),
    "unknown extractor": (put(*KWARGS, "features_extractor_class", value="Flatten"), "'FlattenExtractor'"),
    "unknown activation": (put(*KWARGS, "activation_fn", value="Tan"), "did you mean 'Tanh'"),
    "unknown optimiser": (put(*KWARGS, "optimizer_class", value="exec"), "unknown optimiser"),
    "optimiser argument": (put(*KWARGS, "optimizer_kwargs", value={"x": 1}), "unexpected keyword"),
    "layers as text": (put(*KWARGS, "net_arch", value="64"), "must be a list of integers"),
    "a wide layer": (put(*KWARGS, "net_arch", value=[60_000, 60_000]), "far more weights than"),
    "a thousand layers": (put(*KWARGS, "net_arch", value=[1] * 1000), "1000 layers"),
    "wider head": (put(*KWARGS, "net_arch", value=[6]), "[6, 12] for its policy, got [5, 12]"),
    "one layer more": (put(*KWARGS, "net_arch", value=[5, 5]), "lacks the weights"),
    "another core": (put(*KWARGS, "core", value="lstm"), "core"),
    "no space": (put("agent", "observation_space", value=None), "must be a mapping with a type"),
    "unknown space": (put("agent", "observation_space", "type", value="Bocks"), "did you mean 'Box'"),
    "a huge observation": (put("agent", "observation_space", "shape", value=[HUGE]), "shape must be"),
    "a huge picture": (put("agent", "observation_space", "shape", value=[9999, 9999]), "larger than"),
    "objects": (put("agent", "observation_space", "dtype", value="object"), "dtype must be one of"),
    "bounds as text": (put("agent", "observation_space", "low", value="x"), "low must be a number"),
    "bounds crossed": (put("agent", "observation_space", "low", value=5), "lies above"),
    "other observations": (put("agent", "observation_space", "shape", value=[4]), "for its policy, got"),
    "other actions": (put("agent", "action_space", "nvec", value=[2, 4]), "for its policy, got"),
    "huge actions": (put("agent", "action_space", "nvec", value=[HUGE]), "nvec must be"),
    "no actions": (put("agent", "action_space", "nvec", value=[]), "must be sizes"),
    "a start too few": (put("agent", "action_space", "start", value=[1]), "must be 2 numbers"),
    "a start beyond": (put("agent", "action_space", "start", value=[1, 2**63]), "start must be an integer from"),
    "choices of floats": (put("agent", "action_space", "dtype", value="float32"), "dtype must be one of uint8"),
    "more choices than int8": (put("agent", "action_space", value=CHOICES_OF_INT8), "is no MultiDiscrete"),
    "bits of no axis": (put("agent", "action_space", value={"type": "MultiBinary", "n": []}), "positive numbers"),
    "bits of nothing": (put("agent", "action_space", value={"type": "MultiBinary", "n": [0]}), "positive numbers"),
    "bits of two axes": (put("agent", "action_space", value={"type": "MultiBinary", "n": [2, 2]}), "one axis"),
    "endless actions": (put("agent", "action_space", value=ENDLESS), "finite bounds"),
    "bounds of bits as numbers": (
        put("agent", "observation_space", "dtype", value="bool"),
        "low must be a number of bool",
    ),
    "a million units": (put(*KWARGS, "core_kwargs", "num_units", value=2**20), "far more weights than"),
    "exploration as text": (put("agent", "use_sde", value="yes"), "must be true or false"),
    "negative steps": (put("agent", "num_timesteps", value=-1), "must be an integer from 0"),
    "strange arithmetic": (put("agent", "autocast", value="fp4"), "unknown autocast"),
}


@pytest.mark.parametrize("case", BAD_CARDS)
def test_a_card_that_does_not_fit_is_refused(case: str, good: dict[str, bytes], tmp_path: Path) -> None:
    change, expected = BAD_CARDS[case]
    card = json.loads(good["card.json"])
    change(card)
    (tmp_path / "model.safetensors").write_bytes(good["model.safetensors"])
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert expected in refuse(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": NaN}', "\xff", "[" * 100_000, "null"], ids=range(8))
def test_a_card_that_is_no_mapping_is_refused(text: str, good: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(good["model.safetensors"])
    (tmp_path / "card.json").write_text(text, encoding="latin-1")
    assert "card.json" in refuse(tmp_path)


def test_missing_files_are_named(good: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes(good["card.json"])
    assert "no " in refuse(tmp_path)
    with pytest.raises(UsageError, match=r"no .*card\.json"):
        rimrl.load(tmp_path / "nothing" / "model.safetensors")


def change_weights(good: dict[str, bytes], folder: Path, change: Callable[[dict[str, th.Tensor]], object]) -> None:
    (folder / "card.json").write_bytes(good["card.json"])
    (folder / "model.safetensors").write_bytes(good["model.safetensors"])
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: w.pop("value_net.bias"), "'value_net.bias'"),
        (lambda w: w.update(more=th.zeros(2)), "holds weights 'more'"),
        (lambda w: w.update({"value_net.bias": th.zeros(2)}), "for its policy, got [2]"),
        (lambda w: w["value_net.bias"].fill_(float("nan")), "NaN or infinite"),
        (lambda w: w["value_net.bias"].fill_(float("-inf")), "NaN or infinite"),
        (lambda w: w.update({"value_net.bias": w["value_net.bias"].double()}), "got torch.float64"),
        (lambda w: w.update({"value_net.bias": w["value_net.bias"].long()}), "value_net.bias"),
        (dict.clear, "lacks weights"),
    ],
    ids=range(8),
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, th.Tensor]], object], expected: str, good: dict[str, bytes], tmp_path: Path
) -> None:
    change_weights(good, tmp_path, change)
    assert expected in refuse(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.9, 0.9999])
def test_truncated_weights_are_refused(share: float, good: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes(good["card.json"])
    content = good["model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(content[: int(share * len(content))])
    assert "damaged" in refuse(tmp_path)


def test_a_header_that_promises_too_much_is_refused(good: dict[str, bytes], tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}).encode()
    (tmp_path / "card.json").write_bytes(good["card.json"])
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    assert "damaged" in refuse(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + header)
    assert "damaged" in refuse(tmp_path)


def test_a_flipped_byte_is_refused_or_is_a_weight(good: dict[str, bytes], tmp_path: Path) -> None:
    """Wherever a byte of the card or of the header is hit: an agent with the same spaces, or one line."""
    rng = np.random.default_rng(0)
    expected = json.loads(good["card.json"])["agent"]["action_space"]
    refused = 0
    for name in ("card.json", "model.safetensors"):
        for position in rng.integers(min(1200, len(good[name])), size=30):
            for other, content in good.items():
                (tmp_path / other).write_bytes(content)
            damaged = bytearray(good[name])
            damaged[position] ^= int(rng.integers(1, 256))
            (tmp_path / name).write_bytes(damaged)
            try:
                loaded = rimrl.load(tmp_path, device="cpu")
            except UsageError as error:
                assert "\n" not in str(error)  # noqa: PT017 (loading may also succeed)
                refused += 1
            else:
                assert len(space_to_json(loaded.action_space)["nvec"]) == len(expected["nvec"])
    assert refused > 30
