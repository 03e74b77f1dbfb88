"""Starting an agent from what another one has learned."""

from __future__ import annotations

from torch import Tensor

from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.errors import mismatch, missing, wrong
from rimrl.spaces import describe_space

_TRUNK = ("features_extractor.", "pi_features_extractor.", "vf_features_extractor.", "lstm_actor.", "lstm_critic.")
_STATISTICS = "observation_statistics."
# What is made for one action space; everything else depends on the observations alone.
_ACTION_HEAD = ("action_net.", "log_std")


def initialize_from(policy: RecurrentCorePolicy, source: RecurrentCorePolicy, name: str = "the source") -> None:
    """Give a fresh policy the weights of a trained one, as its ``trunk`` asks for.

    * ``"learned"``: all weights, to be trained on (fine-tuning). Where action spaces differ, the action head stays new.
    * ``"frozen"``: features extractor and cores; every layer behind the core stays new.
    * ``"progressive"``: features extractor and cores become the frozen column; everything else stays new.

    Momentum is never taken over: it belongs to the optimiser. The mean and variance that observations are normalised by
    are taken over; where features are frozen that learned with them, those of vectors stay what they are. Those of
    images soon become those of the new environment.

    Args:
        policy: Changed in place.
        source: Only read.
        name: What messages call the source.

    Raises:
        UsageError: If the observations or the networks do not fit; nothing is changed then.
    """
    if policy.observation_space != source.observation_space:
        raise mismatch(
            "the observations here",
            f"those of {name}, {describe_space(source.observation_space)}",
            describe_space(policy.observation_space),
        )
    if (policy.observation_statistics is None) != (source.observation_statistics is None):
        had = "without" if source.observation_statistics is None else "with"
        raise wrong(name, f"was trained {had} normalize_observations", f"train the target {had} it, too", "mismatch")
    given, wanted = source.state_dict(), policy.state_dict()
    if policy.trunk == "learned":
        same_actions = policy.action_space == source.action_space
        taken = {key: value for key, value in given.items() if same_actions or not key.startswith(_ACTION_HEAD)}
    else:
        taken = {key: value for key, value in given.items() if key.startswith((*_TRUNK, _STATISTICS))}
    if policy.trunk == "progressive":
        taken = {key if key.startswith(_STATISTICS) else _in_source_column(key): value for key, value in taken.items()}
    absent = {key for key in wanted if _must_be_given(key, policy)} - taken.keys()
    _check_shapes(taken, wanted, absent, name)
    policy.load_state_dict({**wanted, **taken})
    if policy.observation_statistics is not None:
        policy.observation_statistics.adopt(fixed=policy.trunk != "learned")


def _in_source_column(key: str) -> str:
    module, _, rest = key.partition(".")
    return f"{module}.source.{rest}"


def _must_be_given(key: str, policy: RecurrentCorePolicy) -> bool:
    if policy.trunk == "progressive":
        return key.startswith(_TRUNK) and key.split(".")[1] == "source"
    if policy.trunk == "frozen":
        return key.startswith(_TRUNK)
    return not key.startswith(_ACTION_HEAD)


def _check_shapes(taken: dict[str, Tensor], wanted: dict[str, Tensor], absent: set[str], name: str) -> None:
    for key, value in taken.items():
        if key not in wanted:
            raise wrong(f"the network of {name}", f"does not fit: it has {key}, the target's has not", kind="mismatch")
        if value.shape != wanted[key].shape:
            raise mismatch(
                f"{key} of {name}",
                f"{list(wanted[key].shape)}, as the target's",
                list(value.shape),
                "use the same core",
            )
    if absent:
        raise missing(f"{min(absent)} of the target", f"the network of {name}")
