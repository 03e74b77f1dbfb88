"""Loading a trained agent, whichever of rimrl's algorithms saved it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from rimrl.agents.a2c import RecurrentA2C
from rimrl.agents.ppo import RecurrentPPO
from rimrl.errors import UsageError


def load(path: str | Path, env: GymEnv | None = None, device: th.device | str = "auto") -> RecurrentPPO | RecurrentA2C:
    """Load an agent from a run folder or a ``.zip``.

    Like every SB3 file, a ``.zip`` can run code when it is loaded: load only what you trust.

    Args:
        path: A run folder (its ``model.zip`` is taken) or a file that ``save`` wrote.
        env: Environment to go on with; not needed for ``predict``.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Returns:
        The agent, of the class that saved it.

    Raises:
        UsageError: If there is no such file, or it is truncated or not a saved agent.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "model.zip"
    elif not file.exists() and not file.suffix:
        file = file.with_suffix(".zip")  # as SB3's own load
    if not file.is_file():
        raise UsageError(f"no saved agent at {file}; give a run folder that holds model.zip, or a .zip file")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            data = json.loads(archive.read("data"))
            if "policy_class" not in data:
                raise ValueError("it holds no policy")
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, EOFError, OSError) as error:
        raise UsageError(f"{file} is damaged or not a saved agent ({error}); restore it or train again") from None
    if damaged is not None:
        raise UsageError(f"{file} is damaged at {damaged!r}; restore it or train again")
    algorithm = RecurrentPPO if "n_epochs" in data else RecurrentA2C
    try:
        agent = algorithm.load(file, device=device)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{file} was not saved by rimrl, or by a version that does not fit ({reason})") from error
    if env is None:
        return agent
    try:
        return algorithm.load(file, env=env, device=device)
    except ValueError as error:
        raise UsageError(f"the environment does not fit {file}: {' '.join(str(error).split())}") from None
