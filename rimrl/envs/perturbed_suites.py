"""Suites of continuous control with noise in the joints, one for each task: trained without, tested with it.

The RIM paper (Goyal et al., ICLR 2021, App. E.1) clones an expert on Half-Cheetah from clean demonstrations and tests
the clone with noise in the joints. Naming and listing the suites imports nothing; all but Pendulum need MuJoCo.
"""

from __future__ import annotations

from rimrl.envs.splits import EnvSplit, Suite, SuiteFamily
from rimrl.errors import unknown_name

TASKS = ("Pendulum", "HalfCheetah", "Hopper", "Walker2d")
NOISES = (0.1, 0.2, 0.5)
"""Standard deviations of the held-out splits, in rad and rad/s."""


def noisy_id(task: str) -> str:
    """The gymnasium id of a task with noise: ``rimrl/PendulumNoisyJoints-v0``."""
    return f"rimrl/{task}NoisyJoints-v0"


def _perturbed(task: str) -> Suite:
    train = EnvSplit("train", noisy_id(task), False, "Without noise.", {"noise": 0.0})
    through_noise = (
        train.varied(
            f"noise_{noise}",
            f"Gaussian noise of {noise} rad on angles of joints and {noise} rad/s on their speeds.",
            noise=noise,
        )
        for noise in NOISES
    )
    description = f"{task} seen as it is; held-out splits show its joints through noise."
    return Suite(f"perturbed/{task}", description, (train, *through_noise))


def _find(name: str) -> Suite:
    task = next((task for task in TASKS if task.lower() == name.lower()), None)
    if task is None:
        raise unknown_name("task", name, TASKS, where=f"suite 'perturbed/{name}'")
    return _perturbed(task)


FAMILIES = (SuiteFamily(_perturbed("<Task>"), "task", "Pendulum", _find),)
