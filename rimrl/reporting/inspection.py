"""Pictures of what the units of a core do, from the files that ``rimrl inspect`` recorded.

Letters: S steps of all episodes together, N units, M input elements.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from rimrl.errors import UsageError, missing
from rimrl.runs.kinds import Kind, kind_of_facts
from rimrl.runs.recording import LARGEST_ARRAYS, RECORDING_FILES, Recording, read_recording

PICTURES = ("raster.png", "frequency.png", "input_attention.png", "communication.png")

_SHOWN_STEPS = 120  # as many as can be told apart across a page
_MOST_STEPS = 600  # of a single sequence
_NUMBERS = 200  # as many as can be read in a matrix
_BLUE, _ORANGE, _GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe & Ito: safe for colour-blind eyes
_GREY, _PALE, _IDLE = "#999999", "#e6e6e6", "#bbbbbb"
_BLACK_ON_WHITE = ListedColormap(["white", "black"])
_BLUE_ON_WHITE = ListedColormap(["white", _BLUE])


class Inspection(Recording):
    """A recording, and what pictures of it ask for."""

    @property
    def kind(self) -> Kind:
        """Which kind of run was inspected."""
        return kind_of_facts(self.facts)

    @property
    def episodes(self) -> list[dict[str, Any]]:
        """Length and outcome of each episode or sequence, one after the other."""
        episodes: list[dict[str, Any]] = self.facts[self.kind.trials]
        return episodes

    @property
    def has_units(self) -> bool:
        """Whether there is more than the one unit that a core without units reports."""
        return bool(self.facts["units"] > 1)

    @property
    def shown(self) -> slice:
        """The steps that pictures over time show: as many whole episodes as fit, from the first on."""
        last, end = 0, 0
        for episode in self.episodes:
            end += episode["length"]
            if end <= _SHOWN_STEPS:
                last = end
        # A sequence of a supervised task says little without its end.
        first = min(self.episodes[0]["length"], _MOST_STEPS) if "titles" in self.facts else _SHOWN_STEPS
        return slice(0, last or first)

    @property
    def titles(self) -> tuple[str, str]:
        """Titles of the rows of actions and of the bars of rewards; sequence tasks have others than agents."""
        action, reward = self.facts.get("titles", ("Action taken", "Reward"))
        return action, reward

    @property
    def spans(self) -> list[tuple[int, int, dict[str, Any]]]:
        """First step, end and outcome of each episode that is shown."""
        spans, begin, stop = [], 0, self.shown.stop
        for episode in self.episodes:
            if begin < stop:
                spans.append((begin, min(begin + episode["length"], stop), episode))
            begin += episode["length"]
        return spans


def read_inspection(folder: Path, largest: int = LARGEST_ARRAYS) -> Inspection:
    """Read what ``rimrl inspect`` recorded.

    Args:
        folder: Holds the files.
        largest: Bytes that their arrays may have together.

    Raises:
        UsageError: If the files are not there or damaged.
    """
    for name in RECORDING_FILES:
        if not (folder / name).is_file():
            raise missing(name, folder, "record it with: rimrl inspect RUN")
    try:
        recording = read_recording(folder, largest)
    except UsageError as error:
        raise error.within(after="; record it again") from None
    return Inspection(recording.facts, recording.arrays)


def save_pictures(folder: Path) -> list[str]:
    """Draw what `rimrl.experiments.inspect` recorded into a folder, beside it.

    Args:
        folder: Holds ``recording.npz`` and ``inspection.json``.

    Returns:
        Names of the pictures: those of `PICTURES` that the core has something to show in.

    Raises:
        UsageError: As `read_inspection`.
    """
    inspection = read_inspection(folder)
    drawn = []
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "figure.titlesize": 12}):
        for name, draw in zip(PICTURES, (raster, frequency, input_attention, communication), strict=True):
            figure = draw(inspection)
            if figure is not None:
                figure.savefig(folder / name, dpi=130)
                drawn.append(name)
    return drawn


# -- over time ---------------------------------------------------------------------------------------------------------


def raster(inspection: Inspection) -> Figure:
    """Which unit is active when, as Fig. 2 of the RIM paper, above the actions and rewards of the same steps."""
    if not inspection.has_units:
        return _timeline(inspection, "What the agent does", None)[0]
    figure, lane, _ = _timeline(inspection, "Which unit works when", "Units: black while active, white while idle")
    _show(lane, inspection.arrays["active"][inspection.shown].T, _BLACK_ON_WHITE)
    _label_units(lane, [f"{percent(share)} of all steps" for share in inspection.facts["active_frequency"][0]["units"]])
    return figure


def input_attention(inspection: Inspection) -> Figure | None:
    """How much each unit looks at the input; beside it, with several input elements, at which of them."""
    if not inspection.has_units or "input_attention" not in inspection.arrays:
        return None
    attention = inspection.arrays["input_attention"][inspection.shown]  # [S, N, 1 + M]
    mean = np.array(inspection.facts["input_attention_mean"])  # [N, 1 + M]
    several = mean.shape[1] > 2
    if mean[:, 0].any():
        share, parts = "Share of a unit's attention that is on the input; the rest is on nothing", 1
    else:  # the units share out each input element, without a null element
        share, parts = "Share of the input that each unit takes", mean.shape[1] - 1
    on_input = attention[..., 1:].sum(axis=-1) / parts
    high = 1.0 if mean[:, 0].any() else float(on_input.max())
    figure, lane, side = _timeline(
        inspection, "What draws the units' attention", f"{share} (white dot: the unit is active)", beside=several
    )
    image = _show(lane, on_input.T, "cividis", high)
    steps, units = inspection.arrays["active"][inspection.shown].nonzero()
    lane.plot(steps, units, "o", color="white", markersize=2.5, markeredgecolor="black", markeredgewidth=0.4)
    _label_units(lane, [f"{percent(value)} on average" for value in mean[:, 1:].sum(axis=1) / parts])
    _add_scale(figure, image, lane)
    if side is not None:
        _draw_matrix(side, mean, "Average over all steps, by input element")
        columns = range(0, mean.shape[1], math.ceil(mean.shape[1] / 12))
        side.set_xticks(columns, ["nothing" if column == 0 else str(column - 1) for column in columns])
        side.set_xlabel("input element")
    return figure


def communication(inspection: Inspection) -> Figure | None:
    """Which unit listens to which, and how much each is listened to over time; idle units do not listen."""
    if not inspection.has_units or "communication_attention" not in inspection.arrays:
        return None
    active = inspection.arrays["active"]
    idle = np.broadcast_to(~active[:, :, None], inspection.arrays["communication_attention"].shape)
    listened = np.ma.masked_array(inspection.arrays["communication_attention"], mask=idle).mean(axis=1)  # [S, N]
    figure, lane, side = _timeline(
        inspection,
        "Which unit listens to which",
        "How much each unit is listened to: average over the units that are active in the step",
        beside=True,
    )
    assert side is not None
    image = _show(lane, listened[inspection.shown].T, "cividis", float(listened.max()))
    _label_units(lane, [f"{percent(share)} on average" for share in listened.mean(axis=0)])
    _add_scale(figure, image, lane)
    rows = inspection.facts["communication_attention_mean"]
    never = [math.nan] * len(rows)
    _draw_matrix(
        side, np.array([never if row is None else row for row in rows]), "Average while the listener is active"
    )
    side.set_xticks(range(len(rows)))
    side.set(xlabel="unit that is listened to", ylabel="listener")
    return figure


def _timeline(
    inspection: Inspection, title: str, lane_title: str | None, beside: bool = False
) -> tuple[Figure, Axes, Axes | None]:
    """A lane of units between a band of episodes and the actions and rewards of the same steps.

    Args:
        inspection: What was recorded.
        title: Of the picture.
        lane_title: Of the lane of units; None leaves the lane out.
        beside: Also make room for a matrix to the left.

    Returns:
        The figure, the axes of the lane (of the actions, without one) and those of the matrix.
    """
    names = inspection.facts["action_names"]
    heights = {"episodes": 2, "units": inspection.facts["units"], "actions": len(names or ()), "reward": 2}
    shown = {lane: height for lane, height in heights.items() if height and (lane != "units" or lane_title)}
    figure = Figure(
        figsize=(14 + 4 * beside, 1.2 + 0.3 * len(shown) + 0.25 * sum(shown.values())), layout="constrained"
    )
    figure.suptitle(f"{title}: {_subject(inspection)}", x=0.01, ha="left")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(4, 14))[0] if beside else (None, figure)
    grid = right.subplots(len(shown), 1, sharex=True, height_ratios=list(shown.values()))
    axes = dict(zip(shown, grid, strict=True))
    _draw_episodes(axes["episodes"], inspection)
    if "actions" in axes:
        _draw_actions(axes["actions"], inspection)
    _draw_reward(axes["reward"], inspection)
    for lane in grid[1:]:
        for begin, _, _ in inspection.spans:
            lane.axvline(begin - 0.5, color=_GREY, linewidth=1)
        lane.tick_params(length=0)
    if lane_title:
        axes["units"].set_title(lane_title)
    axes["episodes"].set_xlim(-0.5, inspection.shown.stop - 0.5)
    axes["reward"].tick_params(axis="x", length=3)
    axes["reward"].set_xlabel(f"step, one {inspection.kind.trial} after the other")
    return figure, grid[1], None if left is None else left.subplots()


def _draw_episodes(axes: Axes, inspection: Inspection) -> None:
    for begin, end, episode in inspection.spans:
        axes.axvspan(begin - 0.5, end - 0.5, facecolor=_outcome(episode)[2], alpha=0.25, edgecolor="white")
        letters = int((end - begin) / inspection.shown.stop * 190)  # that fit beside each other
        caption = _caption(episode, letters)
        axes.text((begin + end - 1) / 2, 0.5, caption, ha="center", va="center", fontsize=8, clip_on=True)
    axes.set_yticks([])
    axes.tick_params(bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)


def _outcome(episode: dict[str, Any]) -> tuple[str, str, str]:
    """A sign, words and a colour for how an episode ended."""
    if episode["success"] is None:
        words = f"{episode.get('measure', 'return')} {episode['return']:.3g}"
        return words, words, _GREY
    if episode["success"]:
        return "✓", "✓ success", _GREEN
    return "✗", "✗ out of time" if episode["out_of_time"] else "✗ failed", _ORANGE


def _caption(episode: dict[str, Any], letters: int) -> str:
    sign, words, _ = _outcome(episode)
    outcome = next((text for text in (words, sign) if len(text) <= letters), "")
    task = textwrap.wrap(episode["task"] or "", max(1, letters), break_long_words=False)
    fits = len(task) <= 2 and all(len(line) <= letters for line in task)
    return "\n".join([*task, outcome] if fits else [outcome])


def _draw_actions(axes: Axes, inspection: Inspection) -> None:
    names = inspection.facts["action_names"]
    taken = inspection.arrays["action"][inspection.shown] == np.arange(len(names))[:, None]
    _show(axes, taken, _BLUE_ON_WHITE)
    axes.set_yticks(range(len(names)), names)
    axes.set_title(inspection.titles[0])


def _draw_reward(axes: Axes, inspection: Inspection) -> None:
    reward = inspection.arrays["reward"][inspection.shown]
    axes.bar(range(len(reward)), reward, width=1, color=np.where(reward < 0, _ORANGE, _GREEN))
    axes.axhline(0, color=_GREY, linewidth=0.8)
    if reward.any():
        axes.set_title(inspection.titles[1])
        axes.locator_params(axis="y", nbins=3)
    else:
        axes.set_title(f"{inspection.titles[1]}: none in these steps")
        axes.set(ylim=(0, 1), yticks=[])


def _show(axes: Axes, rows: NDArray[Any], colours: Colormap | str, high: float = 1.0) -> AxesImage:
    """One row of little boxes for each row of numbers from zero up, the first on top."""
    image = axes.imshow(rows, cmap=colours, vmin=0.0, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_facecolor(_IDLE)
    for row in range(1, len(rows)):
        axes.axhline(row - 0.5, color=_PALE, linewidth=0.8)
    return image


def _add_scale(figure: Figure, image: AxesImage, lane: Axes) -> None:
    """A scale of colours that takes room from every lane, so that their steps stay one above the other."""
    lanes = [axes for axes in figure.axes if axes.get_shared_x_axes().joined(axes, lane)]
    lanes[0].figure.colorbar(image, ax=lanes, fraction=0.02, pad=0.01, format=lambda x, _: percent(x))


def _draw_matrix(axes: Axes, means: NDArray[Any], title: str) -> None:
    """Mean attention, a row for each unit; a unit that was never active has an empty row."""
    high = float(np.nanmax(means))
    square = means.shape[0] == means.shape[1]
    image = np.ma.masked_invalid(means)
    axes.imshow(image, cmap="cividis", vmin=0.0, vmax=high, aspect="equal" if square else "auto")
    axes.set_facecolor(_IDLE)
    if means.size <= _NUMBERS:
        for (n, column), share in np.ndenumerate(means):
            if not math.isnan(share):
                colour = "black" if share > 0.6 * high else "white"
                axes.text(column, n, percent(share), ha="center", va="center", color=colour, fontsize=8)
    axes.set_yticks(range(len(means)), [f"unit {n}" for n in range(len(means))])
    axes.tick_params(length=0)
    axes.set_title(title)


def _label_units(axes: Axes, remarks: list[str]) -> None:
    axes.set_yticks(range(len(remarks)), [f"unit {n}:  {remark}" for n, remark in enumerate(remarks)])


# -- on average --------------------------------------------------------------------------------------------------------


def frequency(inspection: Inspection) -> Figure | None:
    """How often each unit is active: over all steps, and by what the agent does or meets in a step."""
    if not inspection.has_units:
        return None
    everywhere, *occasions = [row for row in inspection.facts["active_frequency"] if row["steps"]]
    num_later = max((row["steps"] for row in occasions if row["kind"] == "later"), default=0)
    occasions = [row for row in occasions if row["kind"] != "reward" or row["steps"] < num_later]
    overall = np.array(everywhere["units"])
    N = len(overall)
    figure = Figure(figsize=(max(11, 4.5 + 1.1 * len(occasions)), 2.3 + 0.4 * N), layout="constrained")
    figure.suptitle(f"How often each unit works: {_subject(inspection, whole=True)}", x=0.01, ha="left")
    bars, grid = figure.subplots(1, 2, width_ratios=(3, 1.1 * len(occasions)))
    drawn = bars.barh(range(N), overall, color="black", height=0.7)
    bars.bar_label(drawn, [percent(share) for share in overall], padding=3)
    bars.axvline(overall.mean(), color=_ORANGE, linewidth=1.5)
    bars.set(xlim=(0, 1.18), ylim=(N - 0.5, -0.5), xticks=[0, 0.5, 1])
    bars.set_yticks(range(N), [f"unit {n}" for n in range(N)])
    bars.xaxis.set_major_formatter(lambda x, _: percent(x))
    bars.spines[["top", "right"]].set_visible(False)
    bars.set_title(f"Active in this share of all\n{everywhere['steps']} steps (line: mean unit)")
    bars.set_xlabel(format_evenness(inspection.facts))

    table = np.array([row["units"] for row in occasions]).T  # [N, occasions]
    usual = next((np.array(row["units"]) for row in occasions if row["kind"] == "later"), overall)
    difference = table - usual[:, None]
    grid.imshow(difference, cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
    for (n, column), share in np.ndenumerate(table):
        strong = abs(difference[n, column]) > 0.6
        grid.text(column, n, percent(share), ha="center", va="center", color="white" if strong else "black")
    grid.set_yticks([])
    grid.set_xticks(
        range(len(occasions)), [f"{_when(row, inspection.titles[0])}\n({row['steps']} steps)" for row in occasions]
    )
    grid.xaxis.tick_top()
    grid.tick_params(length=0)
    grid.set_title(
        "The same, by what happens in the step\n(orange: more often than in all later steps, purple: less often)"
    )
    return figure


def _when(occasion: dict[str, Any], title: str) -> str:
    noun = title.split(maxsplit=1)[0].lower()
    words = {"action": f"later, {noun} {occasion['when']}", "reward": f"later, {occasion['when']}"}
    return textwrap.fill(words.get(occasion["kind"], occasion["when"]), 14)


def _subject(inspection: Inspection, whole: bool = False) -> str:
    """What was inspected, and which part of it is shown, unless that is the whole."""
    facts = inspection.facts
    kind, noun, played = inspection.kind, inspection.kind.trial, len(inspection.episodes)
    if whole:
        episodes = f"{played} {noun}s"
    else:
        number = len(inspection.spans)
        begin, end, episode = inspection.spans[-1]
        episodes = f"{noun}s 1 to {number} of {played}" if number > 1 else f"{noun} 1 of {played}"
        if end - begin < episode["length"]:
            episodes = f"first {end} of {episode['length']} steps of {episodes}"
    trained = f"after {facts[kind.reached]:,} training {kind.step}s"
    return f"{facts['core']} on {facts['suite']} ({facts['split']}) {trained}, {episodes}"


def format_evenness(facts: Mapping[str, Any]) -> str:
    """How evenly units are used, in words; empty for inspections without these measures, which older versions made."""
    if facts.get("collapse") is None or facts.get("worst_share") is None:
        return ""
    return f"collapse {facts['collapse']:.2f}, worst share {facts['worst_share']:.2f}"


def format_mutual_information(facts: Mapping[str, Any]) -> str:
    """How much units tell of each event, in words; empty as `format_evenness`."""
    action, reward = facts.get("titles", ("action", "sign of the reward"))
    words = {"action": action.lower(), "reward": reward.lower()}
    bits = facts.get("mutual_information") or {}
    return ", ".join(f"{words.get(name, name.replace('_', ' '))} {each:.3f} bits" for name, each in bits.items())


def percent(share: float) -> str:
    """A share as a whole percentage; 0 % and 100 % mean never and always."""
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 <= share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"
