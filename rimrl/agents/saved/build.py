"""Building an agent from checked plain data and weights, with no more memory than the weights call for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.registry import algorithm_class
from rimrl.errors import UsageError, mismatch, missing, needs, one_line, wrong

_FACTORIES = (th.empty, th.zeros, th.ones, th.randn, th.rand, th.full, th.eye, th.arange, th.linspace)
# What initialisation needs beside the weights themselves.
_SPARE = 2**20
_PER_WEIGHT = 16


@dataclass
class AgentSpec:
    """What an agent is made of, all of it checked.

    Attributes:
        algorithm: Its name in configurations.
        policy_class: Form of the policy.
        policy_kwargs: Its arguments.
        observation_space: As the policy sees it: images with their channels first.
        action_space: Action space.
        settings: Further attributes of the algorithm, such as ``n_steps``.
    """

    algorithm: str
    policy_class: type[RecurrentCorePolicy]
    policy_kwargs: dict[str, Any]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    settings: dict[str, Any] = field(default_factory=dict)


def build(
    spec: AgentSpec,
    weights: Mapping[str, Tensor],
    fill: Callable[[RecurrentOnPolicyAlgorithm], None],
    env: GymEnv | None,
    device: th.device | str,
    where: str,
    shared_once: bool = False,
) -> RecurrentOnPolicyAlgorithm:
    """Build an agent whose weights have the shapes of a file's.

    Args:
        spec: The agent.
        weights: Every tensor in the file, by name.
        fill: Gives the agent its weights.
        env: Environment to go on with, or None.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        where: The file, for errors.
        shared_once: Whether the file holds a tensor with several names only once; see `own_tensors`.

    Raises:
        UsageError: If description and weights do not fit each other, or the environment does not fit them.
    """
    policy_kwargs = {"use_sde": bool(spec.settings.get("use_sde", False))} | spec.policy_kwargs
    try:
        with _Budget(sum(tensor.numel() for tensor in weights.values())), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is strange about a draft is said below, in one line
            draft = spec.policy_class(spec.observation_space, spec.action_space, lambda _: 0.0, **policy_kwargs)
    except Exception as error:
        raise wrong(where, f"describes no policy that can be built ({one_line(error)})", kind="damaged") from None
    _check_weights(own_tensors(draft) if shared_once else draft.state_dict(), weights, where)
    del draft

    algorithm: Any = algorithm_class(spec.algorithm)
    settings = {"n_envs": 1, "seed": None} | spec.settings
    if env is not None:
        env = vector = algorithm._wrap_env(env, 0)
        try:
            check_for_correct_spaces(vector, spec.observation_space, spec.action_space)
        except ValueError as error:
            raise wrong("the environment", f"does not fit {where}: {one_line(error)}", kind="mismatch") from None
        settings["n_envs"] = vector.num_envs
    try:
        # As SB3's own load: an empty shell first, then what was saved, then the networks.
        agent: RecurrentOnPolicyAlgorithm = algorithm(spec.policy_class, env, device=device, _init_setup_model=False)
        agent.__dict__.update(settings)
        agent.policy_kwargs = spec.policy_kwargs
        agent.observation_space, agent.action_space = spec.observation_space, spec.action_space
        agent._setup_model()
        fill(agent)
    except UsageError:
        raise
    except Exception as error:
        raise wrong(where, f"does not fit together ({one_line(error)})", kind="damaged") from None
    if agent.policy.use_sde:
        agent.policy.reset_noise()  # as SB3's own load
    return agent


def own_tensors(module: th.nn.Module) -> dict[str, Tensor]:
    """The state of a module by name, without second names of the same tensor: SB3 names shared extractors thrice."""
    seen: set[Any] = set()
    own = {}
    for name, tensor in module.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape) if tensor.numel() else name
        if place not in seen:
            seen.add(place)
            own[name] = tensor
    return own


def _check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are not those of the policy: names the first difference."""
    for name, tensor in expected.items():
        if name not in found:
            raise missing(f"the weights {name!r} of the policy that it describes", where)
        if tensor.shape != found[name].shape:
            raise mismatch(
                f"{where}: the weights {name!r}", f"{list(tensor.shape)} for its policy", list(found[name].shape)
            )
        if tensor.dtype != found[name].dtype:
            raise mismatch(f"{where}: the weights {name!r}", tensor.dtype, found[name].dtype)
    require_finite(found, where)
    for name in found:
        if name not in expected:
            raise wrong(where, f"holds weights {str(name)[:80]!r} that its policy does not have", kind="mismatch")


def require_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights of a training that diverged.

    Raises:
        UsageError: If one is NaN or infinite.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise wrong(
                f"{where}: the weights {name!r}", "are NaN or infinite, as after diverged training", kind="not_finite"
            )


class _Budget(TorchFunctionMode):
    """Refuses to make more tensors than a file with so many weights can describe, before they take memory."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        self._weights = weights
        self._left = _PER_WEIGHT * weights + _SPARE

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            shape_alone = {key: value for key, value in kwargs.items() if key != "generator"}
            planned = func(*args, **(shape_alone | {"device": "meta"}))
            self._left -= planned.numel() + 1
            if self._left < 0:
                raise needs("it", f"far more weights than the {self._weights} in the file")
        return func(*args, **kwargs)
