"""Features for the core: what turns an observation into the vector that the units read."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from rimrl.agents.extractor_checks import check_extractor
from rimrl.errors import conflict, needs, wrong

# The keys that `rimrl.envs.efference` adds, and where it puts an observation that is no Dict.
COPIES = ("previous_action", "previous_reward")
_ALONE = "observation"


class MiniGridExtractor(BaseFeaturesExtractor):
    """Features of an egocentric view and an instruction, as `rimrl.envs.minigrid.MiniGridObservation` gives them.

    Every tile is embedded on its own; the instruction scales and shifts each channel of that embedding (FiLM, Perez et
    al., 2018, as in BabyAI's baseline), so that "is this the object I was told to get?" can be answered tile by tile.
    One linear layer then reads all tiles at their places.

    Args:
        observation_space: Dict with ``image``, either one-hot tiles ``[H, W, C]`` or pixels, and optionally
            ``mission``, token ids ``[length]`` with 0 as padding.
        features_dim: Width of the features. Default 128.
        tile_channels: Width of a tile's embedding. Default 32.
        token_size: Width of a token's embedding. Default 16.
        tile_pixels: Pixels along a tile's side, for pixel images; None for 1 where a side of the image is shorter than
            three tiles of 8, the smallest view in `MiniGridObservation`'s usual pixels, and 8 otherwise. Default None.
        positions: Leave out that layer and hand every tile's embedding to the core, which then reads a set of
            positions (RIM paper, Eq. 3); ``features_dim`` is then ``H * W * tile_channels``. Default False.

    Raises:
        UsageError: If the observation has no image, has efference copies, which `EfferenceExtractor` reads, or the
            image is no whole number of tiles.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_dim: int = 128,
        tile_channels: int = 32,
        token_size: int = 16,
        tile_pixels: int | None = None,
        positions: bool = False,
    ) -> None:
        super().__init__(observation_space, features_dim)
        if not isinstance(observation_space, spaces.Dict) or "image" not in observation_space.spaces:
            raise needs("MiniGridExtractor", "a Dict observation with an 'image'", str(observation_space))
        for key in COPIES:
            if key in observation_space.spaces:
                raise conflict("MiniGridExtractor", repr(key), "make it the extractor_class of EfferenceExtractor")
        image = observation_space["image"]
        assert image.shape is not None
        self.channels_last = not is_image_space(image)  # SB3 moves the channels of pixel images to the front
        if self.channels_last:
            height, width, channels = image.shape
            self.tiles = nn.Conv2d(channels, tile_channels, kernel_size=1)
        else:
            channels, height, width = image.shape
            side = tile_pixels or (1 if min(height, width) < 24 else 8)
            if height % side or width % side:
                raise wrong(
                    f"an image of {height}x{width}", f"is no whole number of tiles of {side}x{side}", "set tile_pixels"
                )
            self.tiles = nn.Conv2d(channels, tile_channels, kernel_size=side, stride=side)
            height, width = height // side, width // side

        self.tokens: nn.Embedding | None = None
        if "mission" in observation_space.spaces:
            mission = observation_space["mission"]
            assert isinstance(mission, spaces.Box)
            self.tokens = nn.Embedding(int(mission.high.max()) + 1, token_size, padding_idx=0)
            self.film = nn.Linear(mission.shape[0] * token_size, 2 * tile_channels)
        self.num_positions = height * width if positions else 1
        if positions:
            self._features_dim = height * width * tile_channels
        else:
            self.read = nn.Linear(tile_channels * height * width, features_dim)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """``[B, features_dim]`` from a batch of observations."""
        image = observations["image"]
        tiles = self.tiles(image.permute(0, 3, 1, 2) if self.channels_last else image)  # [B, C, H, W]
        if self.tokens is not None:
            words = self.tokens(observations["mission"].long()).flatten(1)
            scale, shift = self.film(words)[:, :, None, None].chunk(2, dim=1)
            tiles = (1.0 + scale) * tiles + shift
        if self.num_positions > 1:
            return positions_first(tiles.relu())
        features: Tensor = self.read(tiles.relu().flatten(1)).relu()
        return features


class NatureMap(NatureCNN):
    """SB3's `NatureCNN` without its last layer: every position of the map is an input element (RIM paper, Eq. 3).

    Args:
        observation_space: Image, channels first, at least 36x36.
        normalized_image: Whether pixels are 0 to 1 already; see `NatureCNN`.

    Attributes:
        num_positions: Positions M of the map; 49 for 84x84 images.
    """

    def __init__(self, observation_space: spaces.Space[Any], normalized_image: bool = False) -> None:
        assert isinstance(observation_space, spaces.Box)
        super().__init__(observation_space, normalized_image=normalized_image)
        self.linear = nn.Sequential()
        with th.no_grad():
            shape = self.cnn[:-1](th.as_tensor(observation_space.sample()[None]).float()).shape
        self.num_positions = shape[2] * shape[3]
        self._features_dim = shape[1] * self.num_positions

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, M * C]`` from a batch of images: the C channels of one position after the other."""
        return positions_first(self.cnn[:-1](observations))


class SmallCNN(BaseFeaturesExtractor):
    """Features of a small screen: two convolutions with ReLU, 16 channels of 6x6 with stride 3, then 32 of 4x4 with 2.

    As the network of Mnih et al. (2013), whose first convolution is 8x8 with stride 4, for smaller screens. A frame of
    42x42 costs 0.4 million multiplications; one of 84x84 costs `NatureCNN` 6.9 million.

    Args:
        observation_space: Image, channels first, at least 21x21: smaller ones end as a single position.
        features_dim: Width of a linear layer with ReLU that reads the map. Default 128.

    Raises:
        UsageError: If it is no image, or a smaller one.
    """

    smallest_image: ClassVar[int] = 21

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int = 128) -> None:
        check_extractor(type(self), observation_space)
        assert isinstance(observation_space, spaces.Box)
        super().__init__(observation_space, features_dim)
        channels, height, width = observation_space.shape
        self.cnn = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=6, stride=3),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        positions = math.prod(((side - 3) // 3 - 2) // 2 for side in (height, width))
        self.linear = nn.Sequential(nn.Linear(32 * positions, features_dim), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, features_dim]`` from a batch of images."""
        features: Tensor = self.linear(self.cnn(observations))
        return features


class EfferenceExtractor(BaseFeaturesExtractor):
    """Features of any observation with the previous action and reward beside them (`rimrl.envs.efference`).

    They are appended to the features of another extractor, unchanged. Where those are a set of positions (RIM paper,
    Eq. 3), the copies are one more element of the set: a linear layer brings them to the width of a position.

    Args:
        observation_space: Dict with ``previous_action`` ``[A]`` and ``previous_reward`` ``[1]``, and what they were
            added to: ``observation``, or the keys of a Dict.
        extractor_class: Reads what they were added to; None for what SB3's policies use: `CombinedExtractor` for a
            Dict, `NatureCNN` for an image, else `FlattenExtractor`. Default None.
        extractor_kwargs: Its arguments.

    Attributes:
        num_positions: Elements M of the set, the copies counted; 1 where features are one vector.

    Raises:
        UsageError: If the observation has no such copies.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        extractor_class: type[BaseFeaturesExtractor] | None = None,
        extractor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(observation_space, spaces.Dict) or not has_copies(observation_space):
            raise needs(
                "EfferenceExtractor",
                f"a Dict with {' and '.join(COPIES)}",
                observation_space,
                "set efference_copies=True",
            )
        super().__init__(observation_space, features_dim=1)
        space = without_copies(observation_space)
        self._key = None if isinstance(space, spaces.Dict) else _ALONE
        extractor_class = extractor_class or _default_extractor(space)
        check_extractor(extractor_class, space, extractor_kwargs)
        self.extractor = extractor_class(space, **(extractor_kwargs or {}))
        width = sum(spaces.flatdim(observation_space[key]) for key in COPIES)
        positions: int = getattr(self.extractor, "num_positions", 1)
        self.element: nn.Linear | None = None
        self.num_positions = 1
        if positions > 1:
            self.num_positions = positions + 1
            self.element = nn.Linear(width, self.extractor.features_dim // positions)
            width = self.element.out_features
        self._features_dim = self.extractor.features_dim + width

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """``[B, features_dim]`` from a batch of observations: the other extractor's features first."""
        rest = {key: value for key, value in observations.items() if key not in COPIES}
        features = self.extractor(rest if self._key is None else rest[self._key])
        copies = th.cat([observations[key] for key in COPIES], dim=1)
        return th.cat([features, copies if self.element is None else self.element(copies)], dim=1)


class TwoColumnExtractor(BaseFeaturesExtractor):
    """The features of a new extractor, then those of a frozen one: what `ProgressiveCore` reads.

    Args:
        column: The extractor that learns.
        source: The extractor that is frozen here.

    Attributes:
        num_positions: 1: features are one vector, even where both extractors give positions.
    """

    num_positions = 1

    def __init__(self, column: BaseFeaturesExtractor, source: BaseFeaturesExtractor) -> None:
        super().__init__(column._observation_space, column.features_dim + source.features_dim)
        self.column = column
        self.source = source.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TwoColumnExtractor:
        """Switch everything but the frozen extractor."""
        super().train(mode)
        self.source.eval()
        return self

    def forward(self, observations: PyTorchObs) -> Tensor:
        """``[B, features_dim]`` from a batch of observations."""
        with th.no_grad():
            source = self.source(observations)
        return th.cat([self.column(observations), source], dim=1)


def has_copies(space: spaces.Space[Any]) -> bool:
    """Whether observations hold efference copies."""
    return isinstance(space, spaces.Dict) and all(key in space.spaces for key in COPIES)


def without_copies(space: spaces.Dict) -> spaces.Space[Any]:
    """The observation space that efference copies were added to."""
    rest = {key: part for key, part in space.spaces.items() if key not in COPIES}
    alone = rest.get(_ALONE)
    return alone if alone is not None and len(rest) == 1 else spaces.Dict(rest)


def _default_extractor(space: spaces.Space[Any]) -> type[BaseFeaturesExtractor]:
    if isinstance(space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor


def positions_first(feature_map: Tensor) -> Tensor:
    """A map ``[B, C, H, W]`` as ``[B, H * W * C]``, the C channels of one position after the other."""
    return feature_map.flatten(2).transpose(1, 2).flatten(1)
