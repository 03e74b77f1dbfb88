"""Exported agents on the Hugging Face Hub (needs the extra ``rimrl[hub]``)."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from rimrl.agents.saved.exported import load_exported
from rimrl.agents.saved.names import CARD, GRAPH, WEIGHTS
from rimrl.errors import cannot, not_installed, one_line, wrong
from rimrl.files import replacing
from rimrl.reading import check_regular

PREFIX = "hf://"
_README = "README.md"
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Put an exported agent on the Hub, as whoever ``hf auth login`` or ``HF_TOKEN`` says.

    Args:
        folder: A folder of ``rimrl export``; only its card, weights, README and ONNX graph go.
        repository: ``"user/name"``; made if missing.
        private: Make it for yourself alone. Default False.

    Returns:
        Where it is.

    Raises:
        UsageError: If the folder is no sound export, the name is none, or the Hub refuses.
    """
    _, name = _parsed(repository)
    load_exported(folder, device="cpu")  # what others could not load is not sent
    for file in (folder / _README, folder / GRAPH):
        if file.is_symlink() or file.exists():
            check_regular(file, follow=False)  # in a folder of others it may lead to a file of yours
    hub = _hub()
    try:
        api = hub.HfApi()
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="model",
            allow_patterns=[CARD, WEIGHTS, _README, GRAPH],
            commit_message="Upload an agent with rimrl",
        )
    except Exception as error:  # the network fails in every way
        raise cannot("push to", f"{name} on the Hugging Face Hub", one_line(error, 200)) from None
    return f"{PREFIX}{name}"


def pull(repository: str, folder: Path | None = None) -> Path:
    """Fetch an exported agent from the Hub: its card and its weights, and nothing else that may lie there.

    Args:
        repository: ``"user/name"`` or ``"hf://user/name"``, with ``@revision`` for a branch, tag or commit.
        folder: Where to put it; default: the Hub's own cache.

    Returns:
        The folder.

    Raises:
        UsageError: If there is no such repository or file, the name is none, or the folder holds other files.
    """
    revision, name = _parsed(repository)
    if folder is not None:
        _refuse_taken(folder)
    hub = _hub()
    try:
        files = [
            Path(hub.hf_hub_download(name, file, repo_type="model", revision=revision)) for file in (CARD, WEIGHTS)
        ]
    except Exception as error:  # the network fails in every way
        raise cannot("pull", f"{name} from the Hugging Face Hub", one_line(error, 200)) from None
    if folder is None:
        return files[0].parent
    with replacing(folder, [CARD, WEIGHTS]) as partial:
        for file in files:
            (partial / file.name).write_bytes(file.read_bytes())
        load_exported(partial, device="cpu")
    return folder


def _parsed(repository: str) -> tuple[str | None, str]:
    name, _, revision = repository.removeprefix(PREFIX).partition("@")
    if not _NAME.fullmatch(name):
        raise wrong(repr(repository), "is no repository of the Hugging Face Hub", "valid: user/name or user/name@tag")
    return revision or None, name


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CARD).is_file())):
        raise wrong(folder, "holds other files than an export", "choose another folder", "state")


def _hub() -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError:
        raise not_installed("the Hugging Face Hub", "huggingface_hub", "rimrl[hub]") from None
