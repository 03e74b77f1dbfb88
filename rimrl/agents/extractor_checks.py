"""Whether an extractor reads the observations it is given, asked before it is built."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from torch import nn

from rimrl.errors import UsageError
from rimrl.spaces import describe_space

# What the three convolutions of `NatureCNN` leave a single position of.
_SMALLEST_IMAGE = 36
_KNOWN = ("stable_baselines3.", "rimrl.")


def check_extractor(
    extractor: type[BaseFeaturesExtractor], space: spaces.Space[Any], options: dict[str, Any] | None = None
) -> None:
    """Refuse observations that one of SB3's or rimrl's extractors does not read.

    Args:
        extractor: The extractor's class; anything goes with one of the user's own.
        space: Observation space, images with their channels first.
        options: The extractor's arguments.

    Raises:
        UsageError: Says what does not fit, and what would.
    """
    if not (isinstance(extractor, type) and extractor.__module__.startswith(_KNOWN)):
        return
    normalized = bool((options or {}).get("normalized_image", False))
    if issubclass(extractor, FlattenExtractor) and isinstance(space, spaces.Dict):
        raise UsageError(f"MlpPolicy does not read the Dict observations {describe_space(space)}; use MultiInputPolicy")
    if issubclass(extractor, NatureCNN):
        _check_image(space, normalized, extractor.__name__)
    elif (smallest := getattr(extractor, "smallest_image", None)) is not None:
        _check_image(space, normalized, extractor.__name__, smallest)
    if issubclass(extractor, CombinedExtractor):
        if not isinstance(space, spaces.Dict):
            raise UsageError(
                f"MultiInputPolicy needs Dict observations, got {describe_space(space)}; use CnnPolicy for images, "
                "else MlpPolicy"
            )
        for key, part in space.spaces.items():
            _check_name(key)
            if is_image_space(part, normalized_image=normalized):
                _check_image(part, normalized, f"the part {key!r}: {NatureCNN.__name__}")


def _check_image(space: spaces.Space[Any], normalized: bool, who: str, smallest: int = _SMALLEST_IMAGE) -> None:
    if not is_image_space(space, normalized_image=normalized):
        raise UsageError(
            f"{who} needs images, uint8 from 0 to 255 with three axes, got {describe_space(space)}; use MlpPolicy for "
            "vectors, or normalize_images=False for images with channels first in another range"
        )
    assert space.shape is not None
    _, height, width = space.shape
    if min(height, width) < smallest:
        raise UsageError(
            f"{who} needs images of at least {smallest}x{smallest} pixels, got {height}x{width}; enlarge "
            "them (gymnasium.wrappers.ResizeObservation), flatten them (FlattenObservation), or give a "
            "features_extractor_class of your own"
        )


def _check_name(key: str) -> None:
    """Refuse a part whose extractor torch could not store under its name."""
    if not key or "." in key or hasattr(nn.ModuleDict(), key):
        raise UsageError(
            f"the part {key!r} of the observations has a name that torch's modules cannot have: it is empty, holds a "
            "dot, or is one of their own attributes; rename it"
        )


def check_images(space: spaces.Space[Any]) -> None:
    """Refuse a Dict whose images have their channels first in some parts and last in others.

    Raises:
        UsageError: Names two such parts.
    """
    if not isinstance(space, spaces.Dict):
        return
    images = {key: part for key, part in space.spaces.items() if is_image_space(part)}
    first = [
        key for key, part in images.items() if isinstance(part, spaces.Box) and is_image_space_channels_first(part)
    ]
    last = [key for key in images if key not in first]
    if first and last:
        raise UsageError(
            f"the image {first[0]!r} of the observations has its channels first and {last[0]!r} has them last; "
            "use one order for all"
        )
