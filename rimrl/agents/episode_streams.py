"""In which order episodes are shown: streams of whole episodes, side by side and without end.

Notation: E = episodes, B = streams, T = steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


class EpisodeStreams:
    """Which step of which episode each stream shows.

    All episodes are dealt to the streams in turn, in random order; then all of them again, in another order. So each
    is shown as often as every other. A stream shows an episode from its first step to its last, and then the next one
    that it is dealt. Where the streams are follows from the arguments and the number of steps, so a training that goes
    on skips what it has seen.

    Args:
        lengths: Steps of each episode, ``[E]``, positive.
        n_streams: B.
        seed: Of the orders.

    Attributes:
        position: Steps that each stream has shown.
    """

    def __init__(self, lengths: NDArray[np.int64], n_streams: int, seed: int) -> None:
        self.position = 0
        self._lengths = lengths
        self._seed = seed
        self._deals = list(range(n_streams))
        self._shown = [0] * n_streams

    def take(self, steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Go on by so many steps.

        Returns:
            Episodes, and steps within them, each ``[steps, B]``.
        """
        episodes = np.empty((steps, len(self._deals)), dtype=np.int64)
        within = np.empty_like(episodes)
        for stream in range(len(self._deals)):
            t = 0
            for episode, begin, count in self._pieces(stream, steps):
                episodes[t : t + count, stream] = episode
                within[t : t + count, stream] = np.arange(begin, begin + count)
                t += count
        self.position += steps
        return episodes, within

    def skip(self, steps: int) -> None:
        """Go on by so many steps without a look at them."""
        for stream in range(len(self._deals)):
            for _ in self._pieces(stream, steps):
                pass
        self.position += steps

    def _pieces(self, stream: int, steps: int) -> Iterator[tuple[int, int, int]]:
        """What a stream shows next: episode, first step, number of steps."""
        while steps:
            episode, begin = self._episode(self._deals[stream]), self._shown[stream]
            count = min(steps, int(self._lengths[episode]) - begin)
            yield episode, begin, count
            steps -= count
            self._shown[stream] += count
            if self._shown[stream] == self._lengths[episode]:
                self._deals[stream] += len(self._deals)
                self._shown[stream] = 0

    def _episode(self, deal: int) -> int:
        """The episode that is dealt as number `deal`."""
        round_, place = divmod(deal, len(self._lengths))
        return int(np.random.default_rng([self._seed, round_]).permutation(len(self._lengths))[place])
