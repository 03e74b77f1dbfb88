"""Features for the core: what turns an observation into the vector that the units read."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from rimrl.errors import UsageError


class MiniGridExtractor(BaseFeaturesExtractor):
    """Features of a 7x7 egocentric view and an instruction, as `rimrl.envs.minigrid.MiniGridObservation` gives them.

    Every tile is embedded on its own; the instruction scales and shifts each channel of that embedding (FiLM, Perez et
    al., 2018, as in BabyAI's baseline), so that "is this the object I was told to get?" can be answered tile by tile.
    One linear layer then reads all tiles at their places.

    Args:
        observation_space: Dict with ``image``, either one-hot tiles ``[H, W, C]`` or pixels, and optionally
            ``mission``, token ids ``[length]`` with 0 as padding.
        features_dim: Width of the features. Default 128.
        tile_channels: Width of a tile's embedding. Default 32.
        token_size: Width of a token's embedding. Default 16.
        tile_pixels: Pixels along a tile's side, for pixel images. Default 8.
        positions: Leave out that layer and hand every tile's embedding to the core, which then reads a set of
            positions (RIM paper, Eq. 3); ``features_dim`` is then ``H * W * tile_channels``. Default False.

    Raises:
        UsageError: If the observation has no image.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_dim: int = 128,
        tile_channels: int = 32,
        token_size: int = 16,
        tile_pixels: int = 8,
        positions: bool = False,
    ) -> None:
        super().__init__(observation_space, features_dim)
        if not isinstance(observation_space, spaces.Dict) or "image" not in observation_space.spaces:
            raise UsageError(f"MiniGridExtractor needs a Dict observation with an 'image', got {observation_space}")
        image = observation_space["image"]
        assert image.shape is not None
        self.channels_last = not is_image_space(image)  # SB3 moves the channels of pixel images to the front
        if self.channels_last:
            height, width, channels = image.shape
            self.tiles = nn.Conv2d(channels, tile_channels, kernel_size=1)
        else:
            channels, height, width = image.shape
            self.tiles = nn.Conv2d(channels, tile_channels, kernel_size=tile_pixels, stride=tile_pixels)
            height, width = height // tile_pixels, width // tile_pixels

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


def positions_first(feature_map: Tensor) -> Tensor:
    """A map ``[B, C, H, W]`` as ``[B, H * W * C]``, the C channels of one position after the other."""
    return feature_map.flatten(2).transpose(1, 2).flatten(1)
