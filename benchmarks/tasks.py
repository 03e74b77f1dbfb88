"""What the training benchmark trains on: tasks, and their environments for every library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.env_util import make_vec_env as make_sb3_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

from rimrl.envs.minigrid_view import with_fast_view

FAST_VIEW = "fast-view"
LEARNING_RATE = 2.5e-4
ENT_COEF = 0.01
ADAM_EPS = 1e-5
"""What Stable-Baselines3's policies give Adam."""


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
        backend: Back end of rimrl's side, or ``"fast-view"`` for MiniGrid with `rimrl.envs.minigrid_view`; None: the
            environments that contrib gets.
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
    "minigrid": Task("MiniGrid-MultiRoom-N2-S4-v0", "raw", "Mlp", n_envs=16, backend=FAST_VIEW),
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
    if backend is not None and backend != FAST_VIEW:
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

    wrapper = flat_tiles if backend is None else lambda env: flat_tiles(with_fast_view(env))
    return make_sb3_vec_env(task.env_id, task.n_envs, seed=seed, wrapper_class=wrapper)


def rimrl_env(task: Task, backend: str, seed: int) -> VecEnv:
    """The environments of a task through `rimrl.envs`, with the same observations."""
    from rimrl.envs.vector import make_vec_env  # noqa: PLC0415 (slow to import)

    kwargs: dict[str, Any] = {"mission": False}
    if task.observation == "atari":
        kwargs = {"preset": "legacy", "screen_size": task.screen_size, "frame_stack": task.frame_stack}
    env: VecEnv = make_vec_env(task.env_id, n_envs=task.n_envs, seed=seed, backend=backend, **kwargs)  # type: ignore[arg-type]
    return env


def single_env(task: Task) -> Callable[[], gymnasium.Env[Any, Any]]:
    """A function that makes one environment of a task whose observations are ``"raw"``, for libraries without SB3."""
    import minigrid  # noqa: F401, PLC0415 (registers its ids)

    return lambda: flat_tiles(gymnasium.make(task.env_id))


def flat_tiles(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """MiniGrid's own integers as one vector."""
    from minigrid.wrappers import ImgObsWrapper  # noqa: PLC0415 (slow to import)

    return gymnasium.wrappers.FlattenObservation(ImgObsWrapper(env))  # type: ignore[no-untyped-call]
