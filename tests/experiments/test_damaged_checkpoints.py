"""Checkpoints that are damaged or made up to harm: nothing runs, nothing crashes, the one before is taken."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch as th
from safetensors.torch import load_file, save_file

from rimrl.agents.ranks import Ranks
from rimrl.errors import UsageError
from rimrl.experiments.run import Run
from rimrl.experiments.train import AgentLearner
from rimrl.runs.checkpoint_files import found
from tests.commands import SMALL, call, files, succeed

Change = Callable[[Path], None]
MARKER = "executed"
NAMES = ("tensors.safetensors", "state.json", "progress.csv", "manifest.json")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints."""
    run = tmp_path_factory.mktemp("damaged") / "run"
    words = (*SMALL, "--train.resume_freq", "64", "--total-timesteps", "128", "--core.hidden_size", "6")
    succeed("train", "distractors/rim", *words, "--run-dir", run)
    assert len(found(run)) == 2
    return run


class Harm:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARKER}",)


def seal(checkpoint: Path) -> None:
    """List the files as they are now, as whoever means harm would."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        content = (checkpoint / name).read_bytes()
        facts |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def flipped(name: str, where: float) -> Change:
    def change(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        content[int(where * (len(content) - 1))] ^= 1 << 3
        (checkpoint / name).write_bytes(content)

    return change


def truncated(name: str, share: float) -> Change:
    def change(checkpoint: Path) -> None:
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: int(share * len(content))])

    return change


def sealed(change: Change) -> Change:
    def both(checkpoint: Path) -> None:
        change(checkpoint)
        seal(checkpoint)

    return both


def missing(name: str) -> Change:
    return lambda checkpoint: (checkpoint / name).unlink()


def content(name: str, data: bytes) -> Change:
    def change(checkpoint: Path) -> None:
        (checkpoint / name).write_bytes(data)

    return change


def state(*path: str | int, value: Any) -> Change:
    """One entry of state.json replaced, and all sealed."""

    def change(checkpoint: Path) -> None:
        file = checkpoint / "state.json"
        whole = level = json.loads(file.read_text())
        for key in path[:-1]:
            level = level[key]
        level[path[-1]] = value
        file.write_text(json.dumps(whole))

    return sealed(change)


def tensors(alter: Callable[[dict[str, th.Tensor]], Any]) -> Change:
    """The tensors altered, and all sealed."""

    def change(checkpoint: Path) -> None:
        file = checkpoint / "tensors.safetensors"
        loaded = load_file(file)
        alter(loaded)
        save_file(loaded, file)

    return sealed(change)


def first(loaded: dict[str, th.Tensor], prefix: str) -> str:
    return next(name for name in sorted(loaded) if name.startswith(prefix))


def put(prefix: str, make: Callable[[th.Tensor], th.Tensor]) -> Callable[[dict[str, th.Tensor]], None]:
    def alter(loaded: dict[str, th.Tensor]) -> None:
        name = first(loaded, prefix)
        loaded[name] = make(loaded[name]).contiguous()

    return alter


def drop(prefix: str) -> Callable[[dict[str, th.Tensor]], None]:
    def alter(loaded: dict[str, th.Tensor]) -> None:
        del loaded[first(loaded, prefix)]

    return alter


def swap_files(checkpoint: Path) -> None:
    one, other = checkpoint / "state.json", checkpoint / "tensors.safetensors"
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def from_the_other(name: str) -> Change:
    def change(checkpoint: Path) -> None:
        other = next(path for path in found(checkpoint.parents[1]) if path != checkpoint)
        shutil.copy(other / name, checkpoint / name)

    return change


def become_a_file(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.write_bytes(pickle.dumps(Harm()))


def as_a_folder(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()
    (checkpoint / "state.json").mkdir()


def torch_save(checkpoint: Path) -> None:
    th.save({"policy": Harm()}, checkpoint / "tensors.safetensors")


HARM = pickle.dumps(Harm())
VARIANTS: dict[str, Change] = {
    **{f"flip {name}": flipped(name, where) for name, where in zip(NAMES, (0.9, 0.5, 0.5, 0.6), strict=True)},
    "flip the header": flipped("tensors.safetensors", 0.0),
    **{f"truncate {name}": truncated(name, 0.6) for name in NAMES},
    **{f"empty {name}": truncated(name, 0.0) for name in NAMES},
    **{f"no {name}": missing(name) for name in NAMES},
    "truncate tensors, sealed": sealed(truncated("tensors.safetensors", 0.6)),
    "truncate state, sealed": sealed(truncated("state.json", 0.6)),
    "swap files": swap_files,
    "swap files, sealed": sealed(swap_files),
    "state of the other": from_the_other("state.json"),
    "state of the other, sealed": sealed(from_the_other("state.json")),
    "manifest of the other": from_the_other("manifest.json"),
    "a file in place of the folder": become_a_file,
    "a folder in place of a file": as_a_folder,
    **{f"pickle as {name}": content(name, HARM) for name in NAMES},
    "pickle as tensors, sealed": sealed(content("tensors.safetensors", HARM)),
    "pickle as state, sealed": sealed(content("state.json", HARM)),
    "pickle as progress, sealed": sealed(content("progress.csv", HARM)),
    "torch.save as tensors, sealed": sealed(torch_save),
    "header of 2**63 bytes": sealed(content("tensors.safetensors", b"\xff" * 7 + b"\x7f{}")),
    "offsets outside": sealed(
        content(
            "tensors.safetensors",
            (58).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36000]}}',
        )
    ),
    "nested json": sealed(content("state.json", b"[" * 100_000)),
    "huge number": sealed(content("state.json", b'{"num_timesteps": ' + b"9" * 10_000 + b"}")),
    "list as state": sealed(content("state.json", b"[]")),
    "not utf-8": sealed(content("state.json", b"\xff\xfe{}")),
    "manifest of another format": content("manifest.json", b'{"format": 99, "files": {}}'),
    "manifest without files": content("manifest.json", b'{"format": 1, "files": []}'),
    "manifest of numbers": content("manifest.json", b'{"format": 1, "files": {"tensors.safetensors": 3}}'),
    "steps as text": state("num_timesteps", value="128"),
    "steps as true": state("num_timesteps", value=True),
    "negative steps": state("num_timesteps", value=-1),
    "other step": state("num_timesteps", value=64),
    "other configuration": state("identity", value="0" * 64),
    "updates as list": state("n_updates", value=[1]),
    "episodes as number": state("episodes", value=7),
    "episode without a return": state("episodes", value=[{"l": 1, "t": 0.0}]),
    "episode length too long": state("episodes", value=[{"r": 0.0, "l": 2**40, "t": 0.0}]),
    "log as text": state("log", "values", value="oops"),
    "log of lists": state("log", "values", value={"train/loss": [1]}),
    "too few returns": state("training", "returns", value=[0.0]),
    "lengths as text": state("training", "lengths", value=["a"] * 4),
    "too few episodes": state("training", "episodes", value=[]),
    "generator without a state": state("training", "episodes", 0, "generators", value={"0._np_random": {}}),
    "generator too large": state(
        *("training", "episodes", 0, "generators"),
        value={"0._np_random": {"bit_generator": "PCG64", "state": {"state": 2**200, "inc": 1}}},
    ),
    "events as list": state("events", value=[]),
    "numpy position": state("random", "numpy", "pos", value=10**6),
    "python version": state("random", "python", "version", value=99),
    "observation layout": state("observation", "image", value=[0, 0, 0, 0]),
    "weights of another shape": tensors(put("policy.", lambda x: x[..., :1])),
    "weights of another type": tensors(put("policy.", lambda x: x.double())),
    "weights not finite": tensors(put("policy.", lambda x: x * float("nan"))),
    "a weight missing": tensors(drop("policy.")),
    "a weight too many": tensors(lambda loaded: loaded.update({"policy.spare": th.zeros(1)})),
    "optimiser of another shape": tensors(put("optimizer.0.exp_avg", lambda x: th.zeros(2))),
    "optimiser incomplete": tensors(drop("optimizer.0.exp_avg_sq")),
    "memory of another shape": tensors(put("memory.pi.0", lambda x: x[:, :1])),
    "memory missing": tensors(drop("memory.pi.1")),
    "observation of another shape": tensors(put("observation.image", lambda x: x[..., :1])),
    "random state of torch": tensors(put("random.torch", lambda x: x[:100])),
    "random state of numpy": tensors(put("random.numpy", lambda x: x[:100])),
    "random state of python": tensors(put("random.python", lambda x: x * 0 - 5)),
}


@pytest.fixture
def copy(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stopped, "run")
    yield Path("run")
    assert not Path(MARKER).exists(), "code was executed"


def resumed(path: Path, changes: bool = False) -> int:
    """The step to which a run goes back."""
    run = Run.open(path)
    training = AgentLearner(run, run.config, progress_bar=False, ranks=Ranks(), goes_on=True)
    try:
        training.restore(changes, ())
        return training.reached
    finally:
        training.close()


def test_there_are_enough_variants() -> None:
    assert len(VARIANTS) >= 30


def test_harm_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(HARM)
    assert Path(MARKER).exists()


def test_a_good_checkpoint_is_taken(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resumed(copy) == 128
    for checkpoint in found(copy):
        seal(checkpoint)  # sealing alone changes nothing, so that the variants fail for what they change
    assert resumed(copy) == 128
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", VARIANTS)
def test_the_checkpoint_before_is_taken(name: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latest, before = found(copy)
    kept = files(before)
    VARIANTS[name](latest)
    assert resumed(copy) == 64
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith(f"rimrl: checkpoint {latest} is damaged (")
    assert err.endswith(" step 64\n")
    assert files(before) == kept
    assert found(copy) == [before]


@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_anywhere(seed: int, copy: Path) -> None:
    chance = random.Random(seed)
    latest, _ = found(copy)
    file = latest / chance.choice(NAMES)
    data = bytearray(file.read_bytes())
    for _ in range(chance.choice([1, 3, 100])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    changed = bytes(data) != file.read_bytes()
    file.write_bytes(data)
    assert resumed(copy) in ((64, 128) if file.name == "manifest.json" or not changed else (64,))


def test_without_a_good_one_nothing_is_touched(copy: Path) -> None:
    for checkpoint, name in zip(found(copy), ("pickle as tensors, sealed", "truncate state.json"), strict=True):
        VARIANTS[name](checkpoint)
    before = files(copy)
    with pytest.raises(UsageError, match="no good checkpoint"):
        resumed(copy)
    answer = call("train", "--resume", copy, "--total-timesteps", "256", "--accept-changes", "--quiet")
    assert answer.code == 2
    assert "run/resume" in answer.err
    assert answer.err.count("\n") == 1
    assert files(copy) == before


def test_the_command_goes_on_from_the_one_before(copy: Path) -> None:
    latest, _ = found(copy)
    VARIANTS["pickle as state, sealed"](latest)
    answer = succeed("train", "--resume", copy, "--total-timesteps", "192", "--accept-changes", "--quiet")
    assert "is damaged" in answer.err
    assert answer.err.count("\n") == 1
    assert [int(path.name) for path in found(copy)] == [192, 128]
