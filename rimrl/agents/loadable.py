"""What trains can be loaded: settings, spaces and arguments that a file could not bring back are refused in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rimrl.agents.config import AgentConfig
from rimrl.agents.registry import config_class, name_of
from rimrl.agents.saved.options import POLICIES, as_builtin, check_options, holds_code
from rimrl.agents.saved.settings import SCHEDULES, SETTINGS, check_rollout, check_settings
from rimrl.agents.saved.spaces import of_gymnasium
from rimrl.agents.schedules import unread
from rimrl.errors import wrong


def prepare(agent: OnPolicyAlgorithm) -> None:
    """Before the networks are made: check the settings, and put plain values in the place of equal ones.

    Raises:
        UsageError: Names the setting with which a saved agent could not be loaded.
    """
    log: object = agent.tensorboard_log
    if isinstance(log, Path):
        agent.tensorboard_log = str(log)
    name = name_of(type(agent))
    config = AgentConfig if name is None else config_class(name)
    own = config.own_options().keys() - set(SETTINGS)
    for key in (*SETTINGS, *own):
        if isinstance(value := getattr(agent, key, None), np.generic):
            setattr(agent, key, value.item())
    check_settings(vars(agent))
    for key in own & vars(agent).keys():
        if not callable(value := getattr(agent, key)):
            config.checked(key, value, key)
    check_rollout(agent.observation_space, agent.n_steps, agent.n_envs, "the agent")
    if not holds_code(agent.policy_kwargs):
        agent.policy_kwargs = as_builtin(agent.policy_kwargs)
    agent.observation_space = of_gymnasium(agent.observation_space)
    agent.action_space = of_gymnasium(agent.action_space)


def check_policy(agent: OnPolicyAlgorithm) -> None:
    """When the networks are made: check the arguments of a policy that is rimrl's own.

    Raises:
        UsageError: Names the argument with which a saved agent could not be loaded.
    """
    if agent.policy_class in POLICIES.values() and not holds_code(agent.policy_kwargs):
        check_options(agent.policy_kwargs, agent.policy.state_dict())


def check_schedules(agent: OnPolicyAlgorithm) -> None:
    """Before learning: refuse schedules that the agent was loaded without.

    Raises:
        UsageError: Names the schedule, and says how to load it.
    """
    for name in SCHEDULES:
        schedule = unread(getattr(agent, name, None))
        if schedule is not None:
            raise wrong(
                f"{name} of this agent",
                f"is its author's own schedule ({schedule.what}), whose code would run",
                "to learn on, load it with trust=True if you trust its author",
                "untrusted",
            )
