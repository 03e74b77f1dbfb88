"""How the command line is read: argparse that reports like everything else here, and options that verbs share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from rimrl.errors import UsageError

Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """argparse that reports bad input in one line.

    Args:
        *args: As argparse.
        examples: Commands that ``--help`` shows, each as it is typed.
        **kwargs: As argparse.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_help(self) -> str:
        """What ``--help`` prints; argparse would break the examples' lines."""
        shown = [f"  {example}\n" for example in self.examples]
        return "".join([super().format_help(), "\nexamples:\n" if shown else "", *shown])

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise the message as bad input."""
        message = re.sub(r"\S{100,}", lambda word: f"{word[0][:60]}…", message)  # argparse quotes whole words
        raise UsageError(f"{message}; see {self.prog} --help", valid=f"see {self.prog} --help")


def old_name(parser: argparse.ArgumentParser, old: str, option: argparse.Action) -> None:
    """Take an option under the name that it had one version ago, too; ``--help`` shows the new one alone."""
    parser._option_string_actions[old] = option


def agent_options() -> Parser:
    """Which of a run's agents is meant, and whether its file is trusted."""
    parent = Parser(add_help=False)
    parent.add_argument("--best", action="store_true", help="best_model.zip instead of model.zip")
    parent.add_argument(
        "--trust", action="store_true", help="run code in the agent's file; only if you know its author"
    )
    return parent


def play_options() -> Parser:
    """How an agent plays."""
    parent = Parser(add_help=False, parents=[agent_options()])
    parent.add_argument("--deterministic", action="store_true", help="the likeliest action instead of a sample")
    parent.add_argument("--seed", type=int, metavar="N", help="seed of the levels (default far from training's)")
    parent.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return parent


def play_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What `play_options` were given, as arguments of the functions that play."""
    from rimrl.experiments.evaluate import DEFAULT_SEED

    return {
        "deterministic": options.deterministic,
        "seed": DEFAULT_SEED if options.seed is None else options.seed,
        "best": options.best,
        "trust": options.trust,
        "progress_bar": not options.quiet,
    }


def filming_options(episodes: int, split_help: str = "which split to play (default train)") -> Parser:
    """Which episodes of one run are played to be looked at.

    Args:
        episodes: How many by default.
        split_help: What ``--help`` says of ``--split``.
    """
    parent = Parser(add_help=False, parents=[play_options()])
    add_run(parent)
    parent.add_argument(
        "--episodes", type=int, default=episodes, metavar="N", help=f"how many to play (default {episodes})"
    )
    parent.add_argument("--split", default="train", metavar="NAME", help=split_help)
    return parent


def add_run(parser: argparse.ArgumentParser, what: str = "a run folder", several: bool = False) -> None:
    """Take RUN, for `rimrl.experiments.pretrained.run_folder` to read.

    Args:
        parser: Of the verb.
        what: What it may be, for ``--help``.
        several: Whether there may be more than one.
    """
    help_text = f"{what}, or pretrained:NAME for an agent that comes with rimrl (rimrl list pretrained)"
    if several:
        parser.add_argument("runs", metavar="RUN", nargs="+", help=help_text)
    else:
        parser.add_argument("run", metavar="RUN", help=help_text)


def add_ablation(parser: argparse.ArgumentParser) -> None:
    """Let another number of units be active than in training."""
    parser.add_argument(
        "--core.num_active",
        dest="num_active",
        type=_numbers,
        metavar="K",
        help="let K units be active instead of as many as in training; 3,2 for layers; written to files of its own",
    )


def _numbers(text: str) -> int | list[int]:
    try:
        numbers = [int(word) for word in text.strip().removeprefix("[").removesuffix("]").split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, or several such as 3,2; got {text!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers


def config_among(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The word that is neither an override nor its value, and the others.

    argparse cannot tell: to it the value of an option that it does not know is a word like any other.
    """
    config, others = None, []
    value_expected = False
    for word in words:
        if word.startswith("--"):
            value_expected = "=" not in word
        elif config is None and not value_expected:
            config = word
            continue
        else:
            value_expected = False
        others.append(word)
    return config, others


def flags(options: argparse.Namespace) -> list[str]:
    """The common flags as overrides."""
    keys = (("seed", "train.seed"), ("total_timesteps", "train.total_timesteps"))
    return [f"--{key}={getattr(options, flag)}" for flag, key in keys if getattr(options, flag) is not None]
