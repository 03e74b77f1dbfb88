"""How do I train a policy with a recurrent core of mine?

python examples/own_core.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import rimrl
from rimrl.cores.base import State
from rimrl.cores.stepwise import StepTrace, StepwiseCore


class Leaky(StepwiseCore):
    """A leaky integrator of its input: h' = leak * h + (1 - leak) * tanh(W x)."""

    def __init__(self, input_size: int, width: int = 32, leak: float = 0.8) -> None:
        super().__init__(input_size, hidden_size=width)
        self.leak = leak
        self.read = nn.Linear(input_size, width)

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        h = self.leak * state[0] + (1 - self.leak) * torch.tanh(self.read(inputs[0]))
        active = torch.ones(h.shape[1], 1, dtype=torch.bool)  # [B, units]
        return (h, state[1]), StepTrace(active) if return_trace else None


def main(words: Sequence[str] | None = None) -> rimrl.RecurrentPPO:
    """Check the core, register it, and train with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-timesteps", type=int, default=20_000)
    options = parser.parse_args(words)
    rimrl.check_core(Leaky, input_size=8)  # names the clause of the contract that a core breaks
    rimrl.register_core("leaky", Leaky)
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        "rimrl/CartPoleNoVelocity-v0",
        n_steps=128,
        policy_kwargs=dict(core="leaky", core_kwargs=dict(width=64)),
        seed=0,
        verbose=1,
    )
    model.learn(options.total_timesteps)
    return model


if __name__ == "__main__":
    main()
