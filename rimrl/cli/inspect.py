"""``rimrl inspect``: what the units of a trained agent do."""

from __future__ import annotations

import argparse
from pathlib import Path

from rimrl.cli.diagnostics import are_diagnostics, inspect_diagnostic, print_inspection
from rimrl.cli.parser import Verbs, add_ablation, filming_options, refuse_ablation

_RECORDABLE = ("states", "observations", "values")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    inspect = verbs.add_parser(
        "inspect",
        help="show what the units of a trained agent do",
        parents=[filming_options(50, "which split to play (default train; the first split of a diagnostic)")],
        description="Play episodes of a run and draw which unit of its core is active when, what the units attend to, "
        "and how often each of them works. For a run of rimrl sequence episodes are sequences, by default of its first "
        "split; of frames it also draws what was predicted beside the truth.",
    )
    inspect.add_argument(
        "--output", type=Path, metavar="DIR", help="gets one folder per split (default RUN/inspection)"
    )
    inspect.add_argument(
        "--record",
        nargs="+",
        choices=_RECORDABLE,
        default=[],
        metavar="WHAT",
        help="also keep states, observations or values of every step in recording.npz, for probing; name RUN first",
    )
    add_ablation(inspect)
    inspect.set_defaults(verb=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from rimrl.experiments.evaluate import DEFAULT_SEED, splits_to_play

    if are_diagnostics([options.run]):
        refuse_ablation(options)
        return inspect_diagnostic(options)
    from rimrl.experiments.inspect import record
    from rimrl.experiments.run import Run
    from rimrl.files import replacing
    from rimrl.reporting.inspection import PICTURES, save_pictures
    from rimrl.runs.evaluations import ablation_suffix
    from rimrl.runs.recording import RECORDING_FILES

    run = Run.open(options.run)
    (split,) = splits_to_play(run.config.env.id, options.split)
    name = f"{split.name}{ablation_suffix(options.num_active)}"
    folder = (options.output or run.path / "inspection") / name
    with replacing(folder, [*RECORDING_FILES, *PICTURES], options.output or run.path) as partial:
        recording = record(
            run,
            episodes=options.episodes,
            split=split.name,
            deterministic=options.deterministic,
            seed=DEFAULT_SEED if options.seed is None else options.seed,
            best=options.best,
            trust=options.trust,
            progress_bar=not options.quiet,
            num_active=options.num_active,
            also=options.record,
        )
        recording.save(partial)
        pictures = save_pictures(partial)
    print_inspection(run.path, recording.facts, "episodes", "actions and rewards")
    print("pictures:", ", ".join(str(folder / name) for name in pictures))
    return 0
