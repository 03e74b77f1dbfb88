"""How an agent learns, as typed plain data. Each algorithm adds options of its own, beside its class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

from rimrl.agents.ranks import Ranks
from rimrl.errors import UsageError, shorten

_LARGEST = 2**31 - 1


class Range(NamedTuple):
    """What values of an option must be.

    Attributes:
        words: As an error says it: "must be …".
        fits: Tells it of a number.
    """

    words: str
    fits: Callable[[Any], bool]


POSITIVE = Range("positive", lambda value: value > 0)
POSITIVE_AND_FINITE = Range("positive and finite", lambda value: 0 < value < math.inf)
WITHIN_1E30 = Range("between -1e30 and 1e30", lambda value: abs(value) <= 1e30)
AT_MOST_1E30 = Range("at most 1e30", lambda value: value <= 1e30)
COUNTABLE = Range(f"at most {_LARGEST}", lambda value: value <= _LARGEST)
FRACTION = Range("between 0 and 1", lambda value: 0 <= value <= 1)


def option(default: Any, *ranges: Range) -> Any:
    """A field of a configuration whose values have a range.

    Args:
        default: Its default, which may be None; None has no range.
        *ranges: What values must be, each of it. Of a list it is asked of every entry.
    """
    return field(default=default, metadata={"ranges": ranges})


@dataclass(frozen=True)
class AgentConfig:
    """How the agent learns, whatever the algorithm; names and meanings are Stable-Baselines3's.

    Attributes:
        algorithm: The algorithm's name (`rimrl.agents.registry`).
        learning_rate: Step size at the start.
        learning_rate_schedule: ``"constant"``, or ``"linear"`` to fall to zero at the end of training.
        n_steps: Steps per environment and rollout.
        sequence_length: Length of the sequences that gradients flow through; null for the whole rollout.
        gamma: Discount factor.
        gae_lambda: Bias-variance trade-off of the advantage estimate.
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the value loss.
        max_grad_norm: Gradients are scaled down to this global norm.
        normalize_advantage: Normalise advantages over each minibatch.
        normalize_observations: Bring observations that are vectors of real numbers to zero mean and unit variance by
            running statistics, as Stable-Baselines3's ``VecNormalize``; the agent keeps them wherever it goes.
        core_sharing: ``"shared"``, ``"separate"`` or ``"actor_only"``: does the critic use the actor's core, one of its
            own, or none.
        critic_gradient: How much of the critic's gradient flows into a shared core: 1 for all of it, 0 for none, as
            sb3-contrib's ``shared_lstm=True``.
        net_arch: Widths of the hidden layers between the core and each head.
        features_dim: Width of the features that the core reads; null for the extractor's default.
        spatial: Let the core read an image's features as a set of positions (RIM paper, Eq. 3) instead of one vector.
        autocast: ``"bf16"``: extract features in bfloat16, where the device has it; null for float32 throughout.
        use_masking: Act and learn under masks of invalid actions, as sb3-contrib's ``MaskablePPO``; the environment
            offers them as ``action_masks()``.
        trunk: Features and core are ``"learned"``, ``"frozen"`` so that heads alone learn, or ``"progressive"``:
            learned beside a frozen column with lateral connections (Rusu et al., 2016).
        init_from: A run folder or ``.zip`` whose weights the agent starts from: all of them where the trunk is
            learned, those of the frozen part otherwise. Null for random weights.
    """

    algorithm: str = "ppo"
    learning_rate: float = option(3e-4, POSITIVE_AND_FINITE, AT_MOST_1E30)
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    n_steps: int = option(128, POSITIVE, COUNTABLE)
    sequence_length: int | None = option(None, POSITIVE, COUNTABLE)
    gamma: float = option(0.99, FRACTION)
    gae_lambda: float = option(0.95, FRACTION)
    ent_coef: float = option(0.0, WITHIN_1E30)
    vf_coef: float = option(0.5, WITHIN_1E30)
    max_grad_norm: float = option(0.5, POSITIVE)
    normalize_advantage: bool = True
    normalize_observations: bool = False
    core_sharing: Literal["shared", "separate", "actor_only"] = "shared"
    critic_gradient: float = option(1.0, FRACTION)
    net_arch: list[int] = field(default_factory=lambda: [64, 64], metadata={"ranges": (POSITIVE, COUNTABLE)})
    features_dim: int | None = option(None, POSITIVE, COUNTABLE)
    spatial: bool = False
    autocast: Literal["bf16"] | None = None
    use_masking: bool = False
    trunk: Literal["learned", "frozen", "progressive"] = "learned"
    init_from: str | None = None

    @classmethod
    def own_options(cls) -> dict[str, Any]:
        """The options that the algorithm has beside those of all, and their types."""
        hints = get_type_hints(cls)
        common = {entry.name for entry in fields(AgentConfig)}
        return {entry.name: hints[entry.name] for entry in fields(cls) if entry.name not in common}

    @classmethod
    def checked(cls, name: str, value: Any, where: str) -> Any:
        """A value for one of `own_options`, as a saved file has it.

        Raises:
            UsageError: If it is of another type or out of range.
        """
        if not is_of(value, cls.own_options()[name]):
            raise UsageError(f"{where} is of another type than {cls.__name__}.{name}, got {shorten(value)}")
        for words, fits in cls.ranges_of(name):
            if value is not None and not all(map(fits, value if isinstance(value, list) else [value])):
                raise UsageError(f"{where} must be {words}, got {shorten(value)}")
        return value

    @classmethod
    def ranges_of(cls, name: str) -> tuple[Range, ...]:
        """What values of an option must be; a dataclass that gives it another default inherits that."""
        declared = (base.__dict__.get("__dataclass_fields__", {}).get(name) for base in cls.__mro__)
        found = (entry.metadata["ranges"] for entry in declared if entry is not None and "ranges" in entry.metadata)
        return next(found, ())

    def arguments(self) -> dict[str, Any]:
        """The algorithm's own options, as its constructor takes them."""
        return {name: getattr(self, name) for name in self.own_options()}

    def share(self, ranks: Ranks, n_envs: int) -> Self:
        """What one of several processes does of it.

        Args:
            ranks: The processes, more than one.
            n_envs: Environments of all of them together.

        Raises:
            UsageError: If so many cannot share it equally; says what would be valid.
        """
        return self


def is_of(value: object, hint: Any) -> bool:
    """Whether a value is of a type that an option may have: a number, word, switch, list of these, or None.

    Args:
        value: Anything. An integer is a number, True and False are not; a number is finite.
        hint: ``int``, ``float``, ``bool``, ``str``, a literal, a list or a union of such. Nothing is of another type.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(is_of(value, each) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin is list:
        return isinstance(value, list) and all(is_of(each, inner[0]) for each in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return hint in (int, bool, str, NoneType) and type(value) is hint
