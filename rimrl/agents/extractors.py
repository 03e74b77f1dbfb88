"""Features for the core: what turns an observation into the vector that the units read."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
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
        self.read = nn.Linear(tile_channels * height * width, features_dim)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """``[B, features_dim]`` from a batch of observations."""
        image = observations["image"]
        tiles = self.tiles(image.permute(0, 3, 1, 2) if self.channels_last else image)  # [B, C, H, W]
        if self.tokens is not None:
            words = self.tokens(observations["mission"].long()).flatten(1)
            scale, shift = self.film(words)[:, :, None, None].chunk(2, dim=1)
            tiles = (1.0 + scale) * tiles + shift
        features: Tensor = self.read(tiles.relu().flatten(1)).relu()
        return features
