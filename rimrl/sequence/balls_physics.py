"""Discs in a box: they move freely, bounce off its walls and off each other, and are drawn as frames.

Letters: T frames, B boxes (rows), n discs at most in a box, S pixels along each side. The box is the unit square, a
frame is the unit of time, and a disc's mass is proportional to its area.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SUBSTEPS = 8
_TRIES = 200


@dataclass
class Discs:
    """Discs of B boxes.

    Attributes:
        positions: ``[B, n, 2]``, of their centres.
        velocities: ``[B, n, 2]``, per frame.
        radii: ``[B, n]``; 0 for one that is not there.
    """

    positions: Floats
    velocities: Floats
    radii: Floats

    @property
    def present(self) -> NDArray[np.bool_]:
        """``[B, n]``."""
        return self.radii > 0

    @property
    def masses(self) -> Floats:
        """``[B, n]``: areas, up to a factor."""
        return self.radii**2

    def advance(self, time: float, walls: bool = True) -> None:
        """Let some time pass, short enough that no disc crosses another.

        Args:
            time: In frames.
            walls: Whether there are any; without them momentum is kept.
        """
        self.positions += self.velocities * time
        if walls:
            radii = self.radii[..., None]
            inside = self.positions.clip(radii, 1.0 - radii)
            self.velocities[inside != self.positions] *= -1.0
            self.positions += 2.0 * (inside - self.positions)  # mirrored at the wall
        self._collide()

    def _collide(self) -> None:
        """Turn round the approach of discs that touch: elastic, without friction."""
        first, second = np.triu_indices(self.radii.shape[1], 1)
        apart = self.positions[:, second] - self.positions[:, first]  # [B, pairs, 2]
        reach = self.radii[:, first] + self.radii[:, second]
        there = self.present[:, first] & self.present[:, second]
        touching = there & ((apart**2).sum(-1) < reach**2)
        for pair in np.flatnonzero(touching.any(0)):
            i, j = first[pair], second[pair]
            rows = np.flatnonzero(touching[:, pair])
            normal = apart[rows, pair]
            normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
            # With the velocities of now: an earlier pair of this moment may have changed them.
            closing = ((self.velocities[rows, j] - self.velocities[rows, i]) * normal).sum(-1).clip(max=0.0)
            m_i, m_j = self.masses[rows, i], self.masses[rows, j]
            impulse = (2.0 * m_i * m_j / (m_i + m_j) * closing)[:, None] * normal
            self.velocities[rows, i] += impulse / m_i[:, None]
            self.velocities[rows, j] -= impulse / m_j[:, None]


def scatter(
    stream: np.random.Generator, num_boxes: int, counts: tuple[int, int], radii: tuple[float, float], speed: float
) -> Discs:
    """Discs at random places where they do not overlap.

    Args:
        stream: Where chance comes from.
        num_boxes: B.
        counts: Least and most discs of a box; every number between is as likely.
        radii: Least and most; drawn evenly.
        speed: Mean speed per frame: every disc has 0.5 to 1.5 times as much, in any direction.
    """
    most = counts[1]
    numbers = stream.integers(counts[0], most + 1, num_boxes)
    present = np.arange(most) < numbers[:, None]
    size = np.where(present, stream.uniform(*radii, (num_boxes, most)), 0.0)
    angles = stream.uniform(0.0, 2.0 * math.pi, (num_boxes, most))
    speeds = speed * stream.uniform(0.5, 1.5, (num_boxes, most))
    velocities = np.stack([np.cos(angles), np.sin(angles)], -1) * np.where(present, speeds, 0.0)[..., None]
    positions = np.full((num_boxes, most, 2), 0.5)
    waiting = np.arange(num_boxes)
    while len(waiting):
        positions[waiting], placed = _place(stream, size[waiting])
        waiting = waiting[~placed]
    return Discs(positions, velocities, size)


def _place(stream: np.random.Generator, radii: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Put discs into boxes one after the other; tells in which boxes all of them found a place."""
    B, n = radii.shape
    positions = np.full((B, n, 2), 0.5)
    placed = np.ones(B, dtype=bool)
    for disc in range(n):
        free = np.zeros(B, dtype=bool)
        for _ in range(_TRIES):
            rows = np.flatnonzero(~free)
            if not len(rows):
                break
            own = radii[rows, disc, None]
            candidates = stream.uniform(own, 1.0 - own, (len(rows), 2))
            distance = np.linalg.norm(positions[rows, :disc] - candidates[:, None], axis=-1)
            fits = ((distance >= radii[rows, :disc] + own) | (radii[rows, :disc] == 0)).all(-1) | (own[:, 0] == 0)
            positions[rows[fits], disc] = candidates[fits]
            free[rows[fits]] = True
        placed &= free
    return positions, placed


def draw(discs: Discs, size: int) -> NDArray[np.uint8]:
    """Frames ``[B, S, S]``: 1 where a pixel's centre lies in a disc; axis 1 is the second coordinate."""
    centres = (np.arange(size) + 0.5) / size
    across = (centres - discs.positions[..., :1]) ** 2  # [B, n, S]
    down = (centres - discs.positions[..., 1:]) ** 2
    inside = down[..., :, None] + across[..., None, :] <= (discs.radii**2)[..., None, None]
    covered: NDArray[np.bool_] = np.any(inside & discs.present[..., None, None], axis=1)
    return covered.astype(np.uint8)


def film(discs: Discs, num_frames: int, size: int) -> NDArray[np.uint8]:
    """Frames ``[T, B, S, S]`` of discs that move on; the first shows them as they are."""
    frames = np.empty((num_frames, len(discs.radii), size, size), dtype=np.uint8)
    for frame in range(num_frames):
        if frame:
            for _ in range(SUBSTEPS):
                discs.advance(1.0 / SUBSTEPS)
        frames[frame] = draw(discs, size)
    return frames
