"""The ``rimrl`` command: thin verbs over the parts below it, one a file.

Bad input ends with one line on standard error and exit code 2. Everything heavy is imported inside the verb that needs
it, so that ``rimrl --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rimrl import __version__
from rimrl.cli import (
    compare,
    evaluate,
    imitate,
    inspect,
    listing,
    report,
    sequence,
    sharing,
    sweep,
    train,
    transfer,
    tune,
    watch,
)
from rimrl.cli.codes import BAD_INPUT, FAILED, INTERRUPTED
from rimrl.cli.parser import Parser
from rimrl.cli.processes import is_distributed, print_error
from rimrl.errors import RunFailedError, UsageError, cannot, conflict, shorten, wrong
from rimrl.imports import asked_for
from rimrl.runs.stopping import interruptible

_VERBS = (train, imitate, evaluate, compare, inspect, report, watch, transfer, sweep, tune, sequence, sharing, listing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after ``rimrl``; default: those of this process.

    Returns:
        The exit code: 0, 1 when a run broke, 2 for bad input, 130 when interrupted.
    """
    try:
        with interruptible():
            return _run(arguments)
    except UsageError as error:
        print_error(error)
        return BAD_INPUT
    except RunFailedError as error:
        print_error(error)
        return FAILED
    except OSError as error:
        if error.filename is None:  # of no file: the process of an environment, or a mistake of ours
            raise
        print_error(cannot("read or write", shorten(str(error.filename), 200), error))
        return BAD_INPUT
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        print(f"rimrl: not enough memory for sizes like these ({_first_line(error)})", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("rimrl: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    options, rest = parser().parse_known_args(arguments)
    if rest and not options.takes_overrides:
        raise wrong("unexpected argument", shorten(rest[0]), f"see rimrl {options.name} --help", "name")
    if is_distributed() and options.name != "train":
        raise conflict(f"rimrl {options.name}", "several processes, which only train", "leave out torchrun")
    options.overrides = rest
    with asked_for(options.imports):
        return int(options.verb(options))


def _is_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether an error means that something does not fit into memory; torch has no type of its own for that."""
    said = str(error).lower()
    signs = ("allocate memory", "out of memory", "calculation overflowed", "when unpacking", "invalid shape dimension")
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def parser() -> Parser:
    """The command's parser, every verb included."""
    whole = Parser(prog="rimrl", description="Train and evaluate agents with modular recurrent policies.")
    whole.add_argument("--version", action="version", version=f"rimrl {__version__}")
    whole.set_defaults(takes_overrides=False)
    verbs = whole.add_subparsers(required=True, metavar="VERB", dest="name", parser_class=Parser)
    for verb in _VERBS:
        verb.add(verbs)
    for each in verbs.choices.values():
        each.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="MODULE",
            help="import a module of your own first; may be repeated",
        )
    return whole
