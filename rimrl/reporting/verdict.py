"""What a comparison says, in words: no more than its intervals allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property

from rimrl.reporting.comparison import Comparison, GroupSummary
from rimrl.reporting.statistics import Estimate, interval, probability_of_improvement


class ComparisonSummary:
    """A comparison, and what can be read from it.

    Args:
        comparison: Of one group or more.

    Attributes:
        comparison: The same.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    @cached_property
    def decisive(self) -> list[str]:
        """Splits by which groups are told apart: those held out, where there are any."""
        return self.comparison.held_out or self.comparison.trained

    @cached_property
    def where(self) -> str:
        """How sentences call these splits."""
        held_out, trained = self.comparison.held_out, self.comparison.trained
        if not held_out:
            return f"On {trained[0]}, where they were trained" if len(trained) == 1 else "On the training splits"
        return "On the held-out split" if len(held_out) == 1 else f"On the {len(held_out)} held-out splits"

    def overall(self, summary: GroupSummary) -> Estimate:
        """A group's interquartile mean over its runs and the decisive splits."""
        if summary.held_out is not None:
            return summary.held_out
        metric = self.comparison.metric
        return metric.limit(interval(summary.group.scores(self.decisive, metric)))

    def improvement(self, summary: GroupSummary, over: GroupSummary) -> Estimate:
        """Probability that a run of one group does better than a run of another on the decisive splits."""
        metric = self.comparison.metric
        sign = 1.0 if metric.higher_is_better else -1.0
        ours, theirs = (sign * each.group.scores(self.decisive, metric) for each in (summary, over))
        return probability_of_improvement(ours, theirs)

    def chance(self, split: str) -> float | None:
        """What uniformly random actions reach on a split: the mean over the runs that say."""
        name = f"random_{self.comparison.metric.name}"
        splits = [run.splits[split] for group in self.comparison.groups for run in group.runs]
        known = [float(result[name]) for result in splits if result.get(name) is not None]
        return math.fsum(known) / len(known) if known else None

    @cached_property
    def ranking(self) -> list[GroupSummary]:
        """Groups by their overall score, best first."""
        sign = -1 if self.comparison.metric.higher_is_better else 1
        return sorted(self.comparison.summaries, key=lambda summary: sign * self.overall(summary).value)

    @cached_property
    def verdict(self) -> str:
        """Which group does better where it was not trained, or that these runs do not tell."""
        best, *others = self.ranking
        label = self.comparison.metric.label
        if not others:
            few = " One run says nothing about the next one." if len(best.group.runs) < 2 else ""
            return f"{self.where}, {best.group.label} reached a {label} of {format_estimate(self.overall(best))}.{few}"
        if min(len(summary.group.runs) for summary in self.ranking) < 2:
            return (
                f"{self.where}, the {label} was: {self._listed(self.ranking)}. "
                "One run of a configuration says nothing about the next one, so this decides nothing."
            )
        if len(others) == 1:
            return self._of_two(best, others[0])
        beaten = [summary for summary in others if self._is_beaten(best, summary)]
        level = [summary for summary in others if summary not in beaten]
        sentence = f"{self.where}, {best.group.label} had the best {label}, {format_estimate(self.overall(best))}"
        if not level:
            return f"{sentence}, better than each of the others: {self._listed(beaten)}."
        undecided = f"these runs do not tell it apart from {self._listed(level)}"
        if not beaten:
            return f"{sentence}, but {undecided}."
        return f"{sentence}, better than {self._listed(beaten)}; {undecided}."

    def _of_two(self, best: GroupSummary, other: GroupSummary) -> str:
        ours, theirs = self.overall(best), self.overall(other)
        one, another, label = best.group.label, other.group.label, self.comparison.metric.label
        apart = ours.low > theirs.high or theirs.low > ours.high
        intervals = "the intervals do not overlap" if apart else "the intervals overlap"
        if self._is_beaten(best, other):
            decided = f"{one} was better{', and' if apart else ', although'} {intervals}"
        else:
            decided = f"{intervals}, and these runs do not decide which is better"
        chance = (
            f"a run of {one} beats one of {another} with probability {format_estimate(self.improvement(best, other))}"
        )
        scores = f"{one} reached a {label} of {format_estimate(ours)}, {another} {format_estimate(theirs)}"
        return f"{self.where}, {scores}: {decided} ({chance})."

    def _is_beaten(self, best: GroupSummary, other: GroupSummary) -> bool:
        """Whether the probability that a run of `best` is better is above one half, interval included."""
        estimate = self.improvement(best, other)
        return estimate.has_interval and estimate.low > 0.5

    def _listed(self, summaries: Sequence[GroupSummary]) -> str:
        return listed(f"{summary.group.label} {format_estimate(self.overall(summary))}" for summary in summaries)


def format_estimate(estimate: Estimate) -> str:
    """An estimate in figures: ``0.80 [0.74, 0.85]``; the value alone where there is no interval."""
    digits = _digits(estimate.value)
    return estimate.written(lambda value: f"{value:.{digits}f}")


def number(value: float) -> str:
    """A figure as `format_estimate` writes it."""
    return f"{value:.{_digits(value)}f}"


def listed(words: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def shortened(text: str, most: int) -> str:
    """A label of at most so many characters; what is too long loses its middle, since labels differ at their ends."""
    if len(text) <= most:
        return text
    end = (most - 1) * 2 // 3
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def _digits(value: float) -> int:
    return 2 if abs(value) < 100 else 0
