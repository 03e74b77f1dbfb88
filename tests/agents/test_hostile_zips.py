"""A file that brings code along is refused, and the code does not run, wherever in the file it is."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

import rimrl
from rimrl.agents.extractors import MiniGridExtractor
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.saved.inert import Inert, NotPlainError, read_inert, to_plain
from rimrl.errors import UsageError
from tests.agents.test_exported import make_agent
from tests.agents.test_saving import play
from tests.sb3.helpers import SMALL_RIM, randomize, short_episodes


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)

    def __call__(self, remaining: float) -> float:
        """Pass for a schedule."""
        return remaining


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    file = tmp_path_factory.mktemp("agent") / "agent.zip"
    make_agent(learning_rate=LinearSchedule(1e-3, 0.0, 1.0)).save(file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(parts: dict[str, bytes], file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file


def pickled(value: object) -> dict[str, str]:
    return {":type:": "?", ":serialized:": base64.b64encode(cloudpickle.dumps(value)).decode()}


def torch_file(value: object) -> bytes:
    buffer = io.BytesIO()
    th.save(value, buffer)
    return buffer.getvalue()


def in_data(key: str, wrap: Callable[[Any], Any] = lambda payload: payload) -> Any:
    def change(parts: dict[str, bytes], payload: Payload) -> None:
        data = json.loads(parts["data"])
        data[key] = pickled(wrap(payload))
        parts["data"] = json.dumps(data).encode()

    return change


def in_part(name: str, wrap: Callable[[Any], Any] = lambda payload: payload) -> Any:
    def change(parts: dict[str, bytes], payload: Payload) -> None:
        parts[name] = torch_file(wrap(payload))

    return change


def raw_part(name: str) -> Any:
    def change(parts: dict[str, bytes], payload: Payload) -> None:
        parts[name] = pickle.dumps(payload)

    return change


REFUSED: dict[str, Any] = {
    **{f"data: {key}": in_data(key) for key in ("policy_class", "policy_kwargs", "observation_space", "action_space")},
    "data: within policy_kwargs": in_data("policy_kwargs", lambda payload: {"net_arch": payload}),
    "data: as a key": in_data("policy_kwargs", lambda payload: {payload: 1}),
    "data: deep within": in_data("policy_kwargs", lambda payload: {"core_kwargs": {"a": [(payload,)]}}),
    "data: a plain setting": in_data("n_steps"),
    "data: a counter": in_data("n_envs"),
    "policy.pth": in_part("policy.pth"),
    "policy.pth: within": in_part("policy.pth", lambda payload: {"a": payload}),
    "policy.pth: raw pickle": raw_part("policy.pth"),
    "policy.optimizer.pth": in_part("policy.optimizer.pth"),
    "policy.optimizer.pth: within": in_part("policy.optimizer.pth", lambda payload: {"state": payload}),
    "policy.optimizer.pth: raw pickle": raw_part("policy.optimizer.pth"),
}
IGNORED: dict[str, Any] = {
    "data: an unknown entry": in_data("whatever"),
    "data: an entry that is not needed": in_data("ep_info_buffer"),
    "data: the last observation": in_data("_last_obs"),
    "data: a method": in_data("predict"),
    "data: the storage": in_data("rollout_buffer_class"),
    "data: a schedule that follows from others": in_data("lr_schedule"),
    "data: learning_rate": in_data("learning_rate"),
    "data: clip_range": in_data("clip_range"),
    "data: within clip_range": in_data("clip_range", FloatSchedule),
    "pytorch_variables.pth": in_part("pytorch_variables.pth"),
    "pytorch_variables.pth: raw pickle": raw_part("pytorch_variables.pth"),
    "tensors.pth": in_part("tensors.pth"),
    "another .pth": in_part("policy.forward.pth"),
}


def test_the_payload_would_work(parts: dict[str, bytes], tmp_path: Path) -> None:
    """What SB3's own loading, and trust, would run; else the tests below show nothing."""
    hostile = dict(parts)
    in_data("whatever")(hostile, Payload(tmp_path / "marker"))
    file = write(hostile, tmp_path / "agent.zip")
    rimrl.RecurrentPPO.load(file, device="cpu")
    assert (tmp_path / "marker").exists()
    (tmp_path / "marker").unlink()
    rimrl.load(file, device="cpu", trust=True)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("place", REFUSED)
def test_code_is_refused_and_does_not_run(place: str, parts: dict[str, bytes], tmp_path: Path) -> None:
    hostile = dict(parts)
    REFUSED[place](hostile, Payload(tmp_path / "marker"))
    file = write(hostile, tmp_path / "agent.zip")
    with pytest.raises(UsageError) as caught:
        rimrl.load(file, device="cpu")
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("place", IGNORED)
def test_code_that_is_not_needed_is_not_even_looked_at(place: str, parts: dict[str, bytes], tmp_path: Path) -> None:
    hostile = dict(parts)
    IGNORED[place](hostile, Payload(tmp_path / "marker"))
    loaded = rimrl.load(write(hostile, tmp_path / "agent.zip"), device="cpu")
    assert not (tmp_path / "marker").exists()
    known = rimrl.load(write(parts, tmp_path / "known.zip"), device="cpu")
    for a, b in zip(play(loaded, known.observation_space, 2), play(known, known.observation_space, 2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_reading_a_pickle_imports_and_calls_nothing(tmp_path: Path) -> None:
    stream = b"cantigravity_that_is_not_there\nfly\n(S'" + str(tmp_path / "marker").encode() + b"'\ntR."
    record = read_inert(stream)
    assert isinstance(record, Inert)
    assert record.origin == "antigravity_that_is_not_there.fly"
    assert record.args == (str(tmp_path / "marker"),)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with suppress(NotPlainError):  # protocols below 4 call what a call returned, which a record does not allow
            assert isinstance(read_inert(pickle.dumps(Payload(tmp_path / "marker"), protocol)), Inert)
        assert not (tmp_path / "marker").exists()


class OwnExtractor(MiniGridExtractor):
    """Features of one's own."""


def test_ones_own_classes_need_trust(tmp_path: Path) -> None:
    agent = make_agent("minigrid", policy_kwargs={"features_extractor_class": OwnExtractor})
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(UsageError, match=r"OwnExtractor.*code would run.*trust=True"):
        rimrl.load(tmp_path / "agent.zip", device="cpu")
    loaded = rimrl.load(tmp_path / "agent.zip", device="cpu", trust=True)
    assert type(loaded.policy.features_extractor) is OwnExtractor


@pytest.mark.parametrize("algorithm", [rimrl.RecurrentPPO, rimrl.RecurrentA2C])
def test_a_trusted_file_loads_as_the_same(algorithm: Any, tmp_path: Path) -> None:
    make_agent(algorithm=algorithm).save(tmp_path / "agent.zip")
    plain, trusted = (rimrl.load(tmp_path / "agent.zip", device="cpu", trust=trust) for trust in (False, True))
    assert type(plain) is type(trusted) is algorithm
    settings = ("n_steps", "gamma", "gae_lambda", "ent_coef", "seed", "n_envs", "num_timesteps", "learning_rate")
    for name in (*settings, "sequence_length", "max_grad_norm", "normalize_advantage", "policy_kwargs"):
        assert getattr(plain, name) == getattr(trusted, name)


def test_schedules_come_back(parts: dict[str, bytes], tmp_path: Path) -> None:
    loaded = rimrl.load(write(parts, tmp_path / "agent.zip"), device="cpu")
    assert isinstance(loaded, rimrl.RecurrentPPO)
    assert [loaded.lr_schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([1e-3, 5e-4, 0.0])
    assert loaded.clip_range(0.3) == pytest.approx(0.2)


def test_plain_contrib_still_loads_what_rimrl_saves(parts: dict[str, bytes], tmp_path: Path) -> None:
    file = write(parts, tmp_path / "agent.zip")
    ours = rimrl.load(file, device="cpu")
    theirs = ContribRecurrentPPO.load(file, device="cpu")
    for a, b in zip(play(ours, ours.observation_space, 2), play(theirs, ours.observation_space, 2), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("n_steps", 2**31, "rollouts"),
        ("n_envs", 10**12, "rollouts"),
        ("n_steps", "8", "n_steps.*integer"),
        ("gamma", "x", "gamma.*finite number"),
        ("gamma", True, "gamma.*finite number"),
        ("use_sde", 1, "use_sde.*true.*false"),
        ("policy_kwargs", [1], "policy_kwargs.*mapping"),
        ("policy_kwargs", {"core_kwargs": {"num_units": 10**9}}, "integer"),
        ("policy_kwargs", {"core": "lstm", "core_kwargs": {"hidden_size": 60000}}, "far more weights"),
        ("policy_class", "RecurrentPolicy", "unknown policy"),
        ("observation_space", None, "mapping"),
        ("observation_space", {":serialized:": "%%%"}, "damaged"),
        ("observation_space", {":serialized:": 3}, "damaged"),
        ("observation_space", {":serialized:": ""}, "damaged"),
        ("learning_rate", {":serialized:": ""}, "damaged"),
        ("learning_rate", [1], "learning_rate.*finite number"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    key: str, value: object, expected: str, parts: dict[str, bytes], tmp_path: Path
) -> None:
    data = json.loads(parts["data"])
    data[key] = value
    file = write({**parts, "data": json.dumps(data).encode()}, tmp_path / "agent.zip")
    with pytest.raises(UsageError) as caught:
        rimrl.load(file, device="cpu")
    assert re.search(expected, str(caught.value))
    assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_far_more_is_refused(parts: dict[str, bytes], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "agent.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", b" " * (2**26 + 1))
    with pytest.raises(UsageError, match="unpacks to"):
        rimrl.load(tmp_path / "agent.zip")


def test_loading_needs_no_way_to_unpickle(
    parts: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("unpickled")

    for module in (pickle, cloudpickle):
        for name in ("load", "loads"):
            monkeypatch.setattr(module, name, refuse)
    file = write(parts, tmp_path / "agent.zip")
    assert type(rimrl.load(file, device="cpu")) is rimrl.RecurrentPPO
    with pytest.raises(UsageError, match="unpickled"):
        rimrl.load(file, device="cpu", trust=True)


def test_what_plain_contrib_trained_plays_whatever_its_minibatches(tmp_path: Path) -> None:
    kwargs = {"core": "rim", "core_kwargs": SMALL_RIM}
    agent = ContribRecurrentPPO(
        RecurrentCorePolicy, short_episodes(2), n_steps=12, batch_size=8, policy_kwargs=kwargs, device="cpu"
    )
    randomize(agent.policy)
    agent.save(tmp_path / "agent.zip")
    loaded = rimrl.load(tmp_path / "agent.zip", env=short_episodes(2), device="cpu")
    for a, b in zip(play(loaded, agent.observation_space, 2), play(agent, agent.observation_space, 2), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.sequence_length == 4
    loaded.learn(24)


def test_a_packed_archive_that_is_damaged_is_refused(parts: dict[str, bytes], tmp_path: Path) -> None:
    file = tmp_path / "agent.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(len(content) // 2, size=30):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        file.write_bytes(damaged)
        with suppress(UsageError):  # anything else fails the test
            rimrl.load(file, device="cpu")


def test_a_pickle_within_itself_is_refused(parts: dict[str, bytes], tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["core_kwargs"] = endless
    hostile = dict(parts)
    in_data("policy_kwargs", lambda _: endless)(hostile, Payload(tmp_path / "marker"))
    with pytest.raises(UsageError, match="nested too deep"):
        rimrl.load(write(hostile, tmp_path / "agent.zip"), device="cpu")


def bomb(levels: int) -> list[Any]:
    value: list[Any] = [0]
    for _ in range(levels):
        value = [value] * 10
    return value


STREAMS = {
    "a hundred million lists": b"\x80\x04" + b"]" * 10**8,
    "a hundred million marks": b"\x80\x04" + b"(" * 10**8,
    "a memo of 2**27 entries": b"\x80\x04K\x01r" + (2**27).to_bytes(4, "little") + b".",
    "a memo as text": b"\x80\x04K\x01p134217728\n.",
    "the hash of tuples within tuples": b"\x80\x04})" + b"\x85" * 400_000 + b"K\x01s.",
    "lists that stand in many places": pickle.dumps(bomb(10)),
    "bytes that are not there": b"\x80\x04\x8e" + (2**50).to_bytes(8, "little") + b"a.",
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_pickle_that_takes_hours_or_gigabytes_is_refused_before(name: str) -> None:
    begun = time.monotonic()
    with pytest.raises(NotPlainError):
        to_plain(read_inert(STREAMS[name]), {})
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("part", ["policy.pth", "policy.optimizer.pth"])
def test_weights_whose_pickle_takes_hours_are_refused(part: str, parts: dict[str, bytes], tmp_path: Path) -> None:
    hostile, buffer = dict(parts), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(parts[part])) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.namelist():
            large = entry.endswith("data.pkl")
            new.writestr(entry, b"\x80\x02" + b"]" * 10**7 if large else old.read(entry))
    hostile[part] = buffer.getvalue()
    with pytest.raises(UsageError, match="no plain tensors"):
        rimrl.load(write(hostile, tmp_path / "agent.zip"), device="cpu")


def test_weights_that_repeat_a_few_numbers_are_no_plain_tensors(parts: dict[str, bytes], tmp_path: Path) -> None:
    hostile = parts | {"policy.pth": torch_file({"a": th.zeros(1).expand(10**7, 10**5)})}
    with pytest.raises(UsageError, match="no plain tensors"):
        rimrl.load(write(hostile, tmp_path / "agent.zip"), device="cpu")


def test_a_zip_that_unpacks_to_far_more_than_it_is(parts: dict[str, bytes], tmp_path: Path) -> None:
    file = tmp_path / "agent.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        for number in range(6):
            archive.writestr(f"zeros {number}", bytes(2**26))
    with pytest.raises(UsageError, match="unpacks to"):
        rimrl.load(file, device="cpu")
