"""``rimrl export``, ``push`` and ``pull``: agents to hand to others."""

from __future__ import annotations

import argparse
from pathlib import Path

from rimrl.cli.parser import Verbs, add_run, agent_options


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    export = verbs.add_parser(
        "export",
        parents=[agent_options()],
        help="write a trained agent without code, to share it",
        description="Write a run's agent as safetensors and a JSON card. 'rimrl.load', 'evaluate', 'inspect' and "
        "'watch' take the folder, and nothing in it can run code.",
        examples=["rimrl export runs/rim exported/rim", "rimrl export pretrained:recall/rim exported/recall --onnx"],
    )
    add_run(export)
    export.add_argument("output", metavar="DIR", type=Path, help="a new folder, or an earlier export to replace")
    export.add_argument(
        "--onnx", action="store_true", help="also write one step as policy.onnx, checked (needs rimrl[onnx])"
    )
    export.set_defaults(verb=_export)

    push = verbs.add_parser(
        "push",
        help="put an exported agent on the Hugging Face Hub",
        description="Put an exported agent on the Hugging Face Hub (needs rimrl[hub] and 'hf auth login').",
        examples=["rimrl push exported/rim me/my-rim"],
    )
    push.add_argument("folder", metavar="DIR", type=Path, help="a folder of rimrl export")
    push.add_argument("repository", metavar="USER/NAME", help="made if missing")
    push.add_argument("--private", action="store_true", help="for yourself alone")
    push.set_defaults(verb=_push)

    pull = verbs.add_parser(
        "pull",
        help="fetch an exported agent from the Hugging Face Hub",
        description="Fetch the card and the weights of an exported agent (needs rimrl[hub]).",
        examples=["rimrl pull me/my-rim exported/my-rim"],
    )
    pull.add_argument("repository", metavar="USER/NAME[@REVISION]", help="where it is")
    pull.add_argument("folder", metavar="DIR", type=Path, help="a new folder, or an earlier export to replace")
    pull.set_defaults(verb=_pull)


def _export(options: argparse.Namespace) -> int:
    from rimrl.experiments.export import export
    from rimrl.experiments.pretrained import run_folder
    from rimrl.experiments.run import Run

    run = Run.open(run_folder(options.run))
    folder = export(run, options.output, options.best, options.trust, onnx=options.onnx)
    print(f"exported {options.run}: {folder}")
    return 0


def _push(options: argparse.Namespace) -> int:
    from rimrl.agents.saved.hub import push

    print(f"pushed {options.folder}: {push(options.folder, options.repository, options.private)}")
    return 0


def _pull(options: argparse.Namespace) -> int:
    from rimrl.agents.saved.hub import pull

    print(f"pulled {options.repository}: {pull(options.repository, options.folder)}")
    return 0
