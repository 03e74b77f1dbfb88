"""Every registered id keeps gymnasium's contract."""

from __future__ import annotations

import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from rimrl.envs.hidden_velocity import TASKS
from rimrl.envs.registration import register_envs
from rimrl.envs.splits import Suite
from rimrl.envs.suites import SUITES
from rimrl.envs.vector import make_env

OURS = [env_id for env_id in gymnasium.registry if env_id.startswith("rimrl/")]
CONTROL = {task: {f"rimrl/{task}{change}-v0" for change in ("NoVelocity", "NoisyJoints")} for task in TASKS}
NEED_MUJOCO = {env_id for task, ids in CONTROL.items() if task != "Pendulum" for env_id in ids}


def test_every_split_and_probe_is_registered() -> None:
    probes = {"RecallCue", "RepeatPrevious", "CountSteps", "Forget", "Bandit", "CartPoleNoVelocity", "ObjectPicking"}
    splits = {split.env_id for suite in SUITES.values() for split in suite.splits if split.env_id.startswith("rimrl/")}
    assert set(OURS) == {f"rimrl/{name}-v0" for name in probes} | splits | set().union(*CONTROL.values())


def test_registering_again_changes_nothing() -> None:
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
    assert gymnasium.registry == before


@pytest.mark.parametrize("env_id", OURS)
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version.*")
@pytest.mark.filterwarnings("ignore:.*not having a wrapper.*")
def test_id_keeps_gymnasiums_contract(env_id: str) -> None:
    if env_id in NEED_MUJOCO:
        pytest.importorskip("mujoco")
    check_env(gymnasium.make(env_id, disable_env_checker=True), skip_render_check=True)


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_splits_share_their_spaces(suite: Suite) -> None:
    spaces = []
    for split in suite.splits:
        env = make_env(suite.name, split=split.name)
        spaces.append((env.observation_space, env.action_space))
    assert all(space == spaces[0] for space in spaces)
