"""Films of an agent: the game as it is drawn, beside it the image that the agent sees and which units of its core work.

Letters: H, W height and width of a frame in pixels; N units; K steps of history in the strip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rimrl.runs.scenes import Scene

Frame = NDArray[np.uint8]

HOLD = 1.2  # seconds that the last step of an episode stays
_GAME = 420  # side of the square that the game is fitted into
_SEEN = 336  # and of the one for what the agent sees: a multiple of the usual 84, 56 and 42 pixels
_SEEN_CAPTION = "as the agent sees it"
_MARGIN, _GUTTER = 20, 24
_LABEL, _CELL, _STEPS, _SHARE = 62, 7, 60, 50  # the strip: label, K columns of this many pixels, share at work
_HEAD, _FOOT, _GAP, _REWARDS, _MAX_ROW = 64, 72, 14, 36, 54
_MIN_WIDTH, _MIN_HEIGHT = 420, 200
_MIN_GAME, _MIN_SEEN, _BELOW_SEEN = 180, 130, 24  # widths that hold words; height of the caption
_COLUMNS = tuple(_MARGIN + offset for offset in (0, 62, 190, 262))  # of the facts below the game

# Okabe & Ito, safe for colour-blind eyes, on a page of quiet greys.
_PAPER, _INK, _QUIET, _EMPTY, _LINE = (255, 255, 255), (27, 31, 36), (106, 115, 125), (246, 248, 250), (208, 215, 222)
_ACTIVE, _IDLE = (0, 114, 178), (221, 227, 233)
_GOOD, _BAD = (0, 128, 96), (193, 73, 0)


class Film:
    """Composes one frame a step.

    Args:
        title: The first line of every frame.
        episodes: How many there are to be.

    Attributes:
        frames: How many were composed so far.
        units: N; 0 before the first frame, and for a core without units.
    """

    def __init__(self, title: str, episodes: int) -> None:
        self._title = title
        self._episodes = episodes
        self.frames = 0
        self.units = 0
        self._blank: Frame | None = None
        self._active: list[NDArray[np.bool_]] = []
        self._marks: list[tuple[float, bool]] = []  # reward of each step, and whether the memory was emptied before it

    def frame(self, scene: Scene) -> Frame:
        """Compose the next step's frame; all frames of a film have the same even size.

        Args:
            scene: The step.

        Returns:
            ``[H, W, 3]``.
        """
        if self._blank is None:
            self._lay_out(scene)
        if scene.step == 1:
            self._active, self._marks = [], []
        assert self._blank is not None
        canvas = self._blank.copy()
        self._draw_game(canvas, scene.picture)
        if scene.seen is not None:
            self._draw_seen(canvas, scene.seen)
        if scene.active is not None:
            self._active.append(scene.active)
            self._marks.append((scene.reward, scene.fresh and scene.step > 1))
            self._draw_strip(canvas)
            self._draw_rewards(canvas)
            self._write_shares(canvas)
        self._write_facts(canvas, scene)
        self.frames += 1
        return canvas

    def shot(self, scene: Scene) -> tuple[Frame, float]:
        """The next step's frame, and the seconds that it stays beyond its turn: the last of an episode does."""
        return self.frame(scene), 0.0 if scene.ending is None else HOLD

    @property
    def strip(self) -> tuple[int, int, int, int, int]:
        """Left, top, number of columns K, and width and height of a cell of the units' strip, in pixels."""
        return self._left + _LABEL, _HEAD, _STEPS, _CELL, self._row

    # -- layout --------------------------------------------------------------------------------------------------------

    def _lay_out(self, scene: Scene) -> None:
        self._scale = _fit(scene.picture, _GAME * 5 // 4, _GAME)
        shown = self._scale(scene.picture).shape
        beside, below = self._lay_out_seen(scene.seen)
        wide = max(shown[1], _MIN_WIDTH - beside, _MIN_GAME)
        tall = max(shown[0], below, _MIN_HEIGHT)
        self._game = (_MARGIN + (wide - shown[1]) // 2, _HEAD)
        self._seen = (_MARGIN + wide + _GUTTER, _HEAD)
        wide += beside
        self._left = _MARGIN + wide + _GUTTER
        self.units = 0 if scene.active is None else len(scene.active)
        self._row = min(_MAX_ROW, max(3, (tall - _GAP - _REWARDS) // max(1, self.units)))
        self._lane = _HEAD + max(tall - _REWARDS, self.units * self._row + _GAP)
        self._bottom = self._lane + _REWARDS if self.units else _HEAD + tall
        right = self._left + _LABEL + _STEPS * _CELL + _SHARE if self.units else _MARGIN + wide
        self._width = _even(right + _MARGIN)
        self._blank = np.full((_even(self._bottom + _FOOT), self._width, 3), _PAPER, dtype=np.uint8)
        self._write_captions(self._blank)

    def _lay_out_seen(self, seen: Frame | None) -> tuple[int, int]:
        """How much wider what the agent sees makes the page, and its height with the caption."""
        if seen is None:
            return 0, 0
        self._scale_seen = _fit(seen, _SEEN, _SEEN)
        height, width = self._scale_seen(seen).shape[:2]
        return _GUTTER + max(width, _MIN_SEEN), height + _BELOW_SEEN

    def _write_captions(self, canvas: Frame) -> None:
        size = 15 if self.units else 13
        title = _shortened(self._title, self._width - 2 * _MARGIN - (130 if self.units else 0), size, bold=True)
        _write(canvas, _MARGIN, 13, title, _INK, size, bold=True)
        y = self._bottom + 16
        for x, caption in zip(_COLUMNS, ("step", "action", "reward", "return"), strict=True):
            _write(canvas, x, y, caption, _QUIET, 12)
        if not self.units:
            return
        left, top, steps, cell, row = self.strip
        for n in self._labelled():
            _write(canvas, self._left, top + n * row + row // 2, f"unit {n}", _INK, 12, "lm")
        canvas[top : top + self.units * row, left : left + steps * cell - 1] = _EMPTY
        _write(canvas, self._left, self._lane + _REWARDS // 2, "reward", _QUIET, 12, "lm")
        for x, colour, word in ((left, _ACTIVE, "active"), (left + 78, _IDLE, "idle")):
            canvas[y + 2 : y + 13, x : x + 11] = colour
            _write(canvas, x + 18, y, word, _QUIET, 12)
        now = left + steps * cell - 1
        _write(canvas, now, y, f"the last {steps} steps, now at the right", _QUIET, 12, "ra")
        _write(canvas, now + _SHARE, y + 18, "%: at work in this share of the episode's steps so far", _QUIET, 12, "ra")

    def _labelled(self) -> range:
        return range(0, self.units, math.ceil(13 / self._row))

    # -- one frame -----------------------------------------------------------------------------------------------------

    def _draw_game(self, canvas: Frame, picture: Frame) -> None:
        shown = self._scale(picture)
        x, y = self._game
        canvas[y : y + shown.shape[0], x : x + shown.shape[1]] = shown

    def _draw_seen(self, canvas: Frame, seen: Frame) -> None:
        shown = self._scale_seen(seen)
        x, y = self._seen
        canvas[y : y + shown.shape[0], x : x + shown.shape[1]] = shown
        _write(canvas, x, y + shown.shape[0] + 6, _SEEN_CAPTION, _QUIET, 12)

    def _draw_strip(self, canvas: Frame) -> None:
        left, top, steps, cell, row = self.strip
        recent = np.array(self._active[-steps:]).T  # [N, <= K]
        colours = np.where(recent[..., None], _ACTIVE, _IDLE).astype(np.uint8)
        strip = colours.repeat(row, axis=0).repeat(cell, axis=1)
        strip[:, cell - 1 :: cell] = _PAPER
        now = left + steps * cell
        canvas[top : top + self.units * row, now - strip.shape[1] : now] = strip
        if row > 6:
            for n in range(1, self.units):
                canvas[top + n * row - 2 : top + n * row, left:now] = _PAPER

    def _draw_rewards(self, canvas: Frame) -> None:
        """Bars up and down below the strip, and a line through both where the memory was emptied."""
        left, top, steps, cell, _ = self.strip
        middle, half = self._lane + _REWARDS // 2, _REWARDS // 2 - 2
        largest = max(abs(reward) for reward, _ in self._marks) or 1.0
        canvas[middle, left : left + steps * cell - 1] = _LINE
        recent = self._marks[-steps:]
        for k, (reward, emptied) in enumerate(recent, start=steps - len(recent)):
            x = left + k * cell
            if emptied:
                canvas[top : self._lane + _REWARDS, x - 1] = _INK
            if reward:
                height = max(3, round(half * abs(reward) / largest))
                rows = slice(middle - height, middle) if reward > 0 else slice(middle + 1, middle + 1 + height)
                canvas[rows, x : x + cell - 1] = _GOOD if reward > 0 else _BAD

    def _write_shares(self, canvas: Frame) -> None:
        left, top, steps, cell, row = self.strip
        shares = np.mean(self._active, axis=0)
        for n in self._labelled():
            x, y = left + steps * cell + _SHARE - 1, top + n * row + row // 2
            _write(canvas, x, y, f"{100 * shares[n]:.0f} %", _QUIET, 12, "rm")

    def _write_facts(self, canvas: Frame, scene: Scene) -> None:
        number = f"episode {scene.episode} of {self._episodes}"
        below = not self.units  # a narrow page, whose title needs the whole first line
        _write(canvas, self._width - _MARGIN, 37 if below else 15, number, _QUIET, 13, "ra")
        if scene.task:
            room = self._width - 2 * _MARGIN - (120 if below else 0)
            _write(canvas, _MARGIN, 36, _shortened(scene.task, room, 14), _INK, 14)
        reward = f"{scene.reward:+.3g}" if scene.reward else "0"
        tint = _GOOD if scene.reward > 0 else _BAD if scene.reward < 0 else _INK
        values = ((str(scene.step), _INK), (scene.action, _INK), (reward, tint), (f"{scene.total:.4g}", _INK))
        ends = (*_COLUMNS[1:], _COLUMNS[-1] + 80)
        for x, end, (value, colour) in zip(_COLUMNS, ends, values, strict=True):
            _write(canvas, x, self._bottom + 34, _shortened(value, end - x - 6, 15, bold=True), colour, 15, bold=True)
        if scene.ending is not None:
            colour = {"success": _GOOD, "failed": _BAD, "out of time": _BAD}.get(scene.ending, _INK)
            x, y = self._game[0] + 8, self._game[1] + 8
            canvas[y : y + 27, x : x + 16 + _mask(scene.ending, 14, True).shape[1]] = colour
            _write(canvas, x + 8, y + 5, scene.ending, _PAPER, 14, bold=True)


def _fit(picture: Frame, largest: int, otherwise: int) -> Callable[[Frame], Frame]:
    """How pictures of a size are scaled: whole pixels up to a side of at most `largest`; averages down to another."""
    height, width = picture.shape[:2]
    times = largest // max(height, width)
    if times >= 1:
        return lambda picture: picture.repeat(times, axis=0).repeat(times, axis=1)
    ratio = otherwise / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return lambda picture: np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _even(length: int) -> int:
    return length + length % 2  # the usual coding of MP4 halves the resolution of colour


# -- text --------------------------------------------------------------------------------------------------------------


def _write(
    canvas: Frame,
    x: int,
    y: int,
    text: str,
    colour: tuple[int, int, int],
    size: int,
    anchor: str = "la",
    bold: bool = False,
) -> None:
    """Write a line; the anchor says whether x is its left or right end, and y its top or middle."""
    mask = _mask(text, size, bold)
    height, width = mask.shape[:2]
    left = x - width if anchor[0] == "r" else x
    top = y - height // 2 if anchor[1] == "m" else y
    place = canvas[top : top + height, left : left + width]
    place[:] = place + (np.subtract(colour, place, dtype=np.float32) * mask[: place.shape[0], : place.shape[1]]).round()


@lru_cache(maxsize=4096)
def _mask(text: str, size: int, bold: bool = False) -> NDArray[np.float32]:
    """How much ink ``[height, width, 1]`` a line puts where, in few steps: a GIF has 256 colours in all."""
    font = _font(size, bold)
    ascent, descent = font.getmetrics()
    image = Image.new("L", (math.ceil(font.getlength(text)) or 1, ascent + descent))
    ImageDraw.Draw(image).text((0, 0), text, 255, font)
    return ((np.asarray(image) / 255 * 6).round() / 6)[..., None].astype(np.float32)


@lru_cache(maxsize=4096)
def _shortened(text: str, room: int, size: int, bold: bool = False) -> str:
    """As much of a text as fits on a line."""
    font, text = _font(size, bold), " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


@lru_cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, size)
