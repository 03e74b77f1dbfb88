"""How an agent learns, as typed plain data. Each algorithm adds options of its own, beside its class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

from rimrl.agents.ranks import Ranks
from rimrl.errors import invalid_value, mismatch, shorten

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
BETWEEN_20 = Range("between -20 and 20", lambda value: abs(value) <= 20)
STEPS_BETWEEN = Range(f"-1, or from 1 to {_LARGEST}", lambda value: value == -1 or 1 <= value <= _LARGEST)
BELOW_ONE = Range("at least 0 and less than 1", lambda value: 0 <= value < 1)


def option(default: Any, *ranges: Range) -> Any:
    """A field of a configuration whose values have a range.

    Args:
        default: Its default, which may be None; None has no range.
        *ranges: What values must be, each of it. Of a list it is asked of every entry.
    """
    return field(default=default, metadata={"ranges": ranges})


def schedule_of(name: str) -> Any:
    """A field of a configuration that says how another one changes over the course of training.

    Args:
        name: The other field, a number that the constructor of the algorithm takes as a function of the remaining
            progress, too.
    """
    return field(default="constant", metadata={"schedule_of": name})


@dataclass(frozen=True)
class AgentConfig:
    """How the agent learns, whatever the algorithm; names and meanings are Stable-Baselines3's.

    Attributes:
        algorithm: The algorithm's name (`rimrl.agents.registry`).
        learning_rate: Step size at the start, or after the warm-up. ``lin_3e-4`` is rl-baselines3-zoo's way to write
            3e-4 with the schedule ``"linear"``.
        learning_rate_schedule: ``"constant"``, or ``"linear"`` or ``"cosine"`` to fall to zero at the end of training.
        learning_rate_warmup: Share of the training over which the rate first rises from zero; the schedule then takes
            the rest.
        n_steps: Steps per environment and rollout.
        sequence_length: Length of the sequences that gradients flow through; null for the whole rollout.
        gamma: Discount factor.
        gae_lambda: Bias-variance trade-off of the advantage estimate.
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the value loss.
        max_grad_norm: Gradients are scaled down to this global norm.
        normalize_advantage: Normalise advantages over each minibatch.
        normalize_observations: Bring observations that are vectors of real numbers, and every pixel of those that are
            images, to zero mean and unit variance by running statistics, as Stable-Baselines3's ``VecNormalize``; the
            agent keeps them wherever it goes.
        normalize_rewards: Divide the rewards that are learned from by the running deviation of discounted returns, and
            clip them to 10, as `VecNormalize`; logs and evaluations keep the environment's own. rl-baselines3-zoo's
            ``normalize`` (true, or ``{norm_obs: true, norm_reward: false}``) sets both.
        core_sharing: ``"shared"``, ``"separate"`` or ``"actor_only"``: does the critic use the actor's core, one of its
            own, or none.
        critic_gradient: How much of the critic's gradient flows into a shared core: 1 for all of it, 0 for none, as
            sb3-contrib's ``shared_lstm=True``.
        net_arch: Widths of the hidden layers between the core and each head.
        activation_fn: Activation of these layers: a name of ``torch.nn`` such as ``ReLU``; null for ``Tanh``.
        ortho_init: Orthogonal initialisation of everything but the core.
        log_std_init: Initial log standard deviation of continuous actions.
        use_sde: Generalised state-dependent exploration (Raffin et al., 2021), for continuous actions.
        sde_sample_freq: Steps between samples of its noise; -1 for once a rollout.
        features_extractor_class: What turns observations into the core's input: ``package.Class`` of your own, or one
            of rimrl's and Stable-Baselines3's by its name; null for what fits the observations.
        features_extractor_kwargs: Its arguments.
        optimizer_class: An optimiser of ``torch.optim`` such as ``AdamW``, or ``package.Class`` of your own; null for
            the algorithm's.
        optimizer_kwargs: Its arguments besides the learning rate, in the place of the defaults.
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
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    learning_rate_warmup: float = option(0.0, BELOW_ONE)
    n_steps: int = option(128, POSITIVE, COUNTABLE)
    sequence_length: int | None = option(None, POSITIVE, COUNTABLE)
    gamma: float = option(0.99, FRACTION)
    gae_lambda: float = option(0.95, FRACTION)
    ent_coef: float = option(0.0, WITHIN_1E30)
    vf_coef: float = option(0.5, WITHIN_1E30)
    max_grad_norm: float = option(0.5, POSITIVE)
    normalize_advantage: bool = True
    normalize_observations: bool = False
    normalize_rewards: bool = False
    core_sharing: Literal["shared", "separate", "actor_only"] = "shared"
    critic_gradient: float = option(1.0, FRACTION)
    net_arch: list[int] = field(default_factory=lambda: [64, 64], metadata={"ranges": (POSITIVE, COUNTABLE)})
    activation_fn: str | None = None
    ortho_init: bool = True
    log_std_init: float = option(0.0, BETWEEN_20)
    use_sde: bool = False
    sde_sample_freq: int = option(-1, STEPS_BETWEEN)
    features_extractor_class: str | None = None
    features_extractor_kwargs: dict[str, Any] = field(default_factory=dict)
    optimizer_class: str | None = None
    optimizer_kwargs: dict[str, Any] = field(default_factory=dict)
    features_dim: int | None = option(None, POSITIVE, COUNTABLE)
    spatial: bool = False
    autocast: Literal["bf16"] | None = None
    use_masking: bool = False
    trunk: Literal["learned", "frozen", "progressive"] = "learned"
    init_from: str | None = None

    @classmethod
    def own_options(cls) -> dict[str, Any]:
        """The options that the algorithm has beside those of all, and their types; without those of `schedules`."""
        hints = get_type_hints(cls)
        others = {entry.name for entry in fields(AgentConfig)} | cls.schedules().keys()
        return {entry.name: hints[entry.name] for entry in fields(cls) if entry.name not in others}

    @classmethod
    def schedules(cls) -> dict[str, str]:
        """Options that are the schedule of another one, and which one that is; without the learning rate's."""
        return {entry.name: entry.metadata["schedule_of"] for entry in fields(cls) if "schedule_of" in entry.metadata}

    @classmethod
    def checked(cls, name: str, value: Any, where: str) -> Any:
        """A value for one of `own_options`, as a saved file has it.

        Raises:
            UsageError: If it is of another type or out of range.
        """
        if not is_of(value, cls.own_options()[name]):
            raise mismatch(where, f"of the type of {cls.__name__}.{name}", shorten(value))
        for words, fits in cls.ranges_of(name):
            if value is not None and not all(map(fits, value if isinstance(value, list) else [value])):
                raise invalid_value(where, words, value)
        return value

    @classmethod
    def ranges_of(cls, name: str) -> tuple[Range, ...]:
        """What values of an option must be; a dataclass that gives it another default inherits that."""
        declared = (base.__dict__.get("__dataclass_fields__", {}).get(name) for base in cls.__mro__)
        found = (entry.metadata["ranges"] for entry in declared if entry is not None and "ranges" in entry.metadata)
        return next(found, ())

    def arguments(self) -> dict[str, Any]:
        """The algorithm's own options, as its constructor takes them but for `schedules`."""
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
