"""``rimrl watch``: film a trained agent and its units."""

from __future__ import annotations

import argparse
from pathlib import Path

from rimrl.cli.parser import Verbs, filming_options, play_arguments


def add(verbs: Verbs) -> None:
    """Add the verb."""
    watch = verbs.add_parser(
        "watch",
        help="film a trained agent and its units",
        parents=[filming_options(3)],
        description="Play episodes of a run and write a film of them: the game, beside it the image that the agent "
        "sees, if it sees one, and which unit of the core is active in each of the last steps.",
        examples=["rimrl watch runs/rim --episodes 3 --output rim.gif"],
    )
    watch.add_argument(
        "--output", type=Path, metavar="FILE", help=".gif, or .mp4 with rimrl[video] (default RUN/watch/SPLIT.gif)"
    )
    watch.add_argument("--fps", type=float, default=8, metavar="N", help="steps shown in a second (default 8)")
    watch.set_defaults(verb=_watch)


def _watch(options: argparse.Namespace) -> int:
    from rimrl.experiments.played import splits_to_play
    from rimrl.experiments.pretrained import run_folder
    from rimrl.experiments.run import Run
    from rimrl.experiments.watch import showing
    from rimrl.files import replacing_file
    from rimrl.reporting.video import Film
    from rimrl.reporting.video_files import check_format, write_video

    run = Run.open(run_folder(options.run))
    (split,) = splits_to_play(run.config.played, options.split)
    file: Path = options.output or run.path / "watch" / f"{split.name}.gif"
    check_format(file, options.fps)
    with (
        replacing_file(file, None if options.output else run.path) as partial,
        showing(
            run,
            episodes=options.episodes,
            split=split.name,
            **play_arguments(options),
        ) as show,
    ):
        film = Film(show.title, show.episodes)
        write_video(map(film.shot, show.scenes), partial, options.fps)
    print(f"filmed {run.path} on {split.name}: {options.episodes} episodes, {film.frames} steps")
    if not film.units:
        print(f"core {run.config.core.name!r} has no units to show: the film shows the game and what is done")
    print(f"film: {file}")
    return 0
