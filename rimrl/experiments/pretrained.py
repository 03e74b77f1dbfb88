"""Agents that come with rimrl where the command line expects a run; imported by what must not wait for torch."""

from __future__ import annotations

from pathlib import Path

from rimrl.agents.saved.card import LARGEST as LARGEST_CARD
from rimrl.agents.saved.names import CARD, WEIGHTS
from rimrl.agents.saved.shipped import PREFIX, find_shipped, shipped_agents
from rimrl.errors import missing, wrong
from rimrl.files import replacing
from rimrl.reading import MEGABYTE, MissingError, read_bytes

_COPIED = {CARD: LARGEST_CARD, WEIGHTS: 64 * MEGABYTE, "README.md": MEGABYTE}
_RUNS = Path("runs", "pretrained")


def run_folder(word: str) -> Path:
    """The folder that RUN of the command line names.

    Args:
        word: A folder, or ``pretrained:NAME`` for an agent that comes with rimrl. Verbs write their results into the
            folder of the agent, and nobody writes into an installed package: the agent is copied to
            ``runs/pretrained/NAME``. A folder that is really called so is ``./pretrained:NAME``.

    Raises:
        UsageError: If there is no such agent (names the nearest), its files are damaged, or ``runs/pretrained/NAME``
            holds something else. Also for the name of an agent without its prefix, where no folder has that name.
    """
    if word.startswith(PREFIX):
        return _copied(word.removeprefix(PREFIX))
    folder = Path(word)
    if not folder.exists() and word in shipped_agents():
        raise missing(f"run folder {word}", advice=f"the agent that comes with rimrl is {PREFIX}{word}")
    return folder


def _copied(name: str) -> Path:
    source, folder = find_shipped(name), _RUNS / name
    if folder.is_dir() and any(folder.iterdir()):
        if any(_content(source, file) != _content(folder, file) for file in (CARD, WEIGHTS)):
            raise wrong(folder, f"does not hold the agent {name!r} of this rimrl", "move or remove it", "state")
        return folder
    from rimrl.agents.load import pretrained  # noqa: PLC0415 (imports torch)

    pretrained(name, device="cpu")  # what is damaged is not copied
    with replacing(folder, list(_COPIED)) as partial:
        for file in _COPIED:
            content = _content(source, file)
            if content is not None:
                (partial / file).write_bytes(content)
    return folder


def _content(folder: Path, name: str) -> bytes | None:
    try:
        return read_bytes(folder / name, _COPIED[name])
    except MissingError:
        return None
