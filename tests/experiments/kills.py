"""Kills (-9) a training at random moments until it has come through; run as a process of its own.

``python -m tests.experiments.kills RUN KILLS SEED WORD…`` trains in children that are forked once everything is
imported, so that the moments fall into the training and not into the imports. Prints how often it killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import rimrl
from rimrl.cli import main
from rimrl.experiments import resuming, train

assert rimrl
assert resuming
assert train


def begin(run: Path, words: list[str]) -> int:
    """Start or go on, in a child."""
    child = os.fork()
    if child == 0:
        there = (run / "config.yaml").exists()
        os._exit(main(["train", "--quiet", *(["--resume", str(run)] if there else [*words, "--run-dir", str(run)])]))
    return child


def rows(run: Path) -> int:
    """Size of the log of updates, which changes with each."""
    file = run / "progress.csv"
    return file.stat().st_size if file.exists() else 0


def killed(child: int, run: Path, updates: int, seconds: float) -> bool:
    """Kill a child some moment after so many updates, unless it has ended well by then."""
    size = rows(run)
    while updates >= 0:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            assert code == 0, f"it ended with code {code}"
            return False
        if rows(run) != size:
            size = rows(run)
            updates -= 1
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def run_to_the_end(run: Path, kills: int, seed: int, words: list[str]) -> int:
    """Train with so many kills; returns how many there were before it ended."""
    chance = random.Random(seed)
    done = 0
    while done < kills and killed(begin(run, words), run, chance.randrange(12), chance.uniform(0, 0.2)):
        done += 1
    if done == kills:
        _, status = os.waitpid(begin(run, words), 0)
        code = os.waitstatus_to_exitcode(status)
        assert code == 0, f"it ended with code {code}"
    return done


if __name__ == "__main__":
    place, count, number, *rest = sys.argv[1:]
    print(run_to_the_end(Path(place), int(count), int(number), rest))
