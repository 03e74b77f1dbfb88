"""Agents from SB3's ``.zip`` files without unpickling.

In such a file ``data`` holds the attributes of the algorithm: plain ones as JSON, the others as pickles, which run
what they like when they are loaded. Here those pickles are read without being run (`rimrl.agents.saved.inert`), and
only what is needed is taken from them; weights go through ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import get_device
from torch import Tensor

from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.registry import config_class, named_in
from rimrl.agents.saved.build import AgentSpec, build
from rimrl.agents.saved.fields import choice
from rimrl.agents.saved.inert import NotPlainError, check_stream, read_inert, to_plain
from rimrl.agents.saved.options import (
    ACTIVATIONS,
    EXTRACTORS,
    OPTIMIZERS,
    POLICIES,
    largest_size,
    options_from_json,
)
from rimrl.agents.saved.settings import SCHEDULES, SETTINGS, check_rollout, checked_setting
from rimrl.agents.saved.spaces import space_from_json
from rimrl.agents.schedules import UnreadSchedule
from rimrl.cores.registry import CORES, core_class
from rimrl.errors import damaged, missing, one_line, shorten, wrong
from rimrl.reading import parse_json

LARGEST = 2**32
"""Bytes that a file of an agent may have."""
_LARGEST_ENTRY = 2**26
_MOST_ENTRIES = 100_000
_UNREADABLE = (zipfile.BadZipFile, zlib.error, RuntimeError, LookupError, TypeError, ValueError, EOFError, OSError)


def load_archive(
    content: bytes, where: str, env: GymEnv | None = None, device: th.device | str = "auto"
) -> RecurrentOnPolicyAlgorithm:
    """Load an agent that rimrl's or SB3's ``save`` wrote, without running anything that the file brings along.

    Args:
        content: The ``.zip``.
        where: Its name, for errors.
        env: Environment to go on with; not needed for ``predict``.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Returns:
        The agent, optimiser included, as SB3's own ``load`` would give it; statistics of recent episodes are not
        taken over, and a schedule of the user's own is an `UnreadSchedule`.

    Raises:
        UsageError: If the file is damaged or holds no such agent.
        NotPlainError: If it needs classes or functions that are not rimrl's or SB3's.
    """
    data, weights, optimizer = _read(content, where)
    algorithm = named_in(data, f"{where}: algorithm")
    settings = {key: _setting(key, data[key], optimizer, where) for key in SETTINGS if key in data}
    config = config_class(algorithm)
    for key in data.keys() & (config.own_options().keys() - set(SETTINGS)):
        settings[key] = config.checked(key, _plain(data[key]), f"{where}: {key}")
    if "sequence_length" not in data and settings.get("batch_size"):
        # Contrib cuts its minibatches anywhere; whole sequences of this length fill the same ones.
        settings["sequence_length"] = math.gcd(settings["batch_size"], settings.get("n_steps", 1))
    policy_class = POLICIES[choice(_plain(data["policy_class"]), f"{where}: policy_class", "policy", list(POLICIES))]
    largest = largest_size(weights)
    spec = AgentSpec(
        algorithm,
        policy_class,
        options_from_json(_plain(data.get("policy_kwargs", {})), f"{where}: policy_kwargs", largest),
        space_from_json(_plain(data.get("observation_space")), f"{where}: observation_space"),
        space_from_json(_plain(data.get("action_space")), f"{where}: action_space"),
        settings,
    )
    check_rollout(spec.observation_space, settings.get("n_steps", 1), settings.get("n_envs", 1), where)

    def fill(agent: RecurrentOnPolicyAlgorithm) -> None:
        agent.policy.load_state_dict(weights)
        _check_optimizer(agent, optimizer, where)
        agent.policy.optimizer.load_state_dict(optimizer)

    return build(spec, weights, fill, env, get_device(device), where)


def _read(content: bytes, where: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_sizes(archive, len(content))
            bad = archive.testzip()
            data = parse_json(archive.read("data"), f"{where}: data")
            if not isinstance(data, dict) or "policy_class" not in data:
                raise ValueError("it holds no policy")
            parts = [archive.read(name) for name in ("policy.pth", "policy.optimizer.pth")]
    except _UNREADABLE as error:
        reason = one_line(error, 160)
        raise damaged(where, f"or not a saved agent: {reason}", "restore it or train again") from None
    if bad is not None:
        raise damaged(where, f"at {bad!r}", "restore it or train again")
    for part in parts:
        _check_tensors(part, where)
    try:
        weights, optimizer = (th.load(io.BytesIO(part), map_location="cpu", weights_only=True) for part in parts)
    except Exception as error:
        raise damaged(f"the weights in {where}", one_line(error, 160)) from None
    plain = isinstance(weights, dict) and all(isinstance(each, Tensor) for each in weights.values())
    if not plain or not isinstance(optimizer, dict):
        raise missing("the weights of a policy", where)
    for name, tensor in weights.items():
        if not isinstance(name, str) or tensor.layout != th.strided or tensor.numel() > _stored(tensor):
            raise wrong(where, f"holds weights {shorten(name)} that are no plain tensors", kind="damaged")
    return data, dict(weights), optimizer


def _stored(tensor: Tensor) -> int:
    """How many numbers a tensor has in the file; one that repeats them can have any shape."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse a ``.zip`` that unpacks to far more than it is.

    Raises:
        ValueError: Names the entry that does.
    """
    left = size + 4 * _LARGEST_ENTRY
    if len(archive.infolist()) > _MOST_ENTRIES:
        raise ValueError(f"it has more than {_MOST_ENTRIES} entries")
    for entry in archive.infolist():
        packed = entry.compress_type != zipfile.ZIP_STORED or entry.filename == "data"
        left -= entry.file_size
        if (packed and entry.file_size > _LARGEST_ENTRY) or left < 0:
            raise ValueError(f"{shorten(entry.filename)} unpacks to {entry.file_size} bytes")


def _check_tensors(part: bytes, where: str) -> None:
    """Refuse a file of ``torch.save`` whose pickle torch would read for hours."""
    try:
        with zipfile.ZipFile(io.BytesIO(part)) as archive:
            _check_sizes(archive, len(part))
            for entry in archive.infolist():
                if entry.filename.endswith(".pkl"):
                    if entry.file_size > _LARGEST_ENTRY:
                        raise ValueError(f"{shorten(entry.filename)} has {entry.file_size} bytes")
                    check_stream(archive.read(entry))
    except NotPlainError as error:
        raise wrong(where, f"holds weights that are no plain tensors ({error})", kind="untrusted") from None
    except Exception as error:  # a damaged archive fails in every way
        raise damaged(f"the weights in {where}", one_line(error, 160)) from None


def _class_names() -> dict[str, str]:
    """The classes that a file may name, by where they are defined."""
    cores = {name: core_class(name) for name in CORES}
    lists: tuple[Mapping[str, type], ...] = (POLICIES, EXTRACTORS, ACTIVATIONS, OPTIMIZERS, cores)
    return {f"{cls.__module__}.{cls.__qualname__}": name for classes in lists for name, cls in classes.items()}


def _plain(item: Any) -> Any:
    return to_plain(_record(item), _class_names()) if _is_pickled(item) else item


def _is_pickled(item: Any) -> bool:
    return isinstance(item, dict) and ":serialized:" in item


def _record(item: Any) -> Any:
    """What an entry holds, with records of what was not done."""
    if not _is_pickled(item):
        return item
    try:
        content = base64.b64decode(item[":serialized:"], validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise NotPlainError("a damaged entry") from None
    return read_inert(content)


def _setting(key: str, item: Any, optimizer: dict[str, Any], where: str) -> Any:
    if key not in SCHEDULES:
        return checked_setting(key, _plain(item), f"{where}: {key}")
    record = _record(item)
    try:
        value = to_plain(record, _class_names())
    except NotPlainError as error:
        # A function of the user's own. It is only needed to learn on, so that who just plays is not asked for trust.
        what = "a function" if str(error).startswith("cloudpickle.") else str(error)
        return UnreadSchedule(what, _rate_in(optimizer) if key == "learning_rate" else 0.0)
    return checked_setting(key, value, f"{where}: {key}")


def _rate_in(optimizer: dict[str, Any]) -> float:
    """The learning rate that the optimiser had when it was saved."""
    groups = optimizer.get("param_groups")
    rate = groups[0].get("lr") if isinstance(groups, list) and groups and isinstance(groups[0], dict) else None
    return float(rate) if isinstance(rate, float | int) and math.isfinite(rate) and rate >= 0 else 0.0


def _check_optimizer(agent: RecurrentOnPolicyAlgorithm, found: dict[str, Any], where: str) -> None:
    """Refuse an optimiser state of other parameters, which torch would only notice in the next update."""
    parameters = [p for group in agent.policy.optimizer.param_groups for p in group["params"]]
    problem = wrong(where, "holds the state of an optimiser of another policy", kind="damaged")
    state, groups = found.get("state"), found.get("param_groups")
    if not isinstance(state, dict) or not isinstance(groups, list) or len(groups) != 1:
        raise problem
    expected = agent.policy.optimizer.state_dict()["param_groups"][0]
    if not isinstance(groups[0], dict) or groups[0].get("params") != expected["params"]:
        raise problem
    for number_, entries in state.items():
        if not isinstance(number_, int) or not 0 <= number_ < len(parameters) or not isinstance(entries, dict):
            raise problem
        for entry in entries.values():
            if isinstance(entry, Tensor) and entry.dim() and entry.shape != parameters[number_].shape:
                raise problem
