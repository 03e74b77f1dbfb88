"""ONNX graphs of policies with each core at equal width: size of the file, and time of a step beside torch.

    python -m benchmarks.onnx --json docs/benchmarks/onnx.json
    python -m benchmarks.onnx --no-times     # sizes alone

Both sides take the observation and the state as NumPy arrays, and give the action and the next state as such: torch
with `predict(deterministic=True)`, ONNX with onnxruntime, on one thread each. Times are processor time, which depends
less on what else the machine does than elapsed time, and ratios are taken within each round. JSON has both times.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from benchmarks._timing import Timing, interleave, markdown_table, repeated, write_json
from rimrl import RecurrentPPO
from rimrl.agents.graph.drawing import draw
from rimrl.agents.graph.onnx_file import named_inputs, write_onnx
from rimrl.agents.graph.step import PolicyStep

WIDTH = 96
OPTIONS: dict[str, dict[str, Any]] = {
    "rim": {"num_units": 6, "num_active": 4, "hidden_size": WIDTH},
    "riglstm": {"num_units": 6, "num_active": 5, "hidden_size": WIDTH},
    "brims": {"num_layers": 2, "num_units": 6, "num_active": 4, "hidden_size": WIDTH},
    "grid_lstm": {"num_units": 6, "hidden_size": WIDTH},
    "rmc": {"num_slots": 4, "hidden_size": WIDTH},
    "entnet": {"num_slots": 6, "hidden_size": WIDTH},
    "ntm": {"hidden_size": WIDTH},
    "dnc": {"hidden_size": WIDTH},
    "lstm": {"hidden_size": WIDTH},
    "gru": {"hidden_size": WIDTH},
    "rnn": {"hidden_size": WIDTH},
    "indrnn": {"hidden_size": WIDTH},
    "feedforward": {"hidden_size": WIDTH},
}


@dataclass(frozen=True)
class Measured:
    """What was found of one core.

    Attributes:
        parameters: Of the policy.
        file_bytes: Of its graph.
        largest_difference: Between the graph and the policy, as `write_onnx` checked it.
        times: For each number of environments the times of runs of many steps, under ``onnx`` and ``torch``.
    """

    parameters: int
    file_bytes: int
    largest_difference: float
    times: dict[int, dict[str, Timing]]

    def row(self, core: str, steps: int) -> dict[str, object]:
        """Of the table."""
        found: dict[str, object] = {
            "core": f"`{core}`",
            "parameters": f"{self.parameters:,}",
            "file, kB": round(self.file_bytes / 1000),
        }
        for rows, timing in self.times.items():
            for name in ("onnx", "torch"):
                found[f"{name}, B={rows}: µs"] = timing[name].cpu_seconds().median / steps * 1e6
            found[f"torch / onnx, B={rows}"] = timing["onnx"].cpu_speedup_over(timing["torch"])
        return found


def measure(core: str, folder: Path, args: argparse.Namespace) -> Measured:
    """Write the graph of a policy with a core and, if asked for, time a step."""
    env = make_vec_env("CartPole-v1")
    agent = RecurrentPPO("MlpPolicy", env, policy_kwargs={"core": core, "core_kwargs": OPTIONS[core]}, device="cpu")
    policy, file = agent.policy, folder / f"{core}.onnx"
    facts = write_onnx(policy, file)
    return Measured(
        # SB3 knows a shared extractor under several names; parameters() counts each once.
        parameters=sum(weight.numel() for weight in policy.parameters()),
        file_bytes=file.stat().st_size,
        largest_difference=facts["checked"]["largest_difference"],
        times={} if args.no_times else {rows: times(policy, file, rows, args) for rows in args.rows},
    )


def times(policy: Any, file: Path, rows: int, args: argparse.Namespace) -> dict[str, Timing]:
    """Times of a step for so many environments, in turns, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    assert isinstance(policy.observation_space, spaces.Box)
    observation = draw(policy.observation_space, None, rows, np.random.default_rng(0))
    shapes = PolicyStep(policy).state_shapes
    state = tuple(np.zeros((layers, rows, size), np.float32) for layers, _, size in shapes)
    starts = np.zeros(rows, bool)
    given = named_inputs(observation, state, starts)

    def onnx() -> None:
        session.run(None, given)

    def torch_step() -> None:
        policy.predict(observation, state, starts, deterministic=True)

    workloads = {"onnx": repeated(onnx, args.steps), "torch": repeated(torch_step, args.steps)}
    return interleave(workloads, args.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-times", action="store_true", help="sizes alone")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16], help="environments in a step")
    parser.add_argument("--steps", type=int, default=200, help="steps in a timed run")
    parser.add_argument("--rounds", type=int, default=11, help="timed runs of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save every time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {core: measure(core, Path(folder), args) for core in OPTIONS}
    print(markdown_table([each.row(core, args.steps) for core, each in found.items()]))
    if args.json is not None:
        versions = {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}
        settings = {"width": WIDTH, "steps": args.steps, "rounds": args.rounds, "options": OPTIONS, **versions}
        write_json(args.json, "onnx", settings, {core: vars(each) for core, each in found.items()})


if __name__ == "__main__":
    main()
