"""Registers rimrl's environments with gymnasium; importing this module needs gymnasium alone."""

from __future__ import annotations

from typing import Any

import gymnasium

from rimrl.envs.perturbed_suites import noisy_id
from rimrl.envs.suites import DISTRACTORS, LAYOUTS, MEMORY, RECALL, TMAZE

_SUITES = (
    (DISTRACTORS, "rimrl.envs.distractors:make_distractors"),
    (MEMORY, "rimrl.envs.memory:make_memory"),
    (RECALL, "rimrl.envs.recall:RecallEnv"),
    (TMAZE, "rimrl.envs.tmaze:TMazeEnv"),
    (LAYOUTS, "rimrl.envs.layouts:make_layouts"),
)
_PROBES = {
    "rimrl/RecallCue-v0": "rimrl.envs.probes:RecallCueEnv",
    "rimrl/RepeatPrevious-v0": "rimrl.envs.probes:RepeatPreviousEnv",
    "rimrl/CountSteps-v0": "rimrl.envs.probes:CountStepsEnv",
    "rimrl/Forget-v0": "rimrl.envs.probes:ForgetEnv",
    "rimrl/Bandit-v0": "rimrl.envs.probes:BanditEnv",
}


_TIME_LIMITS = {"Pendulum": 200, "HalfCheetah": 1000, "Hopper": 1000, "Walker2d": 1000}
"""Of the tasks of `rimrl.envs.hidden_velocity` and `rimrl.envs.noisy_joints`."""


def register_envs() -> None:
    """Register every environment id under the ``rimrl/`` namespace; calling it again changes nothing."""
    _register("rimrl/ObjectPicking-v0", "rimrl.envs.distractors:ObjectPickingEnv")
    for suite, entry_point in _SUITES:
        for split in suite.splits:
            _register(split.env_id, entry_point, kwargs=dict(split.env_kwargs))
    for env_id, entry_point in _PROBES.items():
        _register(env_id, entry_point)
    _register("rimrl/CartPoleNoVelocity-v0", "rimrl.envs.probes:make_cartpole_no_velocity", max_episode_steps=500)
    for task, steps in _TIME_LIMITS.items():
        entry_point = "rimrl.envs.hidden_velocity:make_hidden_velocity"
        _register(f"rimrl/{task}NoVelocity-v0", entry_point, kwargs={"task": task}, max_episode_steps=steps)
        entry_point = "rimrl.envs.noisy_joints:make_noisy_joints"
        _register(noisy_id(task), entry_point, kwargs={"task": task}, max_episode_steps=steps)


def _register(env_id: str, entry_point: str, **options: Any) -> None:
    # Registering an id twice makes gymnasium warn. The passive checker is left out because it would cost more than a
    # step of these environments; the tests run gymnasium's full checker instead.
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, entry_point, disable_env_checker=True, **options)
