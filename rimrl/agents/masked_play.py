"""Masks for agents that are handed observations alone, as Stable-Baselines3's evaluations do."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from rimrl.agents.masks import ask, check_offered
from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm

PLAYED = "the environment that is played"


class MaskedPlayer:
    """An agent that asks the environments for masks before it acts; all else of it is the agent's.

    For `stable_baselines3.common.evaluation.evaluate_policy`, to which it is passed instead of the agent with the same
    environments. The evaluation of sb3-contrib's masks forgets recurrent states.

    Args:
        agent: The agent.
        env: The environments that it will play.

    Raises:
        UsageError: If they offer no masks.
    """

    def __init__(self, agent: RecurrentOnPolicyAlgorithm, env: VecEnv) -> None:
        check_offered(env, PLAYED)
        self._agent = agent
        self._env = env
        self._steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """As the agent's ``predict``, with the masks of what its environments show now.

        Raises:
            EnvironmentFaultError: If a mask does not fit, or forbids every action.
        """
        masks = ask(self._env, self._steps)
        self._steps += len(masks)
        return self._agent.predict(observation, state, episode_start, deterministic, masks)


def player_of(agent: PolicyPredictor, env: VecEnv) -> PolicyPredictor:
    """Who plays environments for an agent: a `MaskedPlayer` where it was trained with masks, else the agent itself.

    Raises:
        UsageError: If the agent needs masks and the environments offer none.
    """
    if isinstance(agent, RecurrentOnPolicyAlgorithm) and agent.use_masking:
        return MaskedPlayer(agent, env)
    return agent


class MaskableEvalCallback(EvalCallback):
    """Stable-Baselines3's `EvalCallback` for agents with ``use_masking``; takes the same arguments."""

    def _init_callback(self) -> None:
        player_of(self.model, self.eval_env)  # refuses environments without masks before the work
        super()._init_callback()

    def _on_step(self) -> bool:
        agent = self.model
        self.model = player_of(agent, self.eval_env)  # type: ignore[assignment]
        try:
            return super()._on_step()
        finally:
            self.model = agent
