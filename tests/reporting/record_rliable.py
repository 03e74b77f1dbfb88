"""Records what rliable says of a published score matrix, for `tests/reporting/test_statistics.py`.

rliable is no dependency of the tests: it brings six packages, one of which does not import beside current pandas. The
numbers in ``data/rliable.json`` were made in an environment of its own, from the root of a checkout:

    pip install rliable==1.2.0 arch==7.2.0 "pandas<3" numpy
    python tests/reporting/record_rliable.py
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"
THRESHOLDS = [-0.1, 0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 8.0]
RESAMPLES = 50_000


def normalised_scores() -> dict[str, np.ndarray[Any, Any]]:
    """Human-normalised scores [R, M] of both algorithms."""
    games = json.loads((DATA / "atari_100k.json").read_text())["games"].values()
    return {
        name: np.array([(np.array(g[name]) - g["random"]) / (g["human"] - g["random"]) for g in games]).T
        for name in ("iris", "simple")
    }


def record() -> dict[str, Any]:
    """Point estimates, and intervals by rliable's default method."""
    from rliable import library, metrics  # type: ignore[import-not-found]  # noqa: PLC0415

    scores = normalised_scores()
    aggregates = {
        "interquartile_mean": metrics.aggregate_iqm,
        "mean": metrics.aggregate_mean,
        "median": metrics.aggregate_median,
        "optimality_gap": metrics.aggregate_optimality_gap,
    }
    found: dict[str, Any] = {
        "made_by": f"rliable {version('rliable')}, arch {version('arch')}, scipy {version('scipy')}",
        "thresholds": THRESHOLDS,
    }
    np.random.seed(0)
    for name, matrix in scores.items():
        points, bounds = library.get_interval_estimates(
            {name: matrix}, lambda x: np.array([f(x) for f in aggregates.values()]), reps=RESAMPLES
        )
        found[name] = {
            aggregate: {"value": float(points[name][i]), "interval": bounds[name][:, i].tolist()}
            for i, aggregate in enumerate(aggregates)
        }
        found[name]["score_distribution"] = library.score_distributions(matrix, THRESHOLDS).tolist()
    # Fewer runs on one side, rounded so that there are ties.
    pairs = {
        "iris_over_simple": (scores["iris"], scores["simple"]),
        "four_iris_over_simple_rounded": (scores["iris"][:4].round(1), scores["simple"].round(1)),
        "iris_over_iris": (scores["iris"], scores["iris"]),
    }
    for name, (ours, theirs) in pairs.items():
        points, bounds = library.get_interval_estimates(
            {name: [ours, theirs]}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=2000
        )
        found[name] = {"value": float(points[name][0]), "interval": bounds[name][:, 0].tolist()}
    return found


if __name__ == "__main__":
    text = json.dumps(record(), indent=2)
    text = re.sub(r"\[[^]]*\]", lambda numbers: " ".join(numbers[0].split()), text)  # a list a line
    (DATA / "rliable.json").write_text(text + "\n")
