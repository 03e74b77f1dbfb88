"""PPO whose weights shrink a little after each update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch as th

from rimrl.agents.config import FRACTION, option
from rimrl.agents.ppo import PPOConfig, RecurrentPPO


class ShrinkingPPO(RecurrentPPO):
    """`RecurrentPPO` with a factor on all weights after each update.

    Args:
        *args: As `RecurrentPPO`.
        shrink: What weights lose, from 0 to 1. Default 0.
        **kwargs: As `RecurrentPPO`.
    """

    def __init__(self, *args: Any, shrink: float = 0.0, **kwargs: Any) -> None:
        self.shrink = shrink
        super().__init__(*args, **kwargs)

    def train(self) -> None:
        """Update, then shrink."""
        super().train()
        with th.no_grad():
            for parameter in self.policy.parameters():
                parameter.mul_(1.0 - self.shrink)


@dataclass(frozen=True)
class ShrinkingConfig(PPOConfig):
    """Options of `ShrinkingPPO`."""

    algorithm: str = "shrinking"
    shrink: float = option(0.0, FRACTION)
