"""What an experiment is made of, as typed plain data.

A configuration has four groups. ``env``, ``agent`` and ``train`` are the dataclasses below; ``core`` holds the name of
a recurrent core and that core's own options, whose names, types and defaults are those of its constructor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from rimrl.cores.registry import LATER_OPTIONS
from rimrl.runs.config import Configuration, TrainConfig
from rimrl.runs.kinds import AGENT


@dataclass(frozen=True)
class EnvConfig:
    """What the agent plays.

    Attributes:
        id: A suite (``rimrl list suites``), whose training split is played, or a gymnasium id.
        n_envs: Environments played side by side.
        backend: ``"dummy"`` steps them in this process, ``"subproc"`` in one process each; ``"native"`` (``ALE/*-v5``
            games) and ``"envpool"`` (MiniGrid and BabyAI ids; needs EnvPool) step all of them at once in C++.
            Evaluations play the original even so.
        efference_copies: Show the agent its previous action and reward, too (RIM paper, App. C.3).
        kwargs: Arguments for every environment, such as ``tiles: rgb`` for MiniGrid tasks or ``preset: legacy`` for
            Atari.
    """

    id: str
    n_envs: int = 16
    backend: Literal["dummy", "subproc", "native", "envpool"] = "dummy"
    efference_copies: bool = False
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CoreConfig:
    """Which recurrent core, with which options.

    Attributes:
        name: A core (``rimrl list cores``).
        options: Arguments of its constructor.
    """

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class AgentConfig:
    """How the agent learns, whatever the algorithm; names and meanings are Stable-Baselines3's.

    Attributes:
        algorithm: ``"ppo"`` or ``"a2c"``.
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
        trunk: Features and core are ``"learned"``, ``"frozen"`` so that heads alone learn, or ``"progressive"``:
            learned beside a frozen column with lateral connections (Rusu et al., 2016).
        init_from: A run folder or ``.zip`` whose weights the agent starts from: all of them where the trunk is
            learned, those of the frozen part otherwise. Null for random weights.
    """

    algorithm: Literal["ppo", "a2c"] = "ppo"
    learning_rate: float = 3e-4
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    n_steps: int = 128
    sequence_length: int | None = None
    gamma: float = 0.99
    gae_lambda: float = 0.95
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    normalize_advantage: bool = True
    normalize_observations: bool = False
    core_sharing: Literal["shared", "separate", "actor_only"] = "shared"
    critic_gradient: float = 1.0
    net_arch: list[int] = field(default_factory=lambda: [64, 64])
    features_dim: int | None = None
    spatial: bool = False
    autocast: Literal["bf16"] | None = None
    trunk: Literal["learned", "frozen", "progressive"] = "learned"
    init_from: str | None = None


@dataclass(frozen=True)
class PPOConfig(AgentConfig):
    """Proximal policy optimisation.

    Attributes:
        batch_size: Steps per minibatch, a multiple of the sequence length.
        n_epochs: Passes over each rollout.
        clip_range: Clipping of the policy ratio.
        clip_range_vf: Clipping of the value function; null for none.
        target_kl: Stop an update early when the policy moved this far; null for no limit.
    """

    batch_size: int = 512
    n_epochs: int = 4
    clip_range: float = 0.2
    clip_range_vf: float | None = None
    target_kl: float | None = None


@dataclass(frozen=True)
class A2CConfig(AgentConfig):
    """Synchronous advantage actor-critic; defaults are Stable-Baselines3's.

    Attributes:
        use_rms_prop: RMSProp, as in the RIM paper (App. D.6), or Adam.
        rms_prop_eps: RMSProp's epsilon.
    """

    algorithm: Literal["ppo", "a2c"] = "a2c"
    learning_rate: float = 7e-4
    n_steps: int = 5
    gae_lambda: float = 1.0
    normalize_advantage: bool = False
    use_rms_prop: bool = True
    rms_prop_eps: float = 1e-5


@dataclass(frozen=True)
class AgentTrainConfig(TrainConfig):
    """How long an agent learns, and what is kept.

    Attributes:
        total_timesteps: Environment steps, over all environments together.
        eval_freq: Steps between evaluations on the training split, which choose ``best_model.zip``; 0 for none.
        eval_episodes: Episodes of each.
        checkpoint_freq: Steps between agents that are kept in ``checkpoints/``, to look at later; 0 for none.
    """

    total_timesteps: int = 1_000_000
    eval_freq: int = 50_000
    eval_episodes: int = 32
    checkpoint_freq: int = 0
    resume_freq: int = 50_000


@dataclass(frozen=True)
class ExperimentConfig(Configuration):
    """A complete, re-runnable experiment.

    Attributes:
        name: Shipped name such as ``distractors/rim``, or the file's stem.
        env: What is played.
        core: The policy's memory.
        agent: How it learns.
        train: How long.
    """

    name: str
    env: EnvConfig
    core: CoreConfig
    agent: PPOConfig | A2CConfig
    train: AgentTrainConfig

    kind = AGENT
    added: ClassVar[Mapping[str, object]] = {
        "agent.normalize_observations": False,
        "agent.critic_gradient": 1.0,
        **{f"core.{option}": value for option, value in LATER_OPTIONS.items()},
    }
    opened: ClassVar[frozenset[str]] = frozenset({"env.kwargs"})

    def groups(self) -> dict[str, dict[str, Any]]:
        """Every value by group and key."""
        return {
            "env": asdict(self.env),
            "core": {"name": self.core.name, **self.core.options},
            "agent": asdict(self.agent),
            "train": asdict(self.train),
        }


ALGORITHMS: dict[str, type[PPOConfig] | type[A2CConfig]] = {"ppo": PPOConfig, "a2c": A2CConfig}
