"""ONNX graphs of policies with each core at equal width: size of the file, and time of a step beside torch.

python -m benchmarks.onnx                # the whole table
python -m benchmarks.onnx --no-times     # sizes alone, for a machine that does something else, too
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from benchmarks._timing import interleave, markdown_table, repeated
from rimrl import RecurrentPPO
from rimrl.agents.graph.drawing import draw
from rimrl.agents.graph.onnx_file import named_inputs, write_onnx
from rimrl.agents.graph.step import PolicyStep

WIDTH = 240
OPTIONS: dict[str, dict[str, Any]] = {
    "rim": {"num_units": 6, "num_active": 4, "hidden_size": WIDTH},
    "riglstm": {"num_units": 6, "num_active": 5, "hidden_size": WIDTH},
    "brims": {"num_layers": 2, "num_units": 6, "num_active": 4, "hidden_size": WIDTH},
    "grid_lstm": {"num_units": 6, "hidden_size": WIDTH},
    "rmc": {"num_slots": 4, "hidden_size": WIDTH},
    "entnet": {"num_slots": 6, "hidden_size": WIDTH},
    "lstm": {"hidden_size": WIDTH},
    "gru": {"hidden_size": WIDTH},
    "feedforward": {"hidden_size": WIDTH},
}


def row(core: str, folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """One core: its parameters, the size of its graph and, if asked for, times of a step."""
    env = make_vec_env("CartPole-v1")
    agent = RecurrentPPO("MlpPolicy", env, policy_kwargs={"core": core, "core_kwargs": OPTIONS[core]}, device="cpu")
    policy, file = agent.policy, folder / f"{core}.onnx"
    facts = write_onnx(policy, file)
    # SB3 knows a shared extractor under several names; parameters() counts each once.
    parameters = sum(weight.numel() for weight in policy.parameters())
    found: dict[str, object] = {
        "core": f"`{core}`",
        "parameters": f"{parameters:,}",
        "file, kB": f"{file.stat().st_size / 1000:,.0f}",
        "largest difference": f"{facts['checked']['largest_difference']:.1e}",
    }
    return found if args.no_times else found | times(policy, file, args)


def times(policy: Any, file: Path, args: argparse.Namespace) -> dict[str, object]:
    """Microseconds of a step for each number of environments, in turns, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    assert isinstance(policy.observation_space, spaces.Box)
    found: dict[str, object] = {}
    for rows in args.rows:
        observation = draw(policy.observation_space, None, rows, np.random.default_rng(0))
        shapes = PolicyStep(policy).state_shapes
        state = tuple(np.zeros((layers, rows, size), np.float32) for layers, _, size in shapes)
        starts = np.zeros(rows, bool)
        given = named_inputs(observation, state, starts)

        def onnx(given: dict[str, Any] = given) -> None:
            session.run(None, given)

        def torch_step(given: tuple[Any, ...] = (observation, state, starts)) -> None:
            policy.predict(*given, deterministic=True)

        workloads = {"onnx": repeated(onnx, args.steps), "torch": repeated(torch_step, args.steps)}
        for name, timing in interleave(workloads, args.rounds).items():
            found[f"{name}, {rows}, µs"] = f"{timing.seconds().median / args.steps * 1e6:,.0f}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-times", action="store_true", help="sizes alone")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16], help="environments in a step")
    parser.add_argument("--steps", type=int, default=200, help="steps in a timed run")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(markdown_table([row(core, Path(folder), args) for core in OPTIONS]))


if __name__ == "__main__":
    main()
