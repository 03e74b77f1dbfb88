"""Suites of POPGym, one for each of its environments: trained on the easy version, tested on medium and hard ones.

POPGym (Morad et al., "POPGym: Benchmarking Partially Observable Reinforcement Learning", ICLR 2023) has three
difficulties of each environment. Naming and listing its suites imports nothing; playing them needs
``pip install 'rimrl[popgym]'``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rimrl.envs.splits import EnvSplit, Suite, SuiteFamily
from rimrl.errors import unknown_name


@dataclass(frozen=True)
class Task:
    """One environment of POPGym.

    Attributes:
        summary: What there is to do.
        easy: What is particular to the easy version.
        medium: The same of the medium one.
        hard: The same of the hard one.
        same_spaces: Whether all three have the same observations and actions.
    """

    summary: str
    easy: str
    medium: str
    hard: str
    same_spaces: bool = True


_DECKS = ("One deck.", "Two decks.", "Three decks.")
_MAZES = ("10 x 10 blocks.", "14 x 14 blocks.", "18 x 18 blocks.")
_BALANCE = ("200 steps.", "400 steps.", "600 steps.")

# As of POPGym 1.0.7, by the names in its ids.
TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "Autoencode": Task("Watch a deck of cards, then name their suits in reverse order.", *_DECKS),
        "Battleship": Task("Sink hidden ships.", "8 x 8 tiles.", "10 x 10 tiles.", "12 x 12 tiles.", same_spaces=False),
        "Concentration": Task(
            "Turn over pairs of equal cards.",
            "52 cards, by colour.",
            "104 cards, by colour.",
            "52 cards, by rank.",
            same_spaces=False,
        ),
        "CountRecall": Task(
            "Say how often a card has been seen.",
            "One deck, by colour.",
            "Two decks, by suit.",
            "Four decks, by rank.",
            same_spaces=False,
        ),
        "HigherLower": Task("Guess whether the next card is higher or lower.", *_DECKS),
        "LabyrinthEscape": Task("Find the way out of a maze.", *_MAZES),
        "LabyrinthExplore": Task("Visit every tile of a maze.", *_MAZES),
        "MineSweeper": Task(
            "Uncover all tiles without a mine.",
            "4 x 4 tiles, 2 mines.",
            "6 x 6 tiles, 6 mines.",
            "8 x 8 tiles, 10 mines.",
            same_spaces=False,
        ),
        "MultiarmedBandit": Task(
            "Find the arms that pay best.",
            "10 arms, 200 steps.",
            "20 arms, 400 steps.",
            "30 arms, 600 steps.",
            same_spaces=False,
        ),
        "NoisyPositionOnlyCartPole": Task(
            "Balance a pole, seeing noisy positions only.", "Noise 0.1.", "Noise 0.2.", "Noise 0.3."
        ),
        "NoisyPositionOnlyPendulum": Task(
            "Swing up a pendulum, seeing noisy positions only.", "Noise 0.1.", "Noise 0.2.", "Noise 0.3."
        ),
        "PositionOnlyCartPole": Task("Balance a pole, seeing positions only.", *_BALANCE),
        "PositionOnlyPendulum": Task(
            "Swing up a pendulum, seeing positions only.", "200 steps.", "150 steps.", "100 steps."
        ),
        "RepeatFirst": Task(
            "Name the suit of the first card at every step.", "One deck.", "Eight decks.", "Sixteen decks."
        ),
        "RepeatPrevious": Task(
            "Name the suit of an earlier card at every step.",
            "The card of three steps ago; one deck.",
            "The card of 31 steps ago; two decks.",
            "The card of 63 steps ago; three decks.",
        ),
        "VelocityOnlyCartpole": Task("Balance a pole, seeing velocities only.", *_BALANCE),
    }
)


def is_popgym(env_id: str) -> bool:
    """Tell whether a gymnasium id is one of POPGym's."""
    return env_id.startswith("popgym-")


def env_id(task: str, difficulty: str) -> str:
    """The gymnasium id of an environment: ``popgym-RepeatPreviousEasy-v0``.

    Args:
        task: One of `TASKS`.
        difficulty: ``"Easy"``, ``"Medium"`` or ``"Hard"``.
    """
    return f"popgym-{task}{difficulty}-v0"


def _find(name: str) -> Suite:
    """The suite of one of `TASKS`, in any spelling: ``RepeatPrevious``, ``repeat_previous``, ``repeatprevious``."""
    found = next((task for task in TASKS if _letters(task) == _letters(name)), None)
    if found is None:
        raise unknown_name("environment", name, TASKS, where=f"suite 'popgym/{name}'")
    task = TASKS[found]
    train = EnvSplit("train", env_id(found, "Easy"), held_out=False, description=f"Easy: {task.easy}")
    held_out = (
        train.varied("medium", f"Medium: {task.medium}", env_id(found, "Medium")),
        train.varied("hard", f"Hard: {task.hard}", env_id(found, "Hard")),
    )
    description = f"{task.summary} (POPGym)"
    if task.same_spaces:
        return Suite(f"popgym/{found}", description, (train, *held_out))
    left_out = {
        split.name: f"its observations or actions are not those of the easy version, so an agent trained on that one "
        f"cannot play it; train on {split.env_id!r}"
        for split in held_out
    }
    return Suite(f"popgym/{found}", description, (train,), left_out)


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


FAMILIES = (
    SuiteFamily(
        Suite(
            "popgym/<Env>",
            f"An environment of POPGym, which needs the extra popgym: {', '.join(TASKS)}.",
            (
                EnvSplit("train", "", False, "Its easy version."),
                EnvSplit("medium", "", True, "Its medium version, if observations and actions are the same there."),
                EnvSplit("hard", "", True, "Its hard version, if observations and actions are the same there."),
            ),
        ),
        "environment",
        "RepeatPrevious",
        _find,
    ),
)
