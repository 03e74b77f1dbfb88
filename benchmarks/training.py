"""Steps per second of whole PPO iterations: rimrl beside unmodified sb3-contrib, in turns, on the same task.

Both sides get the same observations, architecture and hyper-parameters. An iteration is a rollout and its update; the
rows "environment" and "network" time either half alone, so that what bounds a figure can be read off. With ``--peers``,
other libraries run beside them (`benchmarks.peers`).

    python -m benchmarks.training --rounds 7 --json docs/benchmarks/training.json
    python -m benchmarks.training --task minigrid --peers all --json docs/benchmarks/training-peers.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

import rimrl
from benchmarks._replay import Replay
from benchmarks._timing import Timing, interleave, markdown_table, write_json
from benchmarks.peers import PEERS
from benchmarks.tasks import ENT_COEF, LEARNING_RATE, MAIN_TASKS, TASKS, Task, make_env
from rimrl.agents.saved.options import EXTRACTORS
from rimrl.cores.scan import library

RIM = {"num_units": 6, "num_active": 4}


def make_model(task: Task, side: str, env: VecEnv, device: str, options: dict[str, Any]) -> Any:
    """``"contrib"``, ``"lstm"`` or ``"rim"``, ready to learn."""
    common: dict[str, Any] = {
        "env": env,
        "n_steps": task.n_steps,
        "batch_size": task.batch_size,
        "n_epochs": task.n_epochs,
        "learning_rate": LEARNING_RATE,
        "ent_coef": ENT_COEF,
        "seed": 1,
        "device": device,
    }
    extractor = {"features_extractor_class": EXTRACTORS[task.extractor]} if task.extractor else {}
    if side == "contrib":
        kwargs = {
            **extractor,
            "net_arch": [],
            "lstm_hidden_size": task.lstm_size,
            "shared_lstm": True,
            "enable_critic_lstm": False,
        }
        model: Any = ContribRecurrentPPO(f"{task.policy}LstmPolicy", policy_kwargs=kwargs, **common)
    else:
        core_kwargs = {"hidden_size": task.lstm_size} if side == "lstm" else RIM | {"hidden_size": task.rim_size}
        kwargs = {**extractor, "net_arch": [], "core": side, "core_kwargs": core_kwargs}
        model = rimrl.RecurrentPPO(f"{task.policy}Policy", policy_kwargs=kwargs, **common, **options)
    model.set_logger(Logger(None, []))
    return model


def iteration(model: Any) -> Callable[[], None]:
    """One rollout and its update, through the public ``learn``."""

    def run() -> None:
        model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)

    return run


def step_only(env: VecEnv, n_steps: int) -> Callable[[], None]:
    """The environments alone, under random actions."""
    rng = np.random.default_rng(0)
    n_actions = env.action_space.n  # type: ignore[attr-defined]
    env.reset()

    def run() -> None:
        for _ in range(n_steps):
            env.step(rng.integers(n_actions, size=env.num_envs))

    return run


def state_bytes(model: Any) -> int:
    """Bytes of recurrent state that a rollout keeps."""
    buffer = model.rollout_buffer
    if isinstance(model, ContribRecurrentPPO) and not isinstance(model, rimrl.RecurrentPPO):
        arrays = [
            buffer.hidden_states_pi,
            buffer.cell_states_pi,
            buffer.hidden_states_vf,
            buffer.cell_states_vf,
        ]
        return sum(array.nbytes for array in arrays)
    return int(buffer.state_bytes)


def run_task(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time all sides of one task; returns plain results with the table's rows."""
    task = TASKS[name]
    sides = ("contrib", *args.cores)
    options = {"autocast": task.autocast} if task.autocast else {}
    envs = {side: make_env(task) for side in ("contrib", *(() if task.backend else args.cores), "environment")}
    if task.backend:
        envs |= {side: make_env(task, task.backend) for side in (*args.cores, f"environment {task.backend}")}
    models = {
        side: make_model(task, side, envs[side], args.device, options if side != "contrib" else {}) for side in sides
    }
    workloads = {LABELS[side]: iteration(model) for side, model in models.items()}
    peers = {PEERS[name].label: PEERS[name].make(task) for name in args.peers}
    workloads |= {label: peer.iterate for label, peer in peers.items()}
    for label in [name for name in envs if name.startswith("environment")]:
        workloads[label] = step_only(envs[label], task.n_steps)
    if not args.peers:
        replay = Replay.record(make_env(task), 4 * task.n_steps)
        for side in sides:
            model = make_model(task, side, replay.twin(), args.device, options if side != "contrib" else {})
            workloads[f"{LABELS[side]}, network alone"] = iteration(model)

    timings = interleave(workloads, rounds=args.rounds, warmup=args.warmup, report=print)
    for env in envs.values():
        env.close()
    for peer in peers.values():
        peer.close()
    return {
        "task": asdict(task),
        "timings": timings,
        "steps_per_second": {label: timing.per_second(task.steps) for label, timing in timings.items()},
        "speedup_over_contrib": {label: t.speedup_over(timings[LABELS["contrib"]]) for label, t in timings.items()},
        "cpu_speedup_over_contrib": {
            label: t.cpu_speedup_over(timings[LABELS["contrib"]]) for label, t in timings.items()
        },
        "state_bytes": {LABELS[side]: state_bytes(model) for side, model in models.items()},
    }


def check_peers(parser: argparse.ArgumentParser, tasks: Sequence[str], peers: Sequence[str]) -> None:
    """End the program if a library is missing, or if a task has other observations than vectors."""
    missing = [peer for peer in peers if not PEERS[peer].installed]
    if missing:
        parser.error(f"--peers {' '.join(missing)}: not installed; pip install 'rimrl[bench]'")
    others = [name for name in tasks if TASKS[name].observation != "raw"]
    if others:
        parser.error(f"--peers with --task {' '.join(others)}: the peers know --task minigrid alone")


LABELS = {"contrib": "sb3-contrib LSTM", "lstm": "rimrl LSTM", "rim": "rimrl RIM"}


def table(task: Task, timings: dict[str, Timing], state: dict[str, int]) -> str:
    """The rows of one task as Markdown."""
    base = timings[LABELS["contrib"]]
    rows = [
        {
            task.env_id: label,
            "steps/s": timing.per_second(task.steps),
            "x sb3-contrib": timing.speedup_over(base),
            "CPU s": timing.cpu_seconds().median,
            "recurrent state, kB": f"{state[label] / 1000:,.0f}" if label in state else "",
        }
        for label, timing in timings.items()
    ]
    return markdown_table(rows)


def peer_table(timings: dict[str, Timing], peers: Sequence[str]) -> str:
    """How many times as fast as each peer's LSTM rimrl's sides are, as Markdown."""
    sides = [label for side, label in LABELS.items() if side != "contrib" and label in timings]
    rows = [
        {"beside": label} | {side: timings[side].speedup_over(timings[label]) for side in sides}
        for label in (PEERS[name].label for name in peers)
    ]
    return markdown_table(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the shell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", nargs="+", choices=TASKS, help=f"default: {', '.join(MAIN_TASKS)}")
    parser.add_argument("--rounds", type=int, default=7, help="timed iterations of each side")
    parser.add_argument("--warmup", type=int, default=1, help="iterations of each side before that, untimed")
    parser.add_argument("--quick", action="store_true", help="the first task alone, two rounds")
    parser.add_argument("--cores", nargs="+", choices=["lstm", "rim"], default=["lstm", "rim"], help="rimrl's cores")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=["all", *PEERS],
        default=[],
        help="other libraries beside rimrl, where observations are vectors; leaves out the network alone",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch's threads; default: torch's choice")
    parser.add_argument("--without-kernels", action="store_true", help="as where no C++ compiler was found")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args(argv)
    if args.threads:
        th.set_num_threads(args.threads)
    if args.without_kernels:
        library.FILE = library.FILE.with_name("none")
    names = list(args.task or MAIN_TASKS)
    if args.peers:
        args.peers = list(PEERS) if "all" in args.peers else args.peers
        check_peers(parser, names, args.peers)
    if args.quick:
        names, args.rounds, args.warmup = names[:1], min(args.rounds, 2), 1
    results = {}
    for name in names:
        results[name] = run_task(name, args)
        print(f"\n{table(TASKS[name], results[name]['timings'], results[name]['state_bytes'])}\n", flush=True)
        if args.peers:
            print(f"{peer_table(results[name]['timings'], args.peers)}\n", flush=True)
    if args.json is not None:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        write_json(args.json, "training", settings, results)


if __name__ == "__main__":
    main()
