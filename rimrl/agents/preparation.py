"""Observations as the numbers that extractors take: SB3's ``preprocess_obs`` in fewer passes, for more spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from rimrl.agents.normalization import ObservationStatistics


class Preparation:
    """Prepares batches of one observation space, with the same result as SB3's ``preprocess_obs``.

    An image of bytes becomes floats, and in one go channels-last where convolutions want it so; it is then divided by
    255 in place. Two kinds of space that SB3 does not read are read, too: choices that count from another number than
    0, and a Box that is a single number, which becomes a vector ``[B, 1]``.

    Args:
        space: Observation space.
        normalize_images: Divide images by 255.
        statistics: Brings vectors and images to one scale; None (default) leaves them as they are.

    Attributes:
        channels_last: Lay images out channels-last in memory; shapes stay. Default False.
        image_dtype: What images of bytes become. Default float32; bfloat16 for an extractor that rounds them to it
            anyway.
    """

    def __init__(
        self, space: spaces.Space[Any], normalize_images: bool, statistics: ObservationStatistics | None = None
    ) -> None:
        self.space = space
        self._statistics = statistics
        self.normalize_images = normalize_images
        self.channels_last = False
        self.image_dtype = th.float32
        parts = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        self._images = {key for key, part in parts.items() if normalize_images and is_image_space(part)}

    def __call__(self, obs: PyTorchObs) -> PyTorchObs:
        """``[B, ...]`` or a dict of such, prepared; the input stays as it is."""
        if isinstance(obs, dict):
            assert isinstance(self.space, spaces.Dict)
            return {key: self._prepared(value, key, self.space[key]) for key, value in obs.items()}
        return self._prepared(obs, None, self.space)

    def _prepared(self, obs: Tensor, key: str | None, space: spaces.Space[Any]) -> Tensor:
        layout = th.channels_last if self.channels_last and obs.dim() == 4 else th.contiguous_format
        if self._statistics is not None and key in self._statistics.keys:
            return _at_least_vectors(self._statistics.normalized(key, obs.contiguous(memory_format=layout)))
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start):
            obs = obs.long() - th.as_tensor(np.asarray(space.start, dtype=np.int64), device=obs.device)
        if key not in self._images or obs.dtype != th.uint8:
            prepared = preprocess_obs(obs, space, normalize_images=self.normalize_images)
            assert isinstance(prepared, Tensor)
            return _at_least_vectors(prepared)
        return obs.to(self.image_dtype, memory_format=layout).div_(255.0)


def _at_least_vectors(prepared: Tensor) -> Tensor:
    """Single numbers ``[B]`` as ``[B, 1]``; everything else as it is."""
    return prepared.unsqueeze(1) if prepared.dim() == 1 else prepared
