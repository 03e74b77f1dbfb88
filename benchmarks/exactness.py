"""Whether a change moves numbers: train one small run of every kind, and compare its weights bit for bit.

    python -m benchmarks.exactness before.json                       # on the commit before the change
    python -m benchmarks.exactness after.json --against before.json  # on the commit after it
    python -m benchmarks.exactness some.json --only resumed copying  # kinds whose names hold one of these words

The commands are those of the package that Python finds, on one thread. The script prints ``equal`` or ``differs`` for
each kind, and exits with 1 if any differs. Another processor or torch gives other weights: compare on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch as th
from safetensors.torch import load_file

AGENT = ("--env.n_envs", "8", "--agent.n_steps", "32", "--train.eval_freq", "0")
SUITES = ("recall", "distractors", "multiroom", "tmaze")
CORES = ("rim", "riglstm", "brims", "lstm", "gru", "feedforward", "rmc", "entnet", "grid_lstm")
TASKS = {
    "copying": ("--task.blanks", "5", "--task.test_blanks", "[5]"),
    "adding": ("--task.length", "8", "--task.test_lengths", "[8]"),
    "balls": (),
}


def commands() -> dict[str, list[tuple[str, ...]]]:
    """Commands of each kind; the last word of the first one is the folder that they leave."""
    kinds: dict[str, list[tuple[str, ...]]] = {}
    for suite in SUITES:
        kinds[f"{suite}/rim"] = [("train", f"{suite}/rim", *AGENT, "--train.total_timesteps", "1024")]
    for core in CORES[1:]:
        kinds[f"distractors/{core}"] = [("train", f"distractors/{core}", *AGENT, "--train.total_timesteps", "512")]
    kinds["spatial"] = [("train", "distractors/rim_spatial", *AGENT, "--train.total_timesteps", "512")]
    kinds["a2c"] = [("train", "multiroom/a2c_rim", *AGENT, "--train.total_timesteps", "1024")]
    separate = ("--agent.core_sharing", "separate", "--agent.normalize_observations", "true")
    kinds["separate, normalized"] = [("train", "recall/lstm", *AGENT, *separate, "--train.total_timesteps", "1024")]
    kinds["resumed agent"] = [
        ("train", "recall/rim", *AGENT, "--train.total_timesteps", "512"),
        ("train", "--resume", "RUN", "--total-timesteps", "1024", "--accept-changes"),
    ]
    kinds["evaluated while training"] = [
        ("train", "recall/rim", *AGENT[:4], "--train.eval_freq", "512", "--train.total_timesteps", "1024")
    ]
    for task, options in TASKS.items():
        for core in ("rim", "riglstm", "lstm"):
            kinds[f"{task}/{core}"] = [("sequence", task, "--core", core, "--num-updates", "4", *options)]
    kinds["resumed sequence task"] = [
        ("sequence", "copying", "--core", "rim", "--num-updates", "2", *TASKS["copying"]),
        ("sequence", "--resume", "RUN", "--num-updates", "4", "--accept-changes"),
    ]
    kinds["sweep"] = [
        ("sweep", "recall/rim", "--seeds", "0,1", *AGENT, "--train.total_timesteps", "256", "--jobs", "1")
    ]
    kinds["transfer"] = [
        ("transfer", "transfer/small", "--seeds", "0", "--source-timesteps", "256", "--target-timesteps", "256")
    ]
    return kinds


def make(kind: list[tuple[str, ...]], folder: Path) -> str:
    """Run the commands of one kind, and give the digest of all weights that they leave.

    Args:
        kind: The commands, one after the other.
        folder: A folder that is not there yet.

    Returns:
        A SHA-256, or the last line of what went wrong.
    """
    for number, words in enumerate(kind):
        where = ("--run-dir", str(folder)) if number == 0 else ()
        filled = [str(folder) if word == "RUN" else word for word in words]
        done = subprocess.run(
            [sys.executable, "-m", "rimrl", *filled, *where, "--quiet"],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            check=False,
        )
        if done.returncode:
            return f"failed with {done.returncode}: {' '.join(done.stderr.strip().splitlines()[-1:])}"
    digest = hashlib.sha256()
    for name, tensor in sorted(weights(folder)):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def weights(folder: Path) -> Iterator[tuple[str, th.Tensor]]:
    """Every tensor of the models in a folder, by its path."""
    for file in folder.rglob("model.safetensors"):
        for name, tensor in load_file(file).items():
            yield f"{file.relative_to(folder)}/{name}", tensor
    for file in folder.rglob("model.zip"):
        with zipfile.ZipFile(file) as archive:
            state = th.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
        for name, tensor in state.items():
            yield f"{file.relative_to(folder)}/{name}", tensor


def main() -> int:
    """Make the runs, write their digests, and compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("output", type=Path, help="JSON file for the digests")
    parser.add_argument("--against", type=Path, help="digests to compare with")
    parser.add_argument("--only", nargs="+", default=[], help="kinds whose names hold one of these words")
    options = parser.parse_args()
    chosen = {
        kind: runs
        for kind, runs in commands().items()
        if not options.only or any(word in kind for word in options.only)
    }
    before = json.loads(options.against.read_text()) if options.against else {}
    found: dict[str, str] = {}
    moved = False
    with tempfile.TemporaryDirectory() as scratch:
        for number, (kind, runs) in enumerate(chosen.items()):
            found[kind] = make(runs, Path(scratch) / str(number))
            same = before.get(kind) == found[kind]
            moved |= bool(before) and not same
            print(f"{kind:28} {('equal' if same else 'differs') if before else ''} {found[kind][:120]}", flush=True)
            options.output.write_text(json.dumps(found, indent=2) + "\n")
    return int(moved or any(digest.startswith("failed") for digest in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
