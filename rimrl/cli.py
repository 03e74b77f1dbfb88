"""The ``rimrl`` command: thin verbs over `rimrl.experiments` and `rimrl.reporting`.

Bad input ends with one line on standard error and exit code 2. Everything heavy is imported by the verb that needs
it, so that ``rimrl --help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rimrl import __version__
from rimrl.errors import RunFailedError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from rimrl.experiments.run import Run
    from rimrl.reporting.comparison import Comparison

    _Verbs = argparse._SubParsersAction["_Parser"]

INTERRUPTED = 130
FAILED = 1
BAD_INPUT = 2
_WIDTH_OF_FILES = 200


class _Parser(argparse.ArgumentParser):
    """argparse that reports like everything else here: one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after ``rimrl``; default: those of this process.

    Returns:
        The exit code: 0, 1 when a run broke, 2 for bad input, 130 when interrupted.
    """
    try:
        options, rest = _parser().parse_known_args(arguments)
        if rest and options.verb is not _train:
            raise UsageError(f"unexpected argument {rest[0]!r}; see rimrl {options.name} --help")
        options.overrides = rest
        code: int = options.verb(options)
    except UsageError as error:
        print(f"rimrl: {error}", file=sys.stderr)
        return BAD_INPUT
    except RunFailedError as error:
        print(f"rimrl: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("rimrl: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rimrl", description="Train and evaluate agents with modular recurrent policies.")
    parser.add_argument("--version", action="version", version=f"rimrl {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="name", parser_class=_Parser)

    train = verbs.add_parser(
        "train",
        help="train an agent",
        usage="rimrl train [-h] [CONFIG] [--resume DIR] [options]",
        description="Train an agent and leave a run folder. CONFIG is a shipped name (rimrl list configs) or a YAML "
        "file; with --resume it may be left out.",
        epilog="Every other key of the configuration is an override, such as --core.num_active 3 or --env.n_envs 8; "
        "'rimrl train CONFIG --keys' lists them.",
        allow_abbrev=False,
    )
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="where to leave the run; default runs/CONFIG_N")
    train.add_argument("--resume", type=Path, metavar="DIR", help="go on with a run from its last checkpoint")
    train.add_argument("--accept-changes", action="store_true", help="resume with what differs from the run's own keys")
    train.add_argument("--seed", metavar="N", help="seed of weights, actions and environments")
    train.add_argument("--total-timesteps", metavar="N", help="environment steps to train for")
    train.add_argument("--keys", action="store_true", help="list the configuration's keys and values, and stop")
    train.add_argument("--quiet", action="store_true", help="no progress on standard error")
    train.set_defaults(verb=_train)

    evaluate = verbs.add_parser(
        "evaluate",
        help="play the training and held-out splits",
        description="Evaluate runs on every split of their suite and write evaluation.json into each.",
    )
    evaluate.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run folder, or one of rimrl export")
    evaluate.add_argument("--episodes", type=int, default=100, metavar="N", help="per split (default 100)")
    evaluate.add_argument("--suite", metavar="NAME", help="another suite or environment than the run was trained on")
    evaluate.add_argument("--split", metavar="NAME", help="only this split")
    evaluate.add_argument("--deterministic", action="store_true", help="the likeliest action instead of a sample")
    evaluate.add_argument("--best", action="store_true", help="best_model.zip instead of model.zip")
    evaluate.add_argument("--seed", type=int, metavar="N", help="seed of the levels (default far from training's)")
    evaluate.add_argument("--n-envs", type=int, default=16, metavar="N", help="played side by side (default 16)")
    evaluate.add_argument("--no-random", action="store_true", help="leave out the random policy")
    evaluate.add_argument("--quiet", action="store_true", help="no progress on standard error")
    evaluate.set_defaults(verb=_evaluate)

    compare = verbs.add_parser(
        "compare",
        help="put evaluated runs in one table",
        description="Print one table of evaluated runs. Runs of one configuration that differ in their seed become one "
        "column, with 95 % intervals over seeds.",
    )
    compare.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="an evaluated run folder, or a folder that holds some"
    )
    compare.add_argument("--suite", metavar="NAME", help="the evaluations on this suite (default: each run's own)")
    compare.add_argument(
        "--reference", metavar="NAME", help="the column that the others are to be better than (default: the first)"
    )
    compare.add_argument("--plot", type=Path, metavar="FILE", help="also save learning curves and bars (.png, .svg)")
    compare.add_argument("--json", type=Path, metavar="FILE", help="also save every number")
    compare.set_defaults(verb=_compare)

    inspect = verbs.add_parser(
        "inspect",
        help="show what the units of a trained agent do",
        description="Play episodes of a run and draw which unit of its core is active when, what the units attend to, "
        "and how often each of them works.",
    )
    inspect.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    inspect.add_argument("--episodes", type=int, default=50, metavar="N", help="how many to play (default 50)")
    inspect.add_argument("--split", default="train", metavar="NAME", help="which split to play (default train)")
    inspect.add_argument(
        "--output", type=Path, metavar="DIR", help="gets one folder per split (default RUN/inspection)"
    )
    inspect.add_argument("--deterministic", action="store_true", help="the likeliest action instead of a sample")
    inspect.add_argument("--best", action="store_true", help="best_model.zip instead of model.zip")
    inspect.add_argument("--seed", type=int, metavar="N", help="seed of the levels (default far from training's)")
    inspect.add_argument("--quiet", action="store_true", help="no progress on standard error")
    inspect.set_defaults(verb=_inspect)

    _add_report(verbs)
    _add_watch(verbs)
    _add_transfer(verbs)
    _add_sharing(verbs)

    listing = verbs.add_parser("list", help="list what there is", description="List what there is.")
    listing.add_argument("what", choices=["cores", "configs", "suites", "envs"])
    listing.set_defaults(verb=_list)
    return parser


def _add_report(verbs: _Verbs) -> None:
    report = verbs.add_parser(
        "report",
        help="write one page about evaluated runs",
        description="Write one self-contained HTML page about evaluated runs: what they say and how surely, learning "
        "curves, scores by split, what the units do, configurations, and the commands that repeat it. Runs that differ "
        "in their seed alone are one group.",
    )
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run folder, or a folder of run folders")
    report.add_argument(
        "--output", type=Path, default=Path("report.html"), metavar="FILE", help="the page (default report.html)"
    )
    report.add_argument("--suite", metavar="NAME", help="evaluations on another suite than the runs were trained on")
    report.set_defaults(verb=_report)


def _add_watch(verbs: _Verbs) -> None:
    watch = verbs.add_parser(
        "watch",
        help="film a trained agent and its units",
        description="Play episodes of a run and write a film of them: the game, and beside it which unit of the core "
        "is active in each of the last steps.",
    )
    watch.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    watch.add_argument("--episodes", type=int, default=3, metavar="N", help="how many to play (default 3)")
    watch.add_argument("--split", default="train", metavar="NAME", help="which split to play (default train)")
    watch.add_argument(
        "--output", type=Path, metavar="FILE", help=".gif, or .mp4 with rimrl[video] (default RUN/watch/SPLIT.gif)"
    )
    watch.add_argument("--fps", type=float, default=8, metavar="N", help="steps shown in a second (default 8)")
    watch.add_argument("--deterministic", action="store_true", help="the likeliest action instead of a sample")
    watch.add_argument("--best", action="store_true", help="best_model.zip instead of model.zip")
    watch.add_argument("--seed", type=int, metavar="N", help="seed of the levels (default far from training's)")
    watch.add_argument("--quiet", action="store_true", help="no progress on standard error")
    watch.set_defaults(verb=_watch)


def _add_transfer(verbs: _Verbs) -> None:
    transfer = verbs.add_parser(
        "transfer",
        help="train on sources, transfer to targets, score it",
        description="Train sources, then targets by every method (from scratch, fine-tuned, frozen, random, "
        "progressive), and score what the sources were good for. The same command goes on with what was interrupted.",
    )
    transfer.add_argument("config", metavar="CONFIG", help="a shipped name (rimrl list configs) or a YAML file")
    transfer.add_argument("--run-dir", type=Path, metavar="DIR", help="the folder to work in; default runs/CONFIG")
    transfer.add_argument("--seeds", type=int, nargs="+", metavar="N", help="instead of the configuration's")
    transfer.add_argument("--source-timesteps", type=int, metavar="N", help="environment steps on a source")
    transfer.add_argument("--target-timesteps", type=int, metavar="N", help="environment steps on a target")
    transfer.add_argument("--plan", action="store_true", help="list the runs and how far they are, and stop")
    transfer.add_argument("--quiet", action="store_true", help="no progress on standard error")
    transfer.set_defaults(verb=_transfer)


def _add_sharing(verbs: _Verbs) -> None:
    export = verbs.add_parser(
        "export",
        help="write a trained agent without code, to share it",
        description="Write a run's agent as safetensors and a JSON card. 'rimrl.load', 'evaluate', 'inspect' and "
        "'watch' take the folder, and nothing in it can run code.",
    )
    export.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    export.add_argument("output", metavar="DIR", type=Path, help="a new folder, or an earlier export to replace")
    export.add_argument("--best", action="store_true", help="best_model.zip instead of model.zip")
    export.set_defaults(verb=_export)

    push = verbs.add_parser(
        "push",
        help="put an exported agent on the Hugging Face Hub",
        description="Put an exported agent on the Hugging Face Hub (needs rimrl[hub] and 'hf auth login').",
    )
    push.add_argument("folder", metavar="DIR", type=Path, help="a folder of rimrl export")
    push.add_argument("repository", metavar="USER/NAME", help="made if missing")
    push.add_argument("--private", action="store_true", help="for yourself alone")
    push.set_defaults(verb=_push)

    pull = verbs.add_parser(
        "pull",
        help="fetch an exported agent from the Hugging Face Hub",
        description="Fetch the card and the weights of an exported agent (needs rimrl[hub]).",
    )
    pull.add_argument("repository", metavar="USER/NAME[@REVISION]", help="where it is")
    pull.add_argument("folder", metavar="DIR", type=Path, help="a new folder, or an earlier export to replace")
    pull.set_defaults(verb=_pull)


def _train(options: argparse.Namespace) -> int:
    from rimrl.experiments.config_files import load_config  # noqa: PLC0415

    given, overrides = _config_among(options.overrides)
    if options.resume is not None:
        return _resume(options, given, overrides)
    if options.accept_changes:
        raise UsageError("--accept-changes goes with --resume; see rimrl train --help")
    if given is None:
        raise UsageError("the following arguments are required: CONFIG; see rimrl train --help")
    config = load_config(given, [*overrides, *_flags(options)])
    if options.keys:
        print(config.to_yaml(), end="")
        return 0
    from rimrl.experiments.train import train  # noqa: PLC0415

    run, finished = train(config, options.run_dir, progress_bar=not options.quiet)
    return _trained(run, finished)


def _resume(options: argparse.Namespace, given: str | None, overrides: list[str]) -> int:
    from rimrl.experiments.config_files import load_config  # noqa: PLC0415
    from rimrl.experiments.run import Run  # noqa: PLC0415

    if options.run_dir is not None:
        raise UsageError("--resume goes on in the run's own folder; leave out --run-dir")
    run = Run.open(options.resume)
    config = load_config(given or str(run.path / "config.yaml"), [*overrides, *_flags(options)])
    if options.keys:
        print(config.to_yaml(), end="")
        return 0
    from rimrl.experiments.resuming import resume  # noqa: PLC0415

    return _trained(run, resume(run, config, options.accept_changes, progress_bar=not options.quiet))


def _trained(run: Run, finished: bool) -> int:
    if not finished:
        print(
            f"rimrl: interrupted; the agent so far is in {run.model_file}; to go on: rimrl train --resume {run.path}",
            file=sys.stderr,
        )
        return INTERRUPTED
    print(f"trained {run.config.name}: {run.path}")
    print(f"next: rimrl evaluate {run.path}")
    return 0


def _config_among(words: Sequence[str]) -> tuple[str | None, list[str]]:
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


def _flags(options: argparse.Namespace) -> list[str]:
    """The common flags as overrides."""
    keys = (("seed", "train.seed"), ("total_timesteps", "train.total_timesteps"))
    return [f"--{key}={getattr(options, flag)}" for flag, key in keys if getattr(options, flag) is not None]


def _evaluate(options: argparse.Namespace) -> int:
    from rimrl.experiments.evaluate import DEFAULT_SEED, evaluate  # noqa: PLC0415
    from rimrl.experiments.run import Run  # noqa: PLC0415

    runs = [Run.open(path) for path in options.runs]
    for run in runs:
        run.agent_file(options.best)  # what is missing is said before anything is played
    for run in runs:
        evaluate(
            run,
            episodes=options.episodes,
            split=options.split,
            deterministic=options.deterministic,
            seed=DEFAULT_SEED if options.seed is None else options.seed,
            n_envs=options.n_envs,
            random_policy=not options.no_random,
            best=options.best,
            progress_bar=not options.quiet,
            suite=options.suite,
        )
    for paths in _by_suite(runs, options.suite):
        try:
            _print_comparison(_read_comparison(paths, options.suite))
        except UsageError as error:  # what was evaluated is kept, whether or not it fits in one table
            print(f"note: no table of them together: {error}", file=sys.stderr)
            for path in paths:
                _print_comparison(_read_comparison([path], options.suite))
    return 0


def _by_suite(runs: list[Run], suite: str | None) -> list[list[Path]]:
    """Folders of runs that were asked the same questions."""
    together: dict[str, list[Path]] = {}
    for run in runs:
        together.setdefault(suite or run.config.env.id, []).append(run.path)
    return list(together.values())


def _compare(options: argparse.Namespace) -> int:
    comparison = _read_comparison(options.runs, options.suite, options.reference)
    saved = []
    if options.plot is not None:
        from rimrl.reporting.group_plots import save_groups  # noqa: PLC0415
        from rimrl.reporting.plots import save_comparison  # noqa: PLC0415

        try:
            if comparison.has_seeds:
                save_groups(comparison, options.plot)
            else:
                save_comparison(comparison.single_runs(), options.plot)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot save the picture {options.plot}: {error}") from None
        saved.append(f"picture: {options.plot}")
    if options.json is not None:
        comparison.save(options.json)
        saved.append(f"numbers: {options.json}")
    _print_comparison(comparison)
    for line in saved:
        print(line)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from rimrl.experiments.evaluate import DEFAULT_SEED, splits_to_play  # noqa: PLC0415
    from rimrl.experiments.inspect import RECORDING_FILES, record  # noqa: PLC0415
    from rimrl.experiments.run import Run  # noqa: PLC0415
    from rimrl.files import replacing  # noqa: PLC0415
    from rimrl.reporting.inspection import PICTURES, percent, save_pictures  # noqa: PLC0415

    run = Run.open(options.run)
    (split,) = splits_to_play(run.config.env.id, options.split)
    folder = (options.output or run.path / "inspection") / split.name
    with replacing(folder, [*RECORDING_FILES, *PICTURES]) as partial:
        recording = record(
            run,
            episodes=options.episodes,
            split=split.name,
            deterministic=options.deterministic,
            seed=DEFAULT_SEED if options.seed is None else options.seed,
            best=options.best,
            progress_bar=not options.quiet,
        )
        recording.save(partial)
        pictures = save_pictures(partial)
    facts = recording.facts
    print(f"inspected {run.path} on {split.name}: {options.episodes} episodes, {facts['steps']} steps")
    if facts["units"] == 1:
        print(f"core {facts['core']!r} has no units to show: the picture shows actions and rewards")
    else:
        shares = facts["active_frequency"][0]["units"]
        print("active:", ", ".join(f"unit {n} {percent(share)}" for n, share in enumerate(shares)))
    print("pictures:", ", ".join(str(folder / name) for name in pictures))
    return 0


def _report(options: argparse.Namespace) -> int:
    from rimrl.files import check_writable  # noqa: PLC0415
    from rimrl.reporting.report import save_report  # noqa: PLC0415
    from rimrl.reporting.verdict import Findings  # noqa: PLC0415

    check_writable(options.output)
    comparison = _read_comparison(options.runs, options.suite)
    save_report(comparison, options.output)
    _print_remarks(comparison)
    print(Findings(comparison).verdict)
    print(f"report: {options.output}")
    return 0


def _watch(options: argparse.Namespace) -> int:
    from rimrl.experiments.evaluate import DEFAULT_SEED, splits_to_play  # noqa: PLC0415
    from rimrl.experiments.run import Run  # noqa: PLC0415
    from rimrl.experiments.watch import showing  # noqa: PLC0415
    from rimrl.files import replacing_file  # noqa: PLC0415
    from rimrl.reporting.video import Film  # noqa: PLC0415
    from rimrl.reporting.video_files import check_format, write_video  # noqa: PLC0415

    run = Run.open(options.run)
    (split,) = splits_to_play(run.config.env.id, options.split)
    file: Path = options.output or run.path / "watch" / f"{split.name}.gif"
    check_format(file, options.fps)
    with (
        replacing_file(file) as partial,
        showing(
            run,
            episodes=options.episodes,
            split=split.name,
            deterministic=options.deterministic,
            seed=DEFAULT_SEED if options.seed is None else options.seed,
            best=options.best,
            progress_bar=not options.quiet,
        ) as show,
    ):
        film = Film(show.title, show.episodes)
        write_video(map(film.shot, show.scenes), partial, options.fps)
    print(f"filmed {run.path} on {split.name}: {options.episodes} episodes, {film.frames} steps")
    if not film.units:
        print(f"core {run.config.core.name!r} has no units to show: the film shows the game and what is done")
    print(f"film: {file}")
    return 0


def _transfer(options: argparse.Namespace) -> int:
    from rimrl.experiments.transfer import Transfer, default_folder  # noqa: PLC0415
    from rimrl.experiments.transfer_config import load_transfer  # noqa: PLC0415
    from rimrl.reporting.transfer import save_scores  # noqa: PLC0415
    from rimrl.reporting.transfer_plots import save_matrices  # noqa: PLC0415
    from rimrl.reporting.transfer_table import count_table, score_table  # noqa: PLC0415

    asked = {key: getattr(options, key) for key in ("seeds", "source_timesteps", "target_timesteps")}
    config = load_transfer(options.config, {key: value for key, value in asked.items() if value is not None})
    folder = options.run_dir or default_folder(config)
    transfer = Transfer(config, folder)
    if options.plan:
        for cell in transfer.cells:
            print(f"{transfer.status(cell):<11} {cell.config.train.total_timesteps:>9} steps  {cell.path}")
        return 0
    finished = False
    try:
        finished = transfer.run(progress_bar=not options.quiet, after_each=lambda: save_scores(folder))
    finally:
        if (folder / "transfer.json").exists():
            result = save_scores(folder)
            pictures = save_matrices(result, folder)
            for table in (score_table(result), count_table(result)):
                _console().print(table)
            print(f"scores: {folder / 'transfer.json'}")
            print("pictures:", ", ".join(map(str, pictures)))
    if not finished:
        print(f"rimrl: interrupted; {len(transfer.waiting)} runs are left, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 0


def _export(options: argparse.Namespace) -> int:
    from rimrl.experiments.export import export  # noqa: PLC0415
    from rimrl.experiments.run import Run  # noqa: PLC0415

    folder = export(Run.open(options.run), options.output, best=options.best)
    print(f"exported {options.run}: {folder}")
    return 0


def _push(options: argparse.Namespace) -> int:
    from rimrl.agents.saved.hub import push  # noqa: PLC0415

    print(f"pushed {options.folder}: {push(options.folder, options.repository, options.private)}")
    return 0


def _pull(options: argparse.Namespace) -> int:
    from rimrl.agents.saved.hub import pull  # noqa: PLC0415

    print(f"pulled {options.repository}: {pull(options.repository, options.folder)}")
    return 0


def _read_comparison(paths: list[Path], suite: str | None = None, reference: str | None = None) -> Comparison:
    from rimrl.reporting.comparison import compare  # noqa: PLC0415
    from rimrl.reporting.groups import group_runs  # noqa: PLC0415
    from rimrl.reporting.results import find_runs, read_runs  # noqa: PLC0415

    if suite is not None:
        from rimrl.envs.suites import get_suite, is_suite  # noqa: PLC0415

        suite = get_suite(suite).name if is_suite(suite) else suite
    evaluated, others = find_runs(paths, suite)
    if not evaluated:
        where = f" on {suite}" if suite else ""
        raise UsageError(f"no run below {paths[0]} has been evaluated{where}; run rimrl evaluate on them first")
    comparison = compare(group_runs(read_runs(evaluated, suite)), reference)
    if others:
        listed = ", ".join(map(str, others))
        comparison.remarks.insert(0, f"left out, because they have not been evaluated: {listed}")
    return comparison


def _print_comparison(comparison: Comparison) -> None:
    from rimrl.reporting.table import comparison_table, group_table  # noqa: PLC0415

    _print_remarks(comparison)
    _console().print(group_table(comparison) if comparison.has_seeds else comparison_table(comparison.single_runs()))


def _print_remarks(comparison: Comparison) -> None:
    for remark in comparison.remarks:
        print(f"note: {remark}", file=sys.stderr)


def _list(options: argparse.Namespace) -> int:
    from rimrl.listings import listing  # noqa: PLC0415

    _console().print(listing(options.what))
    return 0


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415

    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)


if __name__ == "__main__":
    sys.exit(main())
