"""Observations on one scale: a running mean and variance that are part of the policy.

They are buffers of the policy, so that whatever saves, loads, exports or resumes an agent takes them along, and no
agent is played without those that it learned with. The numbers are those of Stable-Baselines3's `VecNormalize`; they
are brought up to date after each update, not within a rollout, so that an update sees observations as the rollout did.

In an image, every pixel has a mean and a variance of its own, as in random network distillation (Burda et al., 2018,
Sec. 2.4). What moves stands out then, and what is always there is zero. A channel that is black all over is a screen
that was not shown (`rimrl.envs.flicker`, or a stack that is not full yet): it stays zero and changes no statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from rimrl.agents.distributed import Moments, combined, moments
from rimrl.agents.extractors import COPIES
from rimrl.errors import needs
from rimrl.spaces import describe_space

EPSILON = 1e-8
CLIP = 10.0
# A grey level, squared: a pixel that hardly ever changes is not magnified further than that.
_PIXEL_EPSILON = 1.0
_WHITE = 255.0
# Images whose moments are computed at once, which bounds memory.
_IMAGES = 256
# As many observations are the first mean, 0, and variance, 1, worth; SB3's RunningMeanStd.
_INITIAL_COUNT = 1e-4
_FEWEST_AXES_OF_MAPS = 3


class RunningMoments(nn.Module):
    """Running mean and variance, float64, of one part of an observation.

    Args:
        shape: Of that part.

    Attributes:
        can_be_fixed: Whether features that are frozen keep them as they are.
        most_brought: As many observations they are at most worth in an environment that they were not taken in.
    """

    can_be_fixed: ClassVar[bool] = True
    most_brought: ClassVar[float] = math.inf
    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(shape, dtype=th.float64))
        self.register_buffer("var", th.ones(shape, dtype=th.float64))
        self.register_buffer("count", th.tensor(_INITIAL_COUNT, dtype=th.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., *shape]``, clipped to `CLIP` deviations; float32."""
        return ((x - self.mean) / (self.var + EPSILON).sqrt()).clamp(-CLIP, CLIP).float()

    def batch_moments(self, batch: Tensor) -> Moments:
        """Moments of ``[N, *shape]``."""
        return moments(batch)

    def update(self, batch: Moments) -> None:
        """Take in further observations."""
        total = combined(Moments(self.count, self.mean, self.var * self.count), batch)
        self.count.copy_(total.number)
        self.mean.copy_(total.mean)
        self.var.copy_(total.squares / total.number)


class RunningPixelMoments(RunningMoments):
    """Running mean and variance of each pixel of an image of bytes, ``[C, H, W]``; blank channels do not count.

    Before the first update, pixels are divided by 255. There is a count for each channel, ``[C, 1, 1]``. They say what
    a screen is like, not what was learned, and so follow that of a new environment.
    """

    can_be_fixed = False
    most_brought = 1000.0

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.var.fill_(_WHITE**2)
        self.register_buffer("count", th.full((shape[0], 1, 1), _INITIAL_COUNT, dtype=th.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., *shape]``, bytes, clipped to `CLIP` deviations; float32, laid out in memory as `x` is."""
        scale = (self.var + _PIXEL_EPSILON).rsqrt().float()
        return (x - self.mean.float()).mul_(scale).clamp_(-CLIP, CLIP).mul_(_seen(x))

    def batch_moments(self, batch: Tensor) -> Moments:
        """Moments of ``[N, *shape]``."""
        chunks = (batch[start : start + _IMAGES] for start in range(0, len(batch), _IMAGES))
        return reduce(combined, map(_moments_of_seen, chunks))


class ObservationStatistics(nn.Module):
    """Running moments of those parts of an observation that are vectors of real numbers or images of bytes.

    Maps, tokens, choices and efference copies stay as they are.

    Args:
        space: Observation space.

    Attributes:
        keys: Which parts of a Dict; ``[None]`` for an observation that is none.
        fixed: Whether `update` leaves those alone that can be fixed, for features that are frozen. Default False.

    Raises:
        UsageError: If the space has no such part.
    """

    fixed: Tensor

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        parts: Mapping[Any, spaces.Space[Any]] = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        kinds = {key: kind for key, part in parts.items() if key not in COPIES and (kind := _kind(part)) is not None}
        self.keys: list[str | None] = list(kinds)
        if not self.keys:
            raise needs(
                "normalize_observations", "vectors of real numbers, or images", describe_space(space), "leave it out"
            )
        self.parts = nn.ModuleList(kind(tuple(parts[key].shape or ())) for key, kind in kinds.items())
        self.register_buffer("fixed", th.tensor(False))

    def normalized(self, key: str | None, x: Tensor) -> Tensor:
        """A part ``[..., *shape]``, one of `keys`, normalised; float32."""
        result: Tensor = self.parts[self.keys.index(key)](x)
        return result

    def adopt(self, fixed: bool) -> None:
        """Go on in another environment with statistics that were taken over.

        Args:
            fixed: Whether those that can be fixed stay what they are from now on.
        """
        self.fixed.fill_(fixed)
        for part in self.parts:
            assert isinstance(part, RunningMoments)
            part.count.clamp_(max=part.most_brought)

    @th.no_grad()
    def update(self, observations: Tensor | dict[str, Tensor], of_all: Callable[[Tensor], Tensor]) -> None:
        """Take in the observations of a rollout.

        Args:
            observations: ``[T, B, ...]`` or a dict of such.
            of_all: Puts the values ``[N]`` of all ranks one behind the other.
        """
        for key, part in zip(self.keys, self.parts, strict=True):
            assert isinstance(part, RunningMoments)
            if self.fixed and part.can_be_fixed:
                continue
            seen = observations if key is None else observations[key]  # type: ignore[index]
            assert isinstance(seen, Tensor)
            number, mean, squares = part.batch_moments(seen.flatten(0, 1))
            rows = th.cat([number.flatten(), mean.flatten(), squares.flatten()])
            sizes = [number.numel(), mean.numel(), squares.numel()]
            of_ranks = (row.split(sizes) for row in of_all(rows).view(-1, len(rows)))
            part.update(
                reduce(
                    combined,
                    (Moments(n.view_as(number), m.view_as(mean), s.view_as(mean)) for n, m, s in of_ranks),
                )
            )


def _seen(images: Tensor) -> Tensor:
    """``[..., C, 1, 1]``: whether a channel of ``[..., C, H, W]`` is not black all over."""
    return images.amax(dim=(-2, -1), keepdim=True) > 0


def _moments_of_seen(images: Tensor) -> Moments:
    """Moments of the images ``[N, C, H, W]``, blank channels left out."""
    seen, values = _seen(images), images.double()
    number = seen.sum(dim=0).double()
    mean = values.sum(dim=0) / number.clamp(min=1)
    return Moments(number, mean, ((values - mean) * seen).square_().sum(dim=0))


def _kind(space: spaces.Space[Any]) -> type[RunningMoments] | None:
    if is_image_space(space):
        return RunningPixelMoments
    is_vector = (
        isinstance(space, spaces.Box)
        and space.dtype is not None
        and space.dtype.kind == "f"
        and len(space.shape) < _FEWEST_AXES_OF_MAPS
    )
    return RunningMoments if is_vector else None
