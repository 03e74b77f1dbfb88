"""Loading a trained agent, whichever of rimrl's algorithms saved it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.registry import algorithm_class, named_in
from rimrl.agents.saved.archive import LARGEST, load_archive
from rimrl.agents.saved.build import require_finite
from rimrl.agents.saved.exported import load_exported
from rimrl.agents.saved.hub import PREFIX, pull
from rimrl.agents.saved.inert import NotPlainError
from rimrl.agents.saved.names import CARD, WEIGHTS
from rimrl.agents.saved.shipped import PREFIX as SHIPPED
from rimrl.agents.saved.shipped import find_shipped
from rimrl.errors import UsageError, damaged, missing, one_line, wrong
from rimrl.imports import import_modules
from rimrl.reading import read_bytes


def load(
    path: str | Path,
    env: GymEnv | None = None,
    device: th.device | str = "auto",
    trust: bool = False,
    imports: Sequence[str] = (),
) -> RecurrentOnPolicyAlgorithm:
    """Load an agent from a run folder, a ``.zip`` or an exported folder.

    Nothing that the file brings along is run: the pickles in a ``.zip`` are read as data, and weights are plain
    tensors. A ``.zip`` that holds a class of your own, such as an extractor or a core that was passed as a class, is
    refused unless you trust it. A core that was selected by name needs its module alone, in ``imports``. A schedule of
    your own, such as a lambda, is left out: the agent acts, and ``learn`` asks for trust.

    Args:
        path: A run folder (its ``model.zip`` is taken), a file that ``save`` wrote, a folder of ``rimrl export``,
            ``"hf://user/name"`` for one on the Hugging Face Hub, or ``"pretrained:recall/rim"`` for an agent that comes
            with rimrl (`pretrained`).
        env: Environment to go on with; not needed for ``predict``.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        trust: Unpickle a ``.zip`` as Stable-Baselines3 does, which runs whatever code is in it. Default False.
        imports: Modules to import first, such as one that registers the agent's core. Nothing is imported otherwise.

    Returns:
        The agent, of the class that saved it. One from an exported folder starts with a fresh optimiser.

    Raises:
        UsageError: If there is no such file, it is damaged or not a saved agent, or would run code.
    """
    import_modules(imports, "imports")
    if isinstance(path, str) and path.startswith(SHIPPED):
        return pretrained(path.removeprefix(SHIPPED), env, device)
    if isinstance(path, str) and path.startswith(PREFIX):
        path = pull(path)
    file = Path(path)
    if file.name == WEIGHTS or (file.is_dir() and (file / CARD).exists() and not (file / "model.zip").exists()):
        return load_exported(file if file.is_dir() else file.parent, env, device)
    if file.is_dir():
        file = file / "model.zip"
    elif not file.exists() and not file.suffix:
        file = file.with_suffix(".zip")  # as SB3's own load
    if not file.is_file():
        raise missing(f"saved agent at {file}", advice="give a run folder, an exported folder, or a .zip file")
    content = read_bytes(file, LARGEST)
    if trust:
        return _unpickle(content, file, env, device)
    try:
        return load_archive(content, str(file), env, device)
    except NotPlainError as error:
        raise wrong(
            file,
            f"holds {error}, not rimrl's own, whose code would run",
            "pass trust=True (--trust) if you trust its author",
            "untrusted",
        ) from None


def pretrained(name: str, env: GymEnv | None = None, device: th.device | str = "auto") -> RecurrentOnPolicyAlgorithm:
    """Load a trained agent that comes with rimrl. Its files are plain data: nothing is unpickled or imported.

    Args:
        name: Such as ``"recall/rim"``; ``rimrl list pretrained`` shows all.
        env: Environment to go on with; not needed for ``predict``.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Returns:
        The agent, with a fresh optimiser and the algorithm's default settings.

    Raises:
        UsageError: If there is none of that name (names the nearest), its files are damaged, or the environment does
            not fit it.

    Example:
        >>> agent = pretrained("recall/rim")
        >>> action, state = agent.predict(observation, state, episode_start)
    """
    folder = find_shipped(name)
    try:
        agent = load_exported(folder, device=device)
    except UsageError as error:
        raise damaged(f"the agent {name!r} that came with rimrl", error, "install rimrl again") from None
    return agent if env is None else load_exported(folder, env, device)


def _unpickle(content: bytes, file: Path, env: GymEnv | None, device: th.device | str) -> RecurrentOnPolicyAlgorithm:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            data = json.loads(archive.read("data"))
        algorithm = algorithm_class(named_in(data, f"{file}: algorithm"))
        agent = algorithm.load(io.BytesIO(content), env=env, device=device)
        require_finite(agent.policy.state_dict(), str(file))
        return agent
    except UsageError:
        raise
    except Exception as error:
        raise wrong(file, f"was not saved by rimrl, or does not fit ({one_line(error)})", kind="damaged") from error
