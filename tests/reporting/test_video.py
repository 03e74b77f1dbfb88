"""Frames show what was played, checked on their pixels; files hold every frame."""

from __future__ import annotations

import builtins
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rimrl.errors import UsageError
from rimrl.reporting.video import HOLD, Film
from rimrl.reporting.video_files import check_format, write_video
from rimrl.runs.scenes import Scene as CompleteScene

ACTIVE, IDLE, EMPTY = (0, 114, 178), (221, 227, 233), (246, 248, 250)


@dataclass(frozen=True)
class Scene(CompleteScene):
    """A step of which most is left out."""

    seen: NDArray[np.uint8] | None = None
    active: NDArray[np.bool_] | None = None
    fresh: bool = False
    episode: int = 1
    step: int = 1
    task: str | None = None
    action: str = "left"
    reward: float = 0.0
    total: float = 0.0
    ending: str | None = None


def scenes(
    lengths: tuple[int, ...] = (70, 12), units: int = 5, size: tuple[int, int] = (50, 40), **more: Any
) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [
        Scene(
            picture=rng.integers(0, 4, (*size, 3), dtype=np.uint8) * np.uint8(60),
            active=rng.random(units) < 0.5 if units else None,
            fresh=step == 1,
            episode=episode,
            step=step,
            ending="success" if step == length else None,
            **more,
        )
        for episode, length in enumerate(lengths, start=1)
        for step in range(1, length + 1)
    ]


def cells(film: Film, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colours in the middle of the strip's cells, ``[N, K, 3]``."""
    left, top, steps, cell, row = film.strip
    rows = top + row // 2 + row * np.arange(film.units)
    return frame[rows][:, left + cell // 2 + cell * np.arange(steps)]


def test_the_strip_is_the_recent_activity_with_now_at_the_right() -> None:
    film = Film("title", 2)
    played = scenes()
    for t, scene in enumerate(played):
        shown = cells(film, film.frame(scene))
        for k in range(shown.shape[1]):
            past = t - (shown.shape[1] - 1 - k)
            happened = past >= 0 and played[past].episode == scene.episode  # an episode begins with an empty strip
            for n in range(5):
                active = played[past].active
                assert active is not None
                expected = (ACTIVE if active[n] else IDLE) if happened else EMPTY
                assert tuple(shown[n, k]) == expected, (t, k, n)


@pytest.mark.parametrize("units", [0, 2, 30, 100])
@pytest.mark.parametrize("size", [(50, 40), (210, 160), (400, 600), (704, 704), (1, 1)])
def test_the_game_is_shown_whole(units: int, size: tuple[int, int]) -> None:
    picture = np.zeros((*size, 3), dtype=np.uint8)
    picture[..., 1] = 200
    frame = Film("title", 1).frame(Scene(picture, active=np.ones(units, dtype=bool) if units else None))
    green = (frame == (0, 200, 0)).all(axis=2)
    rows, columns = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert green.sum() == height * width  # one full rectangle, nothing over it
    assert height / width == pytest.approx(size[0] / size[1], rel=0.02)
    assert 260 <= max(height, width) <= 525
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    assert max(frame.shape) < 1150


def test_small_pictures_keep_their_pixels() -> None:
    (scene,) = scenes((1,), units=0, size=(7, 9))
    frame = Film("title", 1).frame(Scene(scene.picture))
    times = 58
    assert any(
        (frame[y : y + 7 * times : times, x : x + 9 * times : times] == scene.picture).all()
        for y in range(60, 70)
        for x in range(15, 30)
    )


def with_screens(size: tuple[int, int], units: int, seen: tuple[int, int]) -> tuple[Scene, Scene]:
    """The same step with a screen that has no black pixel, and with a blank one."""
    rng = np.random.default_rng(0)
    (scene,) = scenes((1,), units, size)
    lit = rng.integers(1, 250, (*seen, 3), dtype=np.uint8)
    scene = replace(scene, seen=lit, ending=None)
    return scene, replace(scene, seen=np.zeros_like(lit))


def place_of_the_screen(lit: NDArray[np.uint8], blank: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns in which two frames differ."""
    differs = (lit != blank).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@pytest.mark.parametrize("units", [0, 2, 30])
@pytest.mark.parametrize("size", [(210, 160), (704, 704), (20, 300)])
@pytest.mark.parametrize(("seen", "times"), [((42, 42), 8), ((84, 84), 4), ((7, 7), 48), ((100, 60), 3), ((3, 1), 112)])
def test_the_screen_is_shown_in_whole_pixels(
    units: int, size: tuple[int, int], seen: tuple[int, int], times: int
) -> None:
    scene, blank = with_screens(size, units, seen)
    assert scene.seen is not None
    film = Film("title", 1)
    frame, dark = film.frame(scene), film.frame(blank)
    place = place_of_the_screen(frame, dark)
    np.testing.assert_array_equal(frame[place], scene.seen.repeat(times, axis=0).repeat(times, axis=1))
    assert not dark[place].any()
    assert frame.shape == dark.shape
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    assert (frame[:, -15:] == 255).all()


@pytest.mark.parametrize("units", [0, 2, 30])
@pytest.mark.parametrize("size", [(210, 160), (400, 600), (600, 10), (1, 1)])
def test_the_game_stays_whole_beside_a_screen(units: int, size: tuple[int, int]) -> None:
    """Also with the sign of the episode's end, which stands on the game."""
    picture = np.zeros((*size, 3), dtype=np.uint8)
    picture[..., 1] = 200
    scene, blank = with_screens((2, 2), units, (84, 84))
    frame, dark = (Film("title", 1).frame(replace(step, picture=picture)) for step in (scene, blank))
    rows, columns = place_of_the_screen(frame, dark)
    green = (dark == (0, 200, 0)).all(axis=2)
    high, wide = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
    alone = (Film("title", 1).frame(Scene(picture, active=scene.active)) == (0, 200, 0)).all(axis=2)
    assert (green.sum(), len(high), len(wide)) == (alone.sum(), *(alone.any(axis=axis).sum() for axis in (1, 0)))
    assert wide[-1] < columns.start
    ended = Film("title", 1).frame(replace(scene, picture=picture, ending="out of time"))
    assert (ended != frame).any()
    np.testing.assert_array_equal(ended[rows, columns], frame[rows, columns])


@pytest.mark.parametrize("units", [0, 5])
def test_a_film_without_a_screen_is_one_with_it_cut_out(units: int) -> None:
    scene, blank = with_screens((500, 480), units, (42, 42))
    frame = Film("title", 1).frame(scene)
    _, columns = place_of_the_screen(frame, Film("title", 1).frame(blank))
    gutter, head = 24, 60  # the title and the number of the episode are at the ends of the page, whatever its width
    cut = np.delete(frame, slice(columns.start - gutter, columns.stop), axis=1)
    without = Film("title", 1).frame(replace(scene, seen=None))
    assert cut.shape == without.shape
    np.testing.assert_array_equal(cut[head:], without[head:])


@pytest.mark.parametrize(
    ("size", "units", "shape", "strip"),
    [
        ((210, 160), 6, (556, 1016), (526, 64, 60, 7, 54)),
        ((320, 320), 30, (456, 1016), (526, 64, 60, 7, 9)),
        ((7, 9), 2, (542, 1118), (628, 64, 60, 7, 54)),
        ((210, 160), 0, (556, 460), None),
        ((400, 600), 0, (416, 460), None),
    ],
)
def test_the_page_without_a_screen_is_that_of_earlier_versions(
    size: tuple[int, int], units: int, shape: tuple[int, int], strip: tuple[int, ...] | None
) -> None:
    (scene,) = scenes((1,), units, size)
    film = Film("title", 1)
    assert film.frame(scene).shape == (*shape, 3)
    assert strip is None or film.strip == strip


def test_rewards_are_bars_on_their_side_of_the_line() -> None:
    film = Film("title", 1)
    picture = np.zeros((9, 9, 3), dtype=np.uint8)
    rewards = [0.0, 1.0, -0.5, 0.0]
    for step, reward in enumerate(rewards, start=1):
        frame = film.frame(Scene(picture, active=np.array([True, False]), step=step, reward=reward))
    left, top, steps, cell, row = film.strip
    below = frame[top + 2 * row :, left + (steps - 4) * cell + 1 : left + steps * cell : cell].astype(int)
    green = [((column == (0, 128, 96)).all(axis=1)).nonzero()[0] for column in below.swapaxes(0, 1)]
    orange = [((column == (193, 73, 0)).all(axis=1)).nonzero()[0] for column in below.swapaxes(0, 1)]
    assert [len(rows) > 0 for rows in green] == [False, True, False, False]
    assert [len(rows) > 0 for rows in orange] == [False, False, True, False]
    assert len(green[1]) == 2 * len(orange[2])  # half the reward, half the height
    assert green[1].max() < orange[2].min()


def test_words_change_what_is_drawn_and_nothing_else() -> None:
    """Task, action, reward and return are text: each changes its own place of the frame."""
    plain = Scene(np.zeros((9, 9, 3), dtype=np.uint8), active=np.array([True, False]), task="go", total=1.0)
    base = Film("title", 1).frame(plain)
    for change in ({"task": "stay"}, {"action": "right"}, {"total": 2.0}, {"step": 2}, {"episode": 2}):
        other = Film("title", 1).frame(Scene(**{**vars(plain), **change}))
        differs = (other != base).any(axis=2)
        assert 0 < differs.sum() < 2500, change
    long = Film("title " * 80, 1).frame(Scene(**{**vars(plain), "task": "word " * 200, "action": "x" * 200}))
    assert long.shape == base.shape
    assert (long[:, -15:] == 255).all()


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_gif_has_every_frame_with_its_pixels_and_time(tmp_path: Path) -> None:
    film = Film("title", 2)
    shots = [film.shot(scene) for scene in scenes((7, 5))]
    write_video(shots, tmp_path / "film.gif", fps=8)
    with Image.open(tmp_path / "film.gif") as gif:
        assert (gif.n_frames, gif.info["loop"]) == (12, 0)  # type: ignore[attr-defined]
        durations = []
        for number, (frame, _) in enumerate(shots):
            gif.seek(number)
            np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), frame, err_msg=str(number))
            durations.append(gif.info["duration"])
    assert sum(durations) == pytest.approx(1000 * (12 / 8 + 2 * HOLD), abs=20)
    assert [number for number, duration in enumerate(durations) if duration > 1000] == [6, 11]


def test_more_colours_than_a_gif_has_are_brought_near(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(128), np.arange(128))[..., None] * np.array([1, 0.5, 0.2])
    frames = [(smooth.astype(np.uint8), 0.0), (rng.integers(0, 256, (128, 128, 3), dtype=np.uint8), 0.0)]
    frames += [(np.full((128, 128, 3), colour, dtype=np.uint8), 0.0) for colour in (10, 20)]
    write_video(frames, tmp_path / "film.gif", fps=10)
    with Image.open(tmp_path / "film.gif") as gif:
        errors = []
        for number, (frame, _) in enumerate(frames):
            gif.seek(number)
            errors.append(np.abs(np.asarray(gif.convert("RGB")).astype(int) - frame).mean())
    assert errors[0] < 2
    assert errors[1] < 25
    assert errors[2:] == [0, 0]


def test_equal_frames_are_frames_too(tmp_path: Path) -> None:
    frame = np.zeros((10, 10, 3), dtype=np.uint8)
    write_video([(frame, 0.0)] * 3, tmp_path / "film.gif", fps=50)
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.n_frames == 3  # type: ignore[attr-defined]


def test_frames_are_written_as_they_come(tmp_path: Path) -> None:
    """A film of hours needs no more memory than its first second: files grow while frames are still to come."""
    file, sizes = tmp_path / "film.gif", []

    def frames() -> Any:
        rng = np.random.default_rng(0)
        for _ in range(20):
            sizes.append(file.stat().st_size)
            yield rng.integers(0, 200, (64, 64, 3), dtype=np.uint8), 0.0

    write_video(frames(), file, fps=8)
    assert sizes[-1] > 0.7 * file.stat().st_size


def test_an_mp4_holds_the_frames(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    film = Film("title", 1)
    shots = [film.shot(scene) for scene in scenes((10,))]
    write_video(shots, tmp_path / "film.mp4", fps=10)
    reader = ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    facts = next(reader)
    height, width = shots[0][0].shape[:2]
    assert facts["size"] == (width, height)
    frames = [np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3) for data in reader]
    assert len(frames) == 10 + round(10 * HOLD)
    for shown, (frame, _) in zip(frames, shots, strict=False):
        assert np.abs(shown.astype(int) - frame).mean() < 6


@pytest.mark.parametrize(
    ("name", "fps", "said"),
    [
        ("film.avi", 8, ".gif or .mp4"),
        ("film", 8, ".gif or .mp4"),
        ("film.gif", 0, "got 0"),
        ("film.gif", 60, "at most 50"),
    ],
)
def test_formats_and_speeds_that_cannot_be(name: str, fps: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_format(Path(name), fps)


def test_mp4_without_its_encoder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "imageio_ffmpeg":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'rimrl\[video\]'"):
        check_format(Path("film.mp4"), 8)
    check_format(Path("film.gif"), 8)


def test_composing_needs_no_torch() -> None:
    code = "import sys, rimrl.reporting.video, rimrl.reporting.video_files; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
