"""Frames to GIF and MP4 files, one frame at a time, so that a long film needs no more memory than a short one."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image

from rimrl.errors import cannot, invalid_value, not_installed

Frame = NDArray[np.uint8]

SUFFIXES = (".gif", ".mp4")
MAX_FPS = 50  # viewers slow down a GIF that is faster


def check_format(file: Path, fps: float) -> None:
    """Refuse what `write_video` could not write, before anything is played.

    Args:
        file: Where the film belongs.
        fps: Frames a second.

    Raises:
        UsageError: For a suffix that is no format, a speed that viewers do not keep, or MP4 without its encoder.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise cannot("write", file, f"its suffix must be {' or '.join(SUFFIXES)}")
    if not 0 < fps <= MAX_FPS:
        raise invalid_value("fps", f"above 0 and at most {MAX_FPS}", fps)
    if file.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401, PLC0415 (an extra)
        except ImportError:
            raise not_installed("MP4", "imageio-ffmpeg", "rimrl[video]").within(after=", or choose .gif") from None


def write_video(frames: Iterable[tuple[Frame, float]], file: Path, fps: float) -> None:
    """Write a film.

    Args:
        frames: Frames ``[H, W, 3]`` of one even size, each with the seconds that it stays beyond the usual ``1 / fps``.
        file: ``.gif``, which loops, or ``.mp4`` (H.264).
        fps: Frames a second.

    Raises:
        OSError: If the file cannot be written.
        UsageError: As `check_format`.
    """
    check_format(file, fps)
    if file.suffix.lower() == ".mp4":
        _write_mp4(frames, file, fps)
    else:
        with file.open("wb") as opened:
            _write_gif(frames, opened, fps)


def _write_gif(frames: Iterable[tuple[Frame, float]], file: BinaryIO, fps: float) -> None:
    """Write each frame as the rectangle that differs from the frame before, with colours of its own.

    Pillow's own writer holds all frames until the last one is there; `GifImagePlugin.getdata` encodes a single one.
    """
    before: Frame | None = None
    colours = _Colours()
    owed = 0.0  # GIF counts hundredths of a second; what rounding takes is given back later
    for frame, stay in frames:
        if before is None:
            file.write(_gif_head(*frame.shape[:2]))
        top, left, changed = _changed(before, frame)
        wanted = 100 * (1 / fps + stay) + owed
        hundredths = max(2, round(wanted))
        owed = min(0.0, wanted - hundredths) if hundredths == 2 else wanted - hundredths
        image = colours.apply(changed)
        options = {"duration": 10 * hundredths, "disposal": 1, "include_color_table": True}
        file.writelines(GifImagePlugin.getdata(image, (left, top), **options))
        before = frame
    file.write(b";")


def _gif_head(height: int, width: int) -> bytes:
    """GIF89a's header without a global table of colours, and the extension that makes viewers loop."""
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return b"GIF89a" + size + b"\x70\x00\x00" + b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


def _changed(before: Frame | None, frame: Frame) -> tuple[int, int, Frame]:
    """Top, left and content of the smallest rectangle that holds all changes; one pixel where there are none."""
    if before is None:
        return 0, 0, frame
    differs = (frame != before).any(axis=2)
    if not differs.any():
        return 0, 0, frame[:1, :1]
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, np.ascontiguousarray(frame[top : rows[-1] + 1, left : columns[-1] + 1])


class _Colours:
    """Numbers colours as they come, exactly while there are at most 256 of them in one picture."""

    def __init__(self) -> None:
        self._number_of = np.full(1 << 24, -1, dtype=np.int16)
        self._known: NDArray[np.uint32] = np.empty(0, dtype=np.uint32)

    def apply(self, picture: Frame) -> Image.Image:
        """A picture as numbers of colours, with their table."""
        red, green, blue = (picture[..., part].astype(np.uint32) for part in range(3))
        colours = red << 16 | green << 8 | blue
        numbers = self._number_of[colours]
        if (numbers < 0).any():
            fresh = np.unique(colours[numbers < 0])
            if len(self._known) + len(fresh) > 256:  # begin again with what this picture needs
                self._number_of[self._known] = -1
                self._known = np.empty(0, dtype=np.uint32)
                fresh = np.unique(colours)
                if len(fresh) > 256:
                    image = Image.fromarray(picture)
                    return image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            self._known = np.concatenate([self._known, fresh])
            self._number_of[self._known] = np.arange(len(self._known))
            numbers = self._number_of[colours]
        image = Image.fromarray(numbers.astype(np.uint8), mode="P")
        image.putpalette(self._known.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes())
        return image


def _write_mp4(frames: Iterable[tuple[Frame, float]], file: Path, fps: float) -> None:
    import imageio_ffmpeg  # noqa: PLC0415 (an extra)

    writer: Generator[None, object, None] | None = None
    for frame, stay in frames:
        if writer is None:
            height, width = frame.shape[:2]
            writer = imageio_ffmpeg.write_frames(
                str(file), (width, height), fps=fps, quality=8, macro_block_size=2, ffmpeg_log_level="error"
            )
            writer.send(None)
        for _ in range(1 + round(stay * fps)):
            writer.send(np.ascontiguousarray(frame).data)
    if writer is not None:
        writer.close()
