"""What reads a frame and what draws the next one: the convolutions of van Steenkiste et al. (2018), App. B [R].

The RIM paper takes encoder and decoder from there (App. D.4). [R]: reconstructed from its description; upsampling is by
transposed convolutions, and layer normalisation runs over all channels and pixels of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rimrl.errors import invalid_value, wrong


def check_channels(size: int, channels: Sequence[int]) -> None:
    """Refuse frames that cannot be halved once for every layer.

    Raises:
        UsageError: If they cannot, or there are no layers.
    """
    if not channels or any(isinstance(c, bool) or not isinstance(c, int) or c < 1 for c in channels):
        raise invalid_value("channels", "positive numbers, one for each convolution", list(channels))
    factor = 2 ** len(channels)
    if size % factor:
        raise wrong("size", f"{size} does not divide by {factor}, as {len(channels)} convolutions of stride 2 need")


class FrameEncoder(nn.Module):
    """Convolutions of stride 2 with ELU, then a layer of the width that the core reads.

    Args:
        size: Pixels S along each side.
        channels: Of each convolution.
        width: Of the output.
    """

    def __init__(self, size: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for after in channels:
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ELU(), nn.GroupNorm(1, after)]
            before = after
        inner = before * (size // 2 ** len(channels)) ** 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inner, width), nn.ELU(), nn.LayerNorm(width))

    def forward(self, frames: Tensor) -> Tensor:
        """``[T, B, S, S]`` to ``[T, B, width]``."""
        return self.layers(frames.flatten(0, 1).unsqueeze(1)).view(*frames.shape[:2], -1)  # type: ignore[no-any-return]


class FrameDecoder(nn.Module):
    """A layer, then transposed convolutions of stride 2 with ReLU: the logit of every pixel.

    Args:
        hidden_size: Width of what is read.
        size: Pixels S along each side.
        channels: Of the encoder's convolutions, taken backwards.
        width: Of the layer between.
    """

    def __init__(self, hidden_size: int, size: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.size = size
        small = size // 2 ** len(channels)
        inner = channels[-1] * small**2
        layers: list[nn.Module] = [nn.Linear(hidden_size, width), nn.ReLU(), nn.LayerNorm(width)]
        layers += [nn.Linear(width, inner), nn.ReLU(), nn.LayerNorm(inner)]
        layers += [nn.Unflatten(1, (channels[-1], small, small))]
        before = channels[-1]
        for after in channels[-2::-1]:
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU(), nn.GroupNorm(1, after)]
            before = after
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(before, 1, 4, stride=2, padding=1))

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., hidden_size]`` to ``[..., S, S]``."""
        logits: Tensor = self.layers(hidden.reshape(-1, hidden.shape[-1]))
        return logits.view(*hidden.shape[:-1], self.size, self.size)
