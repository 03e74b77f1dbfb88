"""Times several workloads in turns, so that whatever else the machine does falls on all of them alike.

One *round* runs every workload once, in an order that turns from round to round. Speed-ups are taken within each round
and only then summarised: a machine that slows down for a while changes both sides of a ratio.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    *("torch", "numpy", "stable-baselines3", "sb3-contrib", "gymnasium", "minigrid", "ale-py", "envpool"),
    *("torchrl", "skrl", "torch-ac"),
)


@dataclass(frozen=True)
class Spread:
    """Median, and what lies around it.

    Attributes:
        median: The middle value.
        low: Lower quartile; the smallest value where there are fewer than four.
        high: Upper quartile; the largest value where there are fewer than four.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        if len(values) < 4:
            return cls(statistics.median(values), min(values), max(values))
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __format__(self, spec: str) -> str:
        """``median (low to high)``, each number in the format `spec`."""
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


@dataclass(frozen=True)
class Timing:
    """What one workload took, round by round.

    Attributes:
        wall: Seconds on the clock.
        cpu: Seconds of all threads of this process, in user and system code. Work in child processes is not in it.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    def seconds(self) -> Spread:
        """Seconds on the clock."""
        return Spread.of(self.wall)

    def cpu_seconds(self) -> Spread:
        """Seconds of processor time."""
        return Spread.of(self.cpu)

    def per_second(self, count: float) -> Spread:
        """How many of `count` things a run does pass in a second."""
        return Spread.of([count / seconds for seconds in self.wall])

    def speedup_over(self, other: Timing) -> Spread:
        """How many times faster than `other`, on the clock: above 1 is faster."""
        return Spread.of([b / a for a, b in zip(self.wall, other.wall, strict=True)])

    def cpu_speedup_over(self, other: Timing) -> Spread:
        """How many times less processor time than `other`."""
        return Spread.of([b / a for a, b in zip(self.cpu, other.cpu, strict=True)])


def interleave(
    workloads: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    warmup: int = 1,
    report: Callable[[str], None] | None = None,
) -> dict[str, Timing]:
    """Run all workloads once in each round, and time every run.

    Args:
        workloads: Functions without arguments, by name. On a GPU a run is timed to the end of its kernels.
        rounds: Timed runs of each.
        warmup: Runs of each before, untimed.
        report: Gets a line after every round, for long benchmarks.

    Returns:
        The timing of each workload, under its name.
    """
    names = list(workloads)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        for _ in range(warmup):
            workloads[name]()
    for index in range(rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            _synchronize()
            cpu_before, before = _cpu_seconds(), time.perf_counter()
            workloads[name]()
            _synchronize()
            wall[name].append(time.perf_counter() - before)
            cpu[name].append(_cpu_seconds() - cpu_before)
        if report is not None:
            report(f"round {index + 1}/{rounds}: " + ", ".join(f"{name} {wall[name][-1]:.3g} s" for name in names))
    return {name: Timing(tuple(wall[name]), tuple(cpu[name])) for name in names}


def repeated(workload: Callable[[], object], times: int) -> Callable[[], None]:
    """A workload that runs another one several times, for things too short for the clock."""

    def run() -> None:
        for _ in range(times):
            workload()

    return run


def machine() -> dict[str, Any]:
    """Processor, threads, GPU and versions: what a figure must stand beside."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of equal keys as a Markdown table: numbers to the right, text to the left.

    Args:
        rows: At least one; floats and `Spread` come with three significant digits.
    """
    header = list(rows[0])
    right = {key for key in header if isinstance(rows[0][key], int | float | Spread)}
    lines = [header, ["---:" if key in right else "---" for key in header]]
    lines += [[_cell(row[key]) for key in header] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json(path: Path, benchmark: str, settings: Mapping[str, Any], results: Any) -> None:
    """Write results beside the machine and the versions they were measured with.

    Args:
        path: File to write; folders are made.
        benchmark: Its name.
        settings: Arguments of the run.
        results: Plain data, `Spread` and `Timing`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": benchmark,
        "command": " ".join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        "machine": machine(),
        "settings": dict(settings),
        "results": results,
    }
    path.write_text(json.dumps(content, indent=1, default=_plain) + "\n")


def _cell(value: object) -> str:
    if isinstance(value, bool | str) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, Spread):
        return f"{_digits(value.median)} ({_digits(value.low)} to {_digits(value.high)})"
    return _digits(value) if isinstance(value, float) else str(value)


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(value: object) -> object:
    if isinstance(value, Spread):
        return {"median": value.median, "low": value.low, "high": value.high}
    if isinstance(value, Timing):
        return {"wall_s": value.wall, "cpu_s": value.cpu}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
