"""Exported agents: weights as safetensors and everything else as JSON in a card.

``card.json`` holds ``format`` and ``format_version``, and under ``agent`` what rebuilds it; what else it says is for
people and for `rimrl.experiments`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.registry import named_in, saved_as
from rimrl.agents.saved.build import AgentSpec, build, own_tensors
from rimrl.agents.saved.card import FORMAT, FORMAT_VERSION, read_card
from rimrl.agents.saved.fields import choice, fields_of, integer, switch
from rimrl.agents.saved.names import CARD, WEIGHTS
from rimrl.agents.saved.options import POLICIES, largest_size, options_from_json, options_to_json
from rimrl.agents.saved.spaces import space_from_json, space_to_json
from rimrl.errors import cannot, damaged, missing, one_line, trying, wrong

_FIELDS = (
    "algorithm",
    "policy",
    "policy_kwargs",
    "observation_space",
    "action_space",
    "use_sde",
    "autocast",
    "num_timesteps",
)
# Not in the cards of earlier versions, which would refuse it.
_LATER_FIELDS = ("use_masking",)


def write_exported(
    agent: RecurrentOnPolicyAlgorithm, folder: Path, facts: Mapping[str, Any] | None = None, half: bool = False
) -> None:
    """Write the card and the weights of an agent into an existing folder.

    Args:
        agent: The agent.
        folder: Gets ``card.json`` and ``model.safetensors``.
        facts: What else the card says, plain values.
        half: Round weights to float16, which halves the file; they are float32 again when they are loaded. Default
            False.

    Raises:
        UsageError: If the agent or the facts hold something that cannot be written down, or weights are not finite.
    """
    card = {"format": FORMAT, "format_version": FORMAT_VERSION, "agent": agent_to_json(agent), **(facts or {})}
    weights = weights_to_bytes(agent, half)
    try:
        text = json.dumps(card, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise cannot("export", "the agent", f"JSON has no word for what it holds ({error})") from None
    with trying("write", folder):
        (folder / WEIGHTS).write_bytes(weights)
        (folder / CARD).write_text(text, encoding="utf-8")


def agent_to_json(agent: RecurrentOnPolicyAlgorithm) -> dict[str, Any]:
    """What rebuilds an agent beside its weights.

    Raises:
        UsageError: If it uses classes of the user's own, which no card can bring along.
    """
    agent.describe_core()
    policy_class = type(agent.policy)
    policy = next((name for name, cls in POLICIES.items() if cls is policy_class), None)
    if policy is None:
        raise wrong(policy_class.__name__, f"cannot be exported: it is none of {', '.join(POLICIES)}")
    return {
        "algorithm": saved_as(type(agent)),
        "policy": policy,
        "policy_kwargs": options_to_json(agent.policy_kwargs),
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
        "use_sde": bool(agent.use_sde),
        "autocast": agent.autocast,
        "num_timesteps": int(agent.num_timesteps),
        **({"use_masking": True} if agent.use_masking else {}),
    }


def weights_to_bytes(agent: RecurrentOnPolicyAlgorithm, half: bool = False) -> bytes:
    """The weights of an agent's policy as a safetensors file.

    Args:
        agent: The agent.
        half: As for `write_exported`.

    Raises:
        UsageError: If a weight is NaN or infinite, or becomes so in float16.
    """
    tensors = {name: each.detach().cpu().clone().contiguous() for name, each in own_tensors(agent.policy).items()}
    if half:
        tensors = {name: each.half() if each.dtype == th.float32 else each for name, each in tensors.items()}
    _require_finite(tensors, "the agent")
    return save(tensors, metadata={"format": "pt"})


def load_exported(
    folder: Path, env: GymEnv | None = None, device: th.device | str = "auto"
) -> RecurrentOnPolicyAlgorithm:
    """Rebuild an agent from an exported folder.

    Args:
        folder: Holds ``card.json`` and ``model.safetensors``.
        env: Environment to go on with; not needed for ``predict``.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Returns:
        The agent, with a fresh optimiser and the algorithm's default settings.

    Raises:
        UsageError: Names the file and the field that is missing, damaged or does not fit.
    """
    where = f"{folder / CARD}: agent"
    found = fields_of(read_card(folder).get("agent"), _FIELDS, where, _LATER_FIELDS)
    weights = _read_weights(folder / WEIGHTS)
    largest = largest_size(weights)
    settings = {
        "use_sde": switch(found["use_sde"], f"{where}.use_sde"),
        "autocast": None if found["autocast"] is None else choice(found["autocast"], where, "autocast", ("bf16",)),
        "num_timesteps": integer(found["num_timesteps"], f"{where}.num_timesteps", 0, 2**53),
        "use_masking": switch(found.get("use_masking", False), f"{where}.use_masking"),
    }
    spec = AgentSpec(
        named_in(found, f"{where}.algorithm"),
        POLICIES[choice(found["policy"], f"{where}.policy", "policy", list(POLICIES))],
        options_from_json(found["policy_kwargs"], f"{where}.policy_kwargs", largest),
        space_from_json(found["observation_space"], f"{where}.observation_space"),
        space_from_json(found["action_space"], f"{where}.action_space"),
        settings,
    )

    def fill(agent: RecurrentOnPolicyAlgorithm) -> None:
        with th.no_grad():
            for name, tensor in own_tensors(agent.policy).items():
                tensor.copy_(weights[name])

    return build(spec, weights, fill, env, device, str(folder), shared_once=True)


def _read_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise missing(str(file), advice="rimrl export writes it")
    weights = {}
    try:
        with safe_open(file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118 (the file is no mapping)
                tensor = content.get_tensor(name)
                weights[name] = tensor.float() if tensor.dtype == th.float16 else tensor
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(file, f"or no safetensors file: {one_line(error, 120)}") from None
    if not weights:
        raise missing("weights", file)
    _require_finite(weights, str(file))
    return weights


def _require_finite(weights: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            found = f"has weights {name[:80]!r} that are NaN or infinite"
            raise wrong(where, found, "has learning diverged?", "not_finite")
