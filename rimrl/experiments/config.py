"""What an experiment is made of, as typed plain data.

A configuration has four groups. ``env`` and ``train`` are the dataclasses below; ``agent`` is that of the algorithm,
which stands beside it (`rimrl.agents.registry`); ``core`` holds the name of a recurrent core and that core's own
options, whose names, types and defaults are those of its constructor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from rimrl.agents.config import AgentConfig
from rimrl.cores.registry import LEGACY_OPTION_VALUES
from rimrl.envs import own_suites
from rimrl.envs.splits import Suite
from rimrl.experiments.named_classes import modules_of, names_in, names_to_train
from rimrl.imports import module_in
from rimrl.runs.added import ADDED_TO_AGENTS
from rimrl.runs.config import Configuration, TrainConfig, dotted
from rimrl.runs.kinds import AGENT


@dataclass(frozen=True)
class EnvConfig:
    """What the agent plays.

    Attributes:
        id: A suite (``rimrl list suites``), whose training split is played, the YAML file of a suite of your own, or a
            gymnasium id. A file is looked for beside the configuration.
        n_envs: Environments played side by side.
        backend: ``"dummy"`` steps them in this process, ``"subproc"`` in one process each; ``"native"`` (``ALE/*-v5``
            games) and ``"envpool"`` (MiniGrid and BabyAI ids; needs EnvPool) step all of them at once in C++.
            Evaluations play the original even so.
        efference_copies: Show the agent its previous action and reward, too (RIM paper, App. C.3).
        env_wrapper: Wrappers around every environment, also where it is evaluated, the first one innermost:
            ``package.Class``, or ``{package.Class: {argument: value}}``, or a list of these.
        frame_stack: Observations that are shown together, the latest last (Stable-Baselines3's `VecFrameStack`); 1 for
            the latest alone. ``ALE/*-v5`` games have ``kwargs.frame_stack``.
        kwargs: Arguments for every environment, such as ``tiles: rgb`` for MiniGrid tasks or ``preset: legacy`` for
            Atari.
    """

    id: str
    n_envs: int = 16
    backend: Literal["dummy", "subproc", "native", "envpool"] = "dummy"
    efference_copies: bool = False
    env_wrapper: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    frame_stack: int = 1
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
class AgentTrainConfig(TrainConfig):
    """How long an agent learns, and what is kept.

    Attributes:
        total_timesteps: Environment steps, over all environments together.
        eval_freq: Steps between evaluations on the training split, which choose ``best_model.zip``; 0 for none.
        eval_episodes: Episodes of each.
        eval_splits: Splits that are played each time, too, held-out ones among them: a curve for each in the logs, as
            ``eval/return_mean_SPLIT`` and ``eval/success_rate_SPLIT``. What is learned, and ``best_model.zip``, do not
            depend on them.
        checkpoint_freq: Steps between agents that are kept in ``checkpoints/``, to look at later; 0 for none.
        callback: Callbacks of Stable-Baselines3 that are called while the agent learns: ``package.Class``, or
            ``{package.Class: {argument: value}}``, or a list of these.
        stop_reward: End the training at the first evaluation whose mean return reaches this; null for never.
        stop_after_evals: End the training when more evaluations than this, one after the other, had no better mean
            return than the best before; null for never.
        stop_min_evals: Evaluations before which `stop_after_evals` does not count.
    """

    total_timesteps: int = 1_000_000
    eval_freq: int = 50_000
    eval_episodes: int = 32
    eval_splits: list[str] = field(default_factory=list)
    checkpoint_freq: int = 0
    resume_freq: int = 50_000
    callback: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    stop_reward: float | None = None
    stop_after_evals: int | None = None
    stop_min_evals: int = 0


@dataclass(frozen=True)
class ExperimentConfig(Configuration):
    """A complete, re-runnable experiment.

    Attributes:
        name: Shipped name such as ``distractors/rim``, or the file's stem.
        env: What is played.
        core: The policy's memory.
        agent: How it learns.
        train: How long.
        imports: Modules that are imported first, such as those that register environments. A run that has some is only
            opened by who names them (`rimrl.imports`).
        suite: The suite that ``env.id`` named by its file, called as ``env.id`` is now; None for those that have names.
    """

    name: str
    env: EnvConfig
    core: CoreConfig
    agent: AgentConfig
    train: AgentTrainConfig
    imports: tuple[str, ...] = ()
    suite: Suite | None = None

    kind = AGENT
    added: ClassVar[Mapping[str, object]] = {
        **ADDED_TO_AGENTS,
        **{f"core.{option}": value for option, value in LEGACY_OPTION_VALUES.items()},
    }
    opened: ClassVar[frozenset[str]] = frozenset(
        {"env.kwargs", "agent.features_extractor_kwargs", "agent.optimizer_kwargs"}
    )

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that is imported to train it."""
        trained = modules_of(names_to_train(self.flat()))
        return tuple(dict.fromkeys([*self.played_modules, *trained]))

    @property
    def played_modules(self) -> tuple[str, ...]:
        """Every module that is imported to play it: `imports`, and those in names such as ``module:Env-v0``."""
        of_suite = () if self.suite is None else own_suites.modules_of(self.suite)
        wrappers = modules_of(names_in(self.env.env_wrapper))
        named = [*module_in(self.env.id), *of_suite, *module_in(self.core.name), *wrappers]
        return tuple(dict.fromkeys([*self.imports, *named]))

    @property
    def played(self) -> str | Suite:
        """What is played, as `rimrl.envs.vector.make_vec_env` takes it."""
        return self.env.id if self.suite is None else self.suite

    def above(self) -> dict[str, Any]:
        """What stands above the groups in a file, besides the name."""
        return super().above() | self._suite()

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted key, those of the suite included."""
        return super().flat() | dict(dotted(self._suite()))

    def _suite(self) -> dict[str, Any]:
        return {} if self.suite is None else {"suite": own_suites.content_of(self.suite)}

    def groups(self) -> dict[str, dict[str, Any]]:
        """Every value by group and key."""
        return {
            "env": asdict(self.env),
            "core": {"name": self.core.name, **self.core.options},
            "agent": asdict(self.agent),
            "train": asdict(self.train),
        }
