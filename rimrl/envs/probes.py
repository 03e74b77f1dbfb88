"""Probes: tiny environments that each isolate one ability of a recurrent policy.

Every docstring states the optimal expected return and the most that a policy without memory can expect, so a training
run says at once whether the ability is there. Observations are short vectors and episodes a few steps; the idea is
that of bsuite (Osband et al., ICLR 2020) and of the probe environments in Rejax.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rimrl.envs.checks import check_at_least
from rimrl.envs.hidden_velocity import HiddenVelocity
from rimrl.errors import wrong

Observation = NDArray[np.float32]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


class _Probe(gymnasium.Env[Observation, np.int64]):
    """What the probes share: one number in [-1, 1] as observation, and `info["is_success"]` on the last step.

    A probe draws its episode in `_begin` and judges each action in `_judge`.
    """

    metadata = {"render_modes": [], "info_keywords": ("is_success",)}  # noqa: RUF012 (gymnasium's own attribute)

    def __init__(self, num_actions: int) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(num_actions)
        self._signals: list[float] = []
        self._time = 0
        self._faultless = True

    @abstractmethod
    def _begin(self) -> list[float]:
        """Draw an episode: what is observed before each action."""

    @abstractmethod
    def _judge(self, time: int, action: int) -> tuple[float, bool]:
        """Return the reward of `action`, taken upon observation number `time` (from 0), and whether it is a fault."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the arguments are gymnasium's."""
        super().reset(seed=seed, options=options)
        self._signals = self._begin()
        self._time = 0
        self._faultless = True
        return self._observe(), {}

    def step(self, action: np.int64) -> Step:
        """Judge one action; the returns are gymnasium's, and `info["is_success"]` tells whether there was no fault."""
        if not self.action_space.contains(action):
            last = self.action_space.n - 1  # type: ignore[attr-defined]
            raise wrong("action", f"{action} is unknown", f"valid: 0 to {last}", "name")
        reward, fault = self._judge(self._time, int(action))
        self._faultless = self._faultless and not fault
        self._time += 1
        ended = self._time == len(self._signals)
        return self._observe(), reward, ended, False, {"is_success": self._faultless} if ended else {}

    def _observe(self) -> Observation:
        signal = self._signals[self._time] if self._time < len(self._signals) else 0.0
        return np.array([signal], dtype=np.float32)


class RecallCueEnv(_Probe):
    """Isolates memory: name at the end what was shown at the start.

    ## Description

    A cue, -1 or +1, is shown only in the first observation; `delay` blank observations follow, and the last action
    must name the cue.

    ## Action Space

    0 answers "-1", 1 answers "+1". Only the last action counts.

    ## Observation

    float32 [1]: the cue first, then 0.

    ## Rewards

    1 if the last action matches the cue, otherwise 0. Optimal return: 1. Without memory: 0.5.

    ## Termination

    After `delay` + 1 steps.

    ## Arguments

    * `delay`: number of blank observations, at least 1. Default 8.
    """

    def __init__(self, delay: int = 8) -> None:
        check_at_least("delay", delay, 1)
        super().__init__(num_actions=2)
        self.delay = delay

    def _begin(self) -> list[float]:
        self._answer = int(self.np_random.integers(2))
        return [2.0 * self._answer - 1.0] + [0.0] * self.delay

    def _judge(self, time: int, action: int) -> tuple[float, bool]:
        if time < self.delay:
            return 0.0, False
        correct = action == self._answer
        return float(correct), not correct


class RepeatPreviousEnv(_Probe):
    """Isolates overwriting: name what was shown one step before.

    ## Description

    Each observation is a random bit, and the action must name the bit shown one step before.

    ## Action Space

    0 answers "-1", 1 answers "+1". The first action has nothing to repeat and does not count.

    ## Observation

    float32 [1]: -1 or +1.

    ## Rewards

    1 / `length` for each right answer. Optimal return: 1. Without memory: 0.5.

    ## Termination

    After `length` + 1 steps.

    ## Arguments

    * `length`: number of answers that count, at least 1. Default 10.
    """

    def __init__(self, length: int = 10) -> None:
        check_at_least("length", length, 1)
        super().__init__(num_actions=2)
        self.length = length

    def _begin(self) -> list[float]:
        self._bits = self.np_random.integers(2, size=self.length + 1).tolist()
        return [2.0 * bit - 1.0 for bit in self._bits]

    def _judge(self, time: int, action: int) -> tuple[float, bool]:
        if time == 0:
            return 0.0, False
        correct = action == self._bits[time - 1]
        return correct / self.length, not correct


class CountStepsEnv(_Probe):
    """Isolates counting: press at one step and at no other.

    ## Description

    The observation never changes, and the agent must press at step `press_at` and at no other.

    ## Action Space

    0 waits, 1 presses.

    ## Observation

    float32 [1]: always 1.

    ## Rewards

    +1 for pressing at step `press_at`, -1 / (`length` - 1) for each press at another step. Optimal return: 1. Without
    memory: 0 in expectation, whatever the probability of pressing.

    ## Termination

    After `length` steps.

    ## Arguments

    * `press_at`: the step at which to press, counted from 1. Default 6.
    * `length`: number of steps, at least 2 and at least `press_at`. Default 10.
    """

    def __init__(self, press_at: int = 6, length: int = 10) -> None:
        check_at_least("press_at", press_at, 1)
        check_at_least("length", length, max(2, press_at))
        super().__init__(num_actions=2)
        self.press_at = press_at
        self.length = length

    def _begin(self) -> list[float]:
        return [1.0] * self.length

    def _judge(self, time: int, action: int) -> tuple[float, bool]:
        now = time + 1 == self.press_at
        if not action:
            return 0.0, now
        return (1.0, False) if now else (-1.0 / (self.length - 1), True)


class ForgetEnv(_Probe):
    """Isolates the reset between episodes: answer this episode's cue, not an earlier one's.

    ## Description

    Half of the episodes begin with a cue, -1 or +1, to be named by the last action; the other half show nothing but
    blanks, and their right answer is a third one, "none". An agent whose state survives the end of an episode answers
    a cue that is no longer true. The number of blanks varies from episode to episode, so that counting steps cannot
    stand in for the reset.

    ## Action Space

    0 answers "-1", 1 answers "none", 2 answers "+1". Only the last action counts.

    ## Observation

    float32 [1]: the cue or 0 first, then 0.

    ## Rewards

    1 if the last action is right, otherwise 0. Optimal return: 1. Without memory: 0.5 (always "none"). Answering the
    last cue ever seen, with a state that is never reset: 0.5.

    ## Termination

    After `delay` + 1 steps, where `delay` is drawn uniformly from `min_delay` to `max_delay`.

    ## Arguments

    * `min_delay`: smallest number of blanks after the first observation, at least 1. Default 2.
    * `max_delay`: largest number, at least `min_delay`. Default 6.
    """

    def __init__(self, min_delay: int = 2, max_delay: int = 6) -> None:
        check_at_least("min_delay", min_delay, 1)
        check_at_least("max_delay", max_delay, min_delay)
        super().__init__(num_actions=3)
        self.min_delay = min_delay
        self.max_delay = max_delay

    def _begin(self) -> list[float]:
        self._cue = int(self.np_random.choice([-1, 0, 0, 1]))
        delay = int(self.np_random.integers(self.min_delay, self.max_delay + 1))
        return [float(self._cue)] + [0.0] * delay

    def _judge(self, time: int, action: int) -> tuple[float, bool]:
        if time < len(self._signals) - 1:
            return 0.0, False
        correct = action - 1 == self._cue
        return float(correct), not correct


class BanditEnv(_Probe):
    """Isolates efference copies: only the previous action and reward tell what to do next.

    ## Description

    One of two arms pays, the same one throughout an episode. Nothing else is ever shown, so that without efference
    copies (`rimrl.envs.efference`) even an agent with memory knows nothing; with them one without memory can repeat
    what paid and change what did not.

    ## Action Space

    0 and 1: the arm that is pulled. The first pull can only be a guess.

    ## Observation

    float32 [1]: always 0.

    ## Rewards

    1 for each pull of the arm that pays. Optimal return: `length` - 0.5. Without efference copies: `length` / 2.

    ## Termination

    After `length` steps.

    ## Arguments

    * `length`: number of pulls, at least 2. Default 10.
    """

    def __init__(self, length: int = 10) -> None:
        check_at_least("length", length, 2)
        super().__init__(num_actions=2)
        self.length = length

    def _begin(self) -> list[float]:
        self._pays = int(self.np_random.integers(2))
        return [0.0] * self.length

    def _judge(self, time: int, action: int) -> tuple[float, bool]:
        correct = action == self._pays
        return float(correct), time > 0 and not correct


class CartPoleNoVelocity(HiddenVelocity):
    """CartPole that shows where the cart and the pole are, but not how fast they move.

    The memory test of Stable-Baselines3 Contrib: velocities must be worked out from successive observations.

    Observation: float32 [2], cart position and pole angle. Actions, rewards and termination are CartPole-v1's.
    Optimal return: 500. Without memory: about 50, the most that a search over linear policies, random ones included,
    found.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env, positions=(0, 2))


def make_cartpole_no_velocity(render_mode: str | None = None) -> CartPoleNoVelocity:
    """Make `CartPoleNoVelocity` without a time limit; ``rimrl/CartPoleNoVelocity-v0`` adds that of 500 steps.

    Args:
        render_mode: As CartPole's.
    """
    # Its registered id would bring a second time limit and checker.
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv  # noqa: PLC0415 (pulls in pygame)

    return CartPoleNoVelocity(CartPoleEnv(render_mode=render_mode))
