"""The source of the site: the pages and notebooks of this folder, reference pages made from the code, and their links.

python docs/site.py build/docs
"""

from __future__ import annotations

import argparse
import ast
import base64
import dataclasses
import json
import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docstring_parser import parse

import rimrl
from rimrl.agents.registry import ALGORITHMS, config_class
from rimrl.cli import parser
from rimrl.cores.registry import CORES, core_options
from rimrl.experiments.config import AgentTrainConfig, EnvConfig

ROOT = Path(__file__).resolve().parents[1]
COPIES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def prepare(folder: Path) -> None:
    """Write the source of the site.

    Args:
        folder: Where to; replaced if it is there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "*.json"))
    pages = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.md")}
    pages |= {page: (ROOT / source).read_text(encoding="utf-8") for page, source in COPIES.items()}
    made = {
        "reference/commands.md": commands(),
        "reference/configuration.md": configuration(),
        "reference/api.md": api(),
        "reference/examples.md": examples(),
        "reference/modules.md": modules(),
    }
    books = {f"notebooks/{file.stem}.md": notebook(file) for file in sorted((ROOT / "docs/notebooks").glob("*.ipynb"))}
    pages |= {page: text for page, (text, _) in books.items()}
    there = {*pages, *made}
    for page, text in pages.items():
        made[page] = relinked(text, page, there)
    for page, (_, pictures) in books.items():
        made[page] = _with_download(made[page], posixpath.basename(page).replace(".md", ".ipynb"))
        for name, content in pictures.items():
            (folder / "notebooks" / name).write_bytes(content)
    for page, text in made.items():
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        (folder / page).write_text(text, encoding="utf-8")


def relinked(text: str, page: str, pages: set[str]) -> str:
    """Let links to files of the repository point at pages of the site, or be plain words where there is none.

    Args:
        text: Markdown.
        page: Its path in the site.
        pages: Paths of all pages.
    """
    folder = posixpath.dirname(COPIES[page]) if page in COPIES else posixpath.join("docs", posixpath.dirname(page))

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        moved = {source: copy for copy, source in COPIES.items()} | {"README.md": "index.md"}
        if path.startswith("examples/") and path.endswith(".py"):
            path, anchor = "docs/reference/examples.md", f"#{posixpath.basename(path).removesuffix('.py')}"
        if path.endswith(".ipynb"):
            path = path.removesuffix(".ipynb") + ".md"
        there = moved.get(path, path.removeprefix("docs/"))
        if there not in pages:
            return words
        return f"[{words}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#\s]*)(#[^)\s]*)?\)", link, part)
        for part in parts
    )


def notebook(file: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as a page: its cells and what is stored of their output.

    Args:
        file: The notebook. A cell that draws describes its picture in its metadata, under ``alt``.

    Returns:
        Markdown, and the pictures by name.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(_fenced(source, "python"))
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(_fenced("".join(output["text"]), "text"))
            elif "image/png" in output["data"]:
                name = f"{file.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(output["data"]["image/png"]))
                parts.append(f"![{cell['metadata']['alt']}]({name})")
            else:
                parts.append(_fenced("".join(output["data"]["text/plain"]), "text"))
    return "\n\n".join(parts) + "\n", pictures


def _with_download(page: str, name: str) -> str:
    title, _, rest = page.partition("\n")
    return f"{title}\n\n[Download this notebook]({name})\n{rest}"


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def commands() -> str:
    """A section for each verb: usage, arguments, options."""
    whole = parser()
    verbs = next(action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    about = {choice.dest: choice.help for choice in verbs._choices_actions}
    lines = [
        "# Commands",
        "",
        "`rimrl COMMAND --help` prints the same. Exit codes: 0, 1 when a run broke, 2 for bad input, 130",
    ]
    lines += ["when interrupted.", ""]
    for name, verb in verbs.choices.items():
        usage = " ".join(verb.format_usage().removeprefix("usage: ").split())
        lines += [f"## rimrl {name}", "", f"{verb.description or about[name]}", "", "```", usage, "```", ""]
        lines += ["| argument | meaning |", "|---|---|"]
        for action in verb._actions:
            if action.help in (None, argparse.SUPPRESS) or action.dest == "help":
                continue
            names = ", ".join(action.option_strings) or (action.metavar or action.dest)
            value = f" {action.metavar}" if action.option_strings and isinstance(action.metavar, str) else ""
            lines.append(f"| `{names}{value}` | {_cell(str(action.help) % {**vars(action), 'prog': verb.prog})} |")
        lines += ["", verb.epilog or "", "", "```", *verb.examples, "```", ""]
    return "\n".join(lines)


def configuration() -> str:
    """Every key of an agent's configuration, with type, default and meaning, and every core's options."""
    lines = ["# Configuration", "", "A configuration is a YAML file with four groups. Any key can be overridden on the"]
    lines += [
        "command line, such as `--agent.n_steps 64`; `rimrl train CONFIG --print-config` prints the values in force.",
        "The defaults below hold where a configuration does not say otherwise; shipped configurations change some.",
        "In Python, `RecurrentPPO` and `RecurrentA2C` have the defaults of sb3-contrib and Stable-Baselines3. They",
        "are the same, except for PPO's `batch_size` (128 in Python) and `n_epochs` (10 in Python).",
        "",
    ]
    lines += ["Beside the groups stand `name`, `imports` (modules to import first) and `suite` (a suite of your"]
    lines += ["own, as in its file; runs hold it there).", ""]
    tables: list[tuple[str, str, Any]] = [
        ("env", "", EnvConfig),
        *(("agent", f" with `algorithm: {name}`", config_class(name)) for name in ALGORITHMS),
        ("train", "", AgentTrainConfig),
    ]
    for group, which, cls in tables:
        lines += [f"## {group}{which}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        about = _attributes(cls)
        for field in dataclasses.fields(cls):
            lines.append(
                f"| `{group}.{field.name}` | `{_cell(str(field.type))}` | {_default(field)} "
                f"| {_cell(about.get(field.name, ''))} |"
            )
        lines.append("")
    lines += [
        "## core",
        "",
        "`core.name` is one of the names below; the other keys of the group are the core's options.",
        "",
    ]
    for name in sorted(CORES):
        lines += [f"### {name}", "", "| key | default |", "|---|---|"]
        lines += [f"| `core.{key}` | `{_cell(repr(option.default))}` |" for key, option in core_options(name).items()]
        lines.append("")
    return "\n".join(lines)


def api() -> str:
    """The public names."""
    lines = ["# Python API", "", "These names can be imported from `rimrl`.", ""]
    lines += [f"::: {home}.{name}\n" for name, home in rimrl._HOME_OF.items()]
    lines += ["## For cores of your own", ""]
    lines += [f"::: rimrl.cores.stepwise.{name}\n" for name in ("StepwiseCore", "StepTrace")]
    return "\n".join(lines)


def examples() -> str:
    """The scripts of `examples/`."""
    lines = ["# Examples", "", "Scripts in the folder `examples` of the repository, each for one question.", ""]
    for file in sorted((ROOT / "examples").glob("*.py")):
        lines += [f"## {file.stem}", "", "```python", file.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


def modules() -> str:
    """Every module of the package, folder by folder, with the first line of its docstring."""
    lines = ["# Modules", "", "Where things are in the code: the first line of every module.", ""]
    package = ROOT / "rimrl"
    for folder in sorted({file.parent for file in package.rglob("*.py")}):
        lines += [f"## {folder.relative_to(ROOT).as_posix()}", "", "| module | content |", "|---|---|"]
        for file in sorted(folder.glob("*.py")):
            about = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
            lines.append(f"| `{file.name}` | {_cell(about)} |")
        lines.append("")
    return "\n".join(lines)


def _attributes(cls: type) -> dict[str, str]:
    about: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        about |= {param.arg_name: param.description or "" for param in parse(base.__doc__ or "").params}
    return about


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{_cell(repr(field.default))}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{_cell(repr(field.default_factory()))}`"
    return "required"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
