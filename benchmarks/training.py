"""Steps per second of whole PPO iterations: rimrl beside unmodified sb3-contrib, in turns, on the same task.

Both sides get the same observations, architecture and hyper-parameters. An iteration is a rollout and its update; the
rows "environment" and "network" time either half alone, so that what bounds a figure can be read off.

    python -m benchmarks.training --rounds 7 --json docs/benchmarks/training.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch as th
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.env_util import make_vec_env as make_sb3_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

import rimrl
from benchmarks._replay import Replay
from benchmarks._timing import Timing, interleave, markdown_table, write_json
from rimrl.agents.saved.options import EXTRACTORS
from rimrl.cores.scan import library

RIM = {"num_units": 6, "num_active": 4}


@dataclass(frozen=True)
class Task:
    """What is trained, alike on both sides.

    Attributes:
        env_id: A gymnasium id.
        observation: ``"raw"``: MiniGrid's 7x7x3 integers, flat; ``"one_hot"``: `rimrl.envs.minigrid`'s tiles;
            ``"atari"``: grey frames, on contrib's side from SB3's Atari wrappers.
        policy: Name of the policy form, the part before ``Policy``.
        n_envs: Environments.
        n_steps: Steps of each in a rollout.
        batch_size: Steps in a minibatch.
        n_epochs: Passes over a rollout.
        lstm_size: Width of the LSTM.
        rim_size: Width of the RIM, the next that six units divide.
        backend: Back end of rimrl's side; None: the environments that contrib gets.
        autocast: Arithmetic of the extractor on rimrl's side.
        screen_size: Pixels along a side of Atari's screen.
        frame_stack: Frames that are shown of it.
        extractor: Features extractor of both sides, by name; None: the one of the policy form.
    """

    env_id: str
    observation: str
    policy: str
    n_envs: int
    n_steps: int = 128
    batch_size: int = 512
    n_epochs: int = 4
    lstm_size: int = 256
    rim_size: int = 258
    backend: str | None = None
    autocast: str | None = None
    screen_size: int = 84
    frame_stack: int = 4
    extractor: str | None = None

    @property
    def steps(self) -> int:
        """Environment steps in an iteration."""
        return self.n_envs * self.n_steps


DOORKEY = Task("MiniGrid-DoorKey-6x6-v0", "one_hot", "MultiInput", n_envs=16)
PONG = Task("ALE/Pong-v5", "atari", "Cnn", n_envs=8, batch_size=256)
SMALL_PONG = Task(
    *("ALE/Pong-v5", "atari", "Cnn"),
    n_envs=32,
    n_steps=64,
    batch_size=256,
    n_epochs=3,
    lstm_size=192,
    rim_size=192,
    backend="native",
    screen_size=42,
    frame_stack=1,
    extractor="SmallCNN",
)
TASKS = {
    "minigrid": Task("MiniGrid-MultiRoom-N2-S4-v0", "raw", "Mlp", n_envs=16),
    "doorkey": DOORKEY,
    "doorkey-envpool": replace(DOORKEY, backend="envpool"),
    "pong": PONG,
    "pong-native": replace(PONG, backend="native"),
    "pong-native-bf16": replace(PONG, backend="native", autocast="bf16"),
    "atari-small": SMALL_PONG,
}
MAIN_TASKS = ("minigrid", "doorkey-envpool", "pong-native", "pong-native-bf16")
"""What runs where no task is named."""


def make_env(task: Task, backend: str | None = None, seed: int = 1) -> VecEnv:
    """The environments of a task; a backend of rimrl's by name, or what an SB3 user runs."""
    if backend is not None:
        return rimrl_env(task, backend, seed)
    if task.observation == "atari":
        import ale_py  # noqa: F401, PLC0415 (registers its ids)

        # One frame a step and no sticky actions: SB3's wrapper skips frames itself.
        game = {"frameskip": 1, "repeat_action_probability": 0.0}
        screen = {"screen_size": task.screen_size}
        frames = make_atari_env(task.env_id, task.n_envs, seed=seed, env_kwargs=game, wrapper_kwargs=screen)
        return VecTransposeImage(VecFrameStack(frames, n_stack=task.frame_stack))
    if task.observation == "one_hot":
        return rimrl_env(task, "dummy", seed)
    import minigrid  # noqa: F401, PLC0415 (registers its ids)

    return make_sb3_vec_env(task.env_id, task.n_envs, seed=seed, wrapper_class=flat_tiles)


def rimrl_env(task: Task, backend: str, seed: int) -> VecEnv:
    """The environments of a task through `rimrl.envs`, with the same observations."""
    from rimrl.envs.vector import make_vec_env  # noqa: PLC0415 (slow to import)

    kwargs: dict[str, Any] = {"mission": False}
    if task.observation == "atari":
        kwargs = {"preset": "legacy", "screen_size": task.screen_size, "frame_stack": task.frame_stack}
    env: VecEnv = make_vec_env(task.env_id, n_envs=task.n_envs, seed=seed, backend=backend, **kwargs)  # type: ignore[arg-type]
    return env


def flat_tiles(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """MiniGrid's own integers as one vector."""
    from minigrid.wrappers import ImgObsWrapper  # noqa: PLC0415 (slow to import)

    return gymnasium.wrappers.FlattenObservation(ImgObsWrapper(env))  # type: ignore[no-untyped-call]


def make_model(task: Task, side: str, env: VecEnv, device: str, options: dict[str, Any]) -> Any:
    """``"contrib"``, ``"lstm"`` or ``"rim"``, ready to learn."""
    common: dict[str, Any] = {
        "env": env,
        "n_steps": task.n_steps,
        "batch_size": task.batch_size,
        "n_epochs": task.n_epochs,
        "learning_rate": 2.5e-4,
        "ent_coef": 0.01,
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
    for label in [name for name in envs if name.startswith("environment")]:
        workloads[label] = step_only(envs[label], task.n_steps)
    replay = Replay.record(make_env(task), 4 * task.n_steps)
    for side in sides:
        model = make_model(task, side, replay.twin(), args.device, options if side != "contrib" else {})
        workloads[f"{LABELS[side]}, network alone"] = iteration(model)

    timings = interleave(workloads, rounds=args.rounds, report=print)
    for env in envs.values():
        env.close()
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the shell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", nargs="+", choices=TASKS, help=f"default: {', '.join(MAIN_TASKS)}")
    parser.add_argument("--rounds", type=int, default=7, help="timed iterations of each side")
    parser.add_argument("--quick", action="store_true", help="MiniGrid alone, two rounds")
    parser.add_argument("--cores", nargs="+", choices=["lstm", "rim"], default=["lstm", "rim"], help="rimrl's cores")
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
    if args.quick:
        names, args.rounds = names[:1], min(args.rounds, 2)
    results = {}
    for name in names:
        results[name] = run_task(name, args)
        print(f"\n{table(TASKS[name], results[name]['timings'], results[name]['state_bytes'])}\n", flush=True)
    if args.json is not None:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        write_json(args.json, "training", settings, results)


if __name__ == "__main__":
    main()
