"""Suites: what is trained on and what is held out, as plain data.

A suite names several environments that share observations and actions. Agents learn on the split ``train``; the other
splits differ from it in one stated respect and measure how well what was learned carries over. The module imports no
environment, so listing suites is instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rimrl.envs import atari_suites, perturbed_suites, popgym_suites
from rimrl.envs.own_suites import suite_of
from rimrl.envs.splits import EnvSplit, Suite, SuiteFamily
from rimrl.errors import unknown_name, wrong

# Every number of the object-picking task, here so that it can be tuned in one place.
ROOM_SIZE = 6
MAX_STEPS = 64
NUM_DISTRACTORS = 3
KNOWN_TYPES = ("ball", "box")
KNOWN_COLORS = ("red", "green", "blue")
NOVEL_TYPES = ("key",)
NOVEL_COLORS = ("purple", "yellow", "grey")

_DISTRACTORS = EnvSplit(
    "train",
    "rimrl/Distractors-v0",
    False,
    "Targets and distractors share shapes and colours.",
    {
        "size": ROOM_SIZE,
        "max_steps": MAX_STEPS,
        "target_types": KNOWN_TYPES,
        "target_colors": KNOWN_COLORS,
        "distractor_types": KNOWN_TYPES,
        "distractor_colors": KNOWN_COLORS,
        "num_distractors": NUM_DISTRACTORS,
    },
)
DISTRACTORS = Suite(
    name="distractors",
    description="Pick up the named object; held-out splits surround it with distractors never seen in training.",
    splits=(
        _DISTRACTORS,
        _DISTRACTORS.varied(
            "novel_shapes",
            "Distractors have a shape never seen in training, in the known colours.",
            "rimrl/Distractors-NovelShapes-v0",
            distractor_types=NOVEL_TYPES,
        ),
        _DISTRACTORS.varied(
            "novel_colors",
            "Distractors have colours never seen on objects in training, in the known shapes.",
            "rimrl/Distractors-NovelColors-v0",
            distractor_colors=NOVEL_COLORS,
        ),
        _DISTRACTORS.varied(
            "more_objects",
            "Twice as many distractors of the known kinds.",
            "rimrl/Distractors-MoreObjects-v0",
            num_distractors=2 * NUM_DISTRACTORS,
        ),
        _DISTRACTORS.varied(
            "all_novel",
            "Twice as many distractors, all of an unseen shape in unseen colours.",
            "rimrl/Distractors-AllNovel-v0",
            distractor_types=NOVEL_TYPES,
            distractor_colors=NOVEL_COLORS,
            num_distractors=2 * NUM_DISTRACTORS,
        ),
    ),
    memoryless=0.96,
)

_NO_MISSION = {"mission": False}  # the same words in every level

MULTIROOM = Suite(
    name="multiroom",
    description="Cross a row of rooms with closed doors to the goal; held-out mazes have more and larger rooms.",
    splits=(
        EnvSplit("train", "MiniGrid-MultiRoom-N2-S4-v0", False, "Two rooms of side 4 at most.", _NO_MISSION),
        EnvSplit("n4_s5", "MiniGrid-MultiRoom-N4-S5-v1", True, "Four rooms of side 5 at most.", _NO_MISSION),
        EnvSplit("n6", "MiniGrid-MultiRoom-N6-v0", True, "Six rooms of side 10 at most.", _NO_MISSION),
    ),
    memoryless=1.0,
)

# Seen through 3x3 tiles, the mazes of sides 7 and 9 are those of side 11 with a shorter hallway.
MEMORY_SIZE = 11
MEMORY = Suite(
    name="memory",
    description="Look at an object, walk down a hallway and go to its like; held-out hallways are longer.",
    splits=(
        EnvSplit(
            "train",
            "rimrl/Memory-v0",
            False,
            f"A maze of side {MEMORY_SIZE}, hallway of random length.",
            {"size": MEMORY_SIZE, "random_length": True},
        ),
        *(
            EnvSplit(
                f"s{size}",
                f"rimrl/Memory-S{size}-v0",
                True,
                f"A maze of side {size}, hallway as long as it allows.",
                {"size": size, "random_length": False},
            )
            for size in (13, 17, 21, 25)
        ),
    ),
)

# The recall task: as many distractor symbols are seen in training as are kept for the split `unseen`.
NUM_CUES = 2
NUM_SYMBOLS = 4
MAX_DELAY = 20
NUM_DISTRACTOR_SYMBOLS = 8
SEEN_DISTRACTORS = (0, 1, 2, 3)
UNSEEN_DISTRACTORS = (4, 5, 6, 7)
_RECALL = EnvSplit(
    "train",
    "rimrl/Recall-v0",
    False,
    f"0 to {MAX_DELAY} steps, half of them with a distractor, of four kinds.",
    {
        "num_cues": NUM_CUES,
        "num_symbols": NUM_SYMBOLS,
        "min_delay": 0,
        "max_delay": MAX_DELAY,
        "distractor_probability": 0.5,
        "num_distractors": NUM_DISTRACTOR_SYMBOLS,
        "shown_distractors": SEEN_DISTRACTORS,
    },
)
RECALL = Suite(
    name="recall",
    description="Remember two cues through a stretch of distractors; held-out stretches are longer or show others.",
    splits=(
        _RECALL,
        *(
            _RECALL.varied(
                f"d{times * MAX_DELAY}",
                f"{times * MAX_DELAY} steps, {times} times the longest stretch of training.",
                f"rimrl/Recall-D{times * MAX_DELAY}-v0",
                min_delay=times * MAX_DELAY,
                max_delay=times * MAX_DELAY,
            )
            for times in (2, 4, 8, 16)
        ),
        _RECALL.varied(
            "always", "A distractor in every step of the stretch.", "rimrl/Recall-Always-v0", distractor_probability=1.0
        ),
        _RECALL.varied(
            "unseen",
            "Distractors never seen in training.",
            "rimrl/Recall-Unseen-v0",
            shown_distractors=UNSEEN_DISTRACTORS,
        ),
    ),
)

MAX_LENGTH = 20
TMAZE = Suite(
    name="tmaze",
    description="See a sign, walk down a corridor and turn to the side it showed; held-out corridors are longer.",
    splits=(
        EnvSplit(
            "train",
            "rimrl/TMaze-v0",
            False,
            f"Corridors of 1 to {MAX_LENGTH} steps.",
            {"min_length": 1, "max_length": MAX_LENGTH},
        ),
        *(
            EnvSplit(
                f"l{length}",
                f"rimrl/TMaze-L{length}-v0",
                True,
                f"Corridors of {length} steps.",
                {"min_length": length, "max_length": length},
            )
            for length in (50, 100, 250, 500)
        ),
    ),
)

GOTO_LOCAL = Suite(
    name="goto-local",
    description="Go to the object that the instruction names; held-out rooms hold more objects.",
    splits=(
        EnvSplit("train", "BabyAI-GoToLocalS8N2-v0", False, "The object and one distractor."),
        *(
            EnvSplit(f"n{objects}", f"BabyAI-GoToLocalS8N{objects}-v0", True, f"{objects} objects in all.")
            for objects in range(3, 8)
        ),
    ),
)

UNLOCK = Suite(
    name="unlock",
    description="Fetch the key of the locked door and open it; the held-out room is strewn with distractors.",
    splits=(
        EnvSplit("train", "BabyAI-UnlockLocal-v0", False, "Nothing but key and door.", _NO_MISSION),
        EnvSplit("distractors", "BabyAI-UnlockLocalDist-v0", True, "Three distractors.", _NO_MISSION),
    ),
)

NUM_LEVELS = 100
UNSEEN_LEVELS = 1_000_000
LAYOUTS = Suite(
    name="layouts",
    description="Cross two rooms to the goal; trained on a hundred levels, tested on levels never seen.",
    splits=(
        EnvSplit(
            "train",
            "rimrl/Layouts-v0",
            False,
            f"{NUM_LEVELS} levels, those of the first seeds.",
            {"start_level": 0, "num_levels": NUM_LEVELS},
        ),
        EnvSplit(
            "unseen",
            "rimrl/Layouts-Unseen-v0",
            True,
            "Levels of other seeds, without end.",
            {"start_level": UNSEEN_LEVELS, "num_levels": 0},
        ),
    ),
)

SUITES: Mapping[str, Suite] = MappingProxyType(
    {suite.name: suite for suite in (DISTRACTORS, MULTIROOM, MEMORY, RECALL, TMAZE, GOTO_LOCAL, UNLOCK, LAYOUTS)}
)

FAMILIES: Mapping[str, SuiteFamily] = MappingProxyType(
    {family.name: family for family in (*atari_suites.FAMILIES, *popgym_suites.FAMILIES, *perturbed_suites.FAMILIES)}
)


_OWN: dict[str, Suite] = {}


def register_suite(name: str, splits: Mapping[str, Mapping[str, Any]], description: str = "") -> None:
    """Make a suite of your own known by its name: to configurations, `rimrl.make_env` and ``rimrl evaluate --suite``.

    A training refuses it if its splits show or take different things. Registering a name again replaces the suite.

    Args:
        name: Its name, as ``env.id`` in configurations.
        splits: By name, ``train`` among them, a mapping with ``id`` (a gymnasium id) and, if wanted, ``kwargs``
            (arguments of the environment; none), ``held_out`` (true but for ``train``) and ``description`` (one
            sentence).
        description: One sentence.

    Raises:
        UsageError: If the name is that of a shipped suite, a key does not fit (which), or there is not exactly one
            split that is trained on.

    Example:
        >>> register_suite("poles", {"train": {"id": "CartPole-v0"}, "longer": {"id": "CartPole-v1"}})
        >>> get_suite("poles").held_out[0].env_id
        'CartPole-v1'
    """
    suite = suite_of(name, splits, description)
    refuse_taken(name)
    _OWN[name] = suite


def refuse_taken(name: str) -> None:
    """Refuse the name of a suite of rimrl for one of the user's own.

    Raises:
        UsageError: If it is taken.
    """
    if name in SUITES or name in FAMILIES:
        raise wrong(f"the suite name {name!r}", "is taken by a suite of rimrl", "choose another one", "conflict")


def is_own(name: str | Suite) -> bool:
    """Whether a suite is none of rimrl's: registered by `register_suite`, or of a file."""
    return isinstance(name, Suite) or name in _OWN


def is_suite(name: str | Suite) -> bool:
    """Tell whether `name` means a suite: one of `SUITES` or of the user's own, or of a family, ``modes/<Game>``."""
    return isinstance(name, Suite) or name in _OWN or name in SUITES or name.partition("/")[0] in FAMILIES


def get_suite(name: str | Suite) -> Suite:
    """Return the suite called `name`; the only way to those of families. A suite is returned as it is.

    Args:
        name: One of `SUITES`; ``modes/<Game>``, ``sticky/<Game>`` or ``flicker/<Game>`` (`rimrl.envs.atari_suites`)
            with a game of ale-py, ``popgym/<Env>`` (`rimrl.envs.popgym_suites`) or ``perturbed/<Env>``
            (`rimrl.envs.perturbed_suites`), in any spelling.

    Raises:
        UsageError: If there is no such suite, game or environment; names the nearest one.
    """
    if isinstance(name, Suite):
        return name
    if name in _OWN:
        return _OWN[name]
    family, _, member = name.partition("/")
    if family in FAMILIES:
        return FAMILIES[family].suite(member)
    if name not in SUITES:
        raise unknown_name("suite", name, [suite.name for suite in listed_suites()])
    return SUITES[name]


def listed_suites() -> tuple[Suite, ...]:
    """All suites; a family stands once, as an outline named ``modes/<Game>``."""
    return (*SUITES.values(), *_OWN.values(), *(family.outline for family in FAMILIES.values()))
