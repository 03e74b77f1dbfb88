"""Measures of how units are used: closed forms, and loops that do what the formulas say."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from rimrl.errors import UsageError
from rimrl.usage import collapse, mutual_information, worst_share


@pytest.mark.parametrize("units", [2, 3, 6, 49])
def test_even_use_is_neither_collapsed_nor_uneven(units: int) -> None:
    for frequency in (1.0, 2 / 3, 0.1):
        assert collapse([frequency] * units) == pytest.approx(0.0, abs=1e-12)
        assert worst_share([frequency] * units) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("units", [2, 3, 6])
def test_one_unit_that_does_everything(units: int) -> None:
    frequencies = [0.0] * (units - 1) + [1.0]
    assert collapse(frequencies) == pytest.approx(1.0)
    assert worst_share(frequencies) == 1.0


@pytest.mark.parametrize(("units", "active"), [(6, 4), (6, 1), (5, 3), (3, 3)])
def test_always_the_same_units_are_the_most_that_can_collapse(units: int, active: int) -> None:
    most = (units - active) / (units - 1)
    assert collapse([1.0] * active + [0.0] * (units - active)) == pytest.approx(most)
    rng = np.random.default_rng(0)
    for concentration in (0.05, 0.5, 5.0):
        preference = np.log(rng.dirichlet([concentration] * units) + 1e-12)
        ranks = (preference + rng.gumbel(size=(200, units))).argsort(axis=1).argsort(axis=1)
        assert -1e-12 <= collapse((ranks < active).mean(axis=0)) <= most + 1e-12


def test_figures_by_hand() -> None:
    # p = 1/8, 3/8, 4/8; only the first falls short, by 1/3 - 1/8 = 5/24.
    assert collapse([0.25, 0.75, 1.0]) == pytest.approx(3 / 2 * 5 / 24)
    assert worst_share([0.25, 0.75, 1.0]) == pytest.approx(1 - 3 / 8)
    # Two events of two steps each; of p(e, i) = 1/2, 0; 1/4, 1/4.
    active = [[1, 0], [1, 0], [1, 1], [1, 1]]
    bits = 1 / 2 * math.log2(1 / 2 / (1 / 2 * 3 / 4))
    bits += 1 / 4 * math.log2(1 / 4 / (1 / 2 * 3 / 4)) + 1 / 4 * math.log2(1 / 4 / (1 / 2 * 1 / 4))
    assert mutual_information(active, [7, 7, -1, -1]) == pytest.approx(bits)


@pytest.mark.parametrize("units", [2, 4, 6])
def test_a_unit_for_every_event_tells_all_of_it(units: int) -> None:
    events = np.arange(60 * units) % units
    assert mutual_information(np.eye(units)[events], events) == pytest.approx(math.log2(units))
    assert mutual_information(np.eye(units)[::-1][events], [f"event {e}" for e in events]) == pytest.approx(
        math.log2(units)
    )


def test_sets_of_units_tell_as_much_as_there_are_sets() -> None:
    active = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]] * 10)
    assert mutual_information(active, [0, 1, 2] * 10) == pytest.approx(math.log2(6 / 2))


def test_units_that_are_independent_of_events_tell_nothing() -> None:
    active = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
    crossed = np.repeat(active, 4, axis=0)
    assert mutual_information(crossed, [0, 1, 2, 2] * 3) == pytest.approx(0.0, abs=1e-12)
    assert mutual_information(crossed, [0] * 12) == pytest.approx(0.0, abs=1e-12)
    assert mutual_information(np.ones((12, 3)), [0, 1, 2, 2] * 3) == pytest.approx(0.0, abs=1e-12)


def slow_mutual_information(active: list[list[int]], events: list[str]) -> float:
    """The entropies of a long list of (event, unit), in which every step stands 12 times."""
    pairs: list[tuple[str, int]] = []
    for row, event in zip(active, events, strict=True):
        working = [unit for unit, works in enumerate(row) if works]
        pairs += [(event, unit) for unit in working for _ in range(12 // len(working))]

    def entropy(counts: Counter[object]) -> float:
        return -sum(count / len(pairs) * math.log2(count / len(pairs)) for count in counts.values())

    return (
        entropy(Counter(event for event, _ in pairs))
        + entropy(Counter(unit for _, unit in pairs))
        - entropy(Counter(pairs))
    )


@pytest.mark.parametrize("seed", range(5))
def test_against_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    S, R = 40, 4
    active = rng.random((S, R)) < 0.4
    active[np.arange(S), rng.integers(R, size=S)] = True
    events = [str(e) for e in rng.integers(3, size=S)]
    expected = slow_mutual_information(active.astype(int).tolist(), events)
    assert expected > 0
    assert mutual_information(active, events) == pytest.approx(expected)

    counts = [sum(bool(active[t, i]) for t in range(S)) for i in range(R)]
    shares = [count / sum(counts) for count in counts]
    missing = 0.0
    for share in shares:
        if share < 1 / R:
            missing += 1 / R - share
    assert collapse(active.mean(axis=0)) == pytest.approx(missing * R / (R - 1))
    assert worst_share(active.mean(axis=0)) == pytest.approx(1 - R * sorted(shares)[0])


def test_mutual_information_lies_within_its_bounds() -> None:
    rng = np.random.default_rng(0)
    R, K, S = 6, 4, 500
    events = rng.integers(3, size=S)
    active = (rng.gumbel(size=(3, R)) * 3)[events].argsort(axis=1) < K
    entropy = -sum(p * math.log2(p) for p in np.bincount(events) / S)
    assert 0 < mutual_information(active, events) <= min(entropy, math.log2(R / K))


def test_layers_are_measured_alone() -> None:
    # Even use within either layer, though units of the second work more often.
    assert collapse([1 / 3] * 3 + [1.0] * 2, [3, 2]) == pytest.approx(0.0, abs=1e-12)
    assert collapse([1 / 3] * 3 + [1.0] * 2) > 0.1
    assert collapse([1, 0, 0.5, 0.5], [2, 2]) == pytest.approx(1 / 2)
    assert worst_share([1, 0, 0.5, 0.5], [2, 2]) == 1.0
    active = [[1, 0, 1, 1], [0, 1, 1, 1]] * 3
    assert mutual_information(active, [0, 1] * 3, [2, 2]) == pytest.approx((1.0 + 0.0) / 2)
    assert collapse([1.0, 1.0, 0.0], [1, 2]) == pytest.approx(1.0)  # a layer of one unit does not count


def test_units_that_cannot_be_chosen_between_are_used_evenly() -> None:
    for layers in (None, [1]):
        assert (collapse([1.0], layers), worst_share([1.0], layers)) == (0.0, 0.0)
        assert mutual_information([[1], [1]], [0, 1], layers) == 0.0
    # Exactly zero, also where the number of units is no power of two.
    assert (collapse([1.0] * 49), worst_share([1.0] * 49)) == (0.0, 0.0)


def test_units_that_do_not_work_are_used_evenly_and_tell_nothing() -> None:
    assert (collapse([0.0, 0.0]), worst_share([0.0, 0.0])) == (0.0, 0.0)
    assert mutual_information([[0, 0], [0, 0]], [0, 1]) == 0.0
    assert collapse([0.0, 0.0, 1.0, 0.0], [2, 2]) == pytest.approx(1.0)
    working = [[1, 0], [0, 1], [1, 1]]
    idle = [*working, [0, 0], [0, 0]]
    assert mutual_information(idle, [0, 1, 1, 2, 2]) == pytest.approx(mutual_information(working, [0, 1, 1]))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"layers.*3.*\[2, 2\]"):
        collapse([1, 1, 1], [2, 2])
    for active, events in (([[1, 0]], [0, 1]), ([1, 0], [0, 1]), (np.ones((0, 2)), [])):
        with pytest.raises(UsageError, match=r"active \[S, N\] and events \[S\]"):
            mutual_information(active, events)
