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

from rimrl.errors import conflict, mismatch, needs, wrong
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
        raise conflict("MlpPolicy", f"the Dict observations {describe_space(space)}", "use MultiInputPolicy")
    if issubclass(extractor, NatureCNN):
        _check_image(space, normalized, extractor.__name__)
    elif (smallest := getattr(extractor, "smallest_image", None)) is not None:
        _check_image(space, normalized, extractor.__name__, smallest)
    if issubclass(extractor, CombinedExtractor):
        if not isinstance(space, spaces.Dict):
            raise needs(
                "MultiInputPolicy",
                "Dict observations",
                describe_space(space),
                "use CnnPolicy for images, else MlpPolicy",
            )
        for key, part in space.spaces.items():
            _check_name(key)
            if is_image_space(part, normalized_image=normalized):
                _check_image(part, normalized, f"the part {key!r}: {NatureCNN.__name__}")


def _check_image(space: spaces.Space[Any], normalized: bool, who: str, smallest: int = _SMALLEST_IMAGE) -> None:
    if not is_image_space(space, normalized_image=normalized):
        raise needs(
            who,
            "images, uint8 from 0 to 255 with three axes",
            describe_space(space),
            "use MlpPolicy for vectors, or normalize_images=False for images with channels first in another range",
        )
    assert space.shape is not None
    _, height, width = space.shape
    if min(height, width) < smallest:
        raise needs(
            who,
            f"images of at least {smallest}x{smallest} pixels",
            f"{height}x{width}",
            "enlarge or flatten them (ResizeObservation, FlattenObservation), or give another features_extractor_class",
        )


def _check_name(key: str) -> None:
    """Refuse a part whose extractor torch could not store under its name."""
    if not key or "." in key or hasattr(nn.ModuleDict(), key):
        raise wrong(
            f"the part {key!r} of the observations",
            "has a name that torch cannot store: empty, dotted or its own",
            "rename it",
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
        raise mismatch(
            "the images", f"all with channels first, as {first[0]!r}, or all last", f"{last[0]!r} with channels last"
        )
