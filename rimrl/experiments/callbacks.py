"""What is done beside learning: evaluations, checkpoints to look at, the progress bar, stopping."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv

from rimrl.agents.masked_play import MaskableEvalCallback
from rimrl.envs.vector import make_vec_env
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.evaluate import play
from rimrl.experiments.factory import env_arguments
from rimrl.experiments.run import Run
from rimrl.runs.progress import progress_bar as bar
from rimrl.runs.rng_state import random_state, restore_rng_state
from rimrl.runs.stopping import Stop
from rimrl.runs.validated import Fields

# Far from the training environments' seeds, which are seed, seed + 1, ...
_EVAL_SEED_OFFSET = 100_000
_EVAL_ENVS = 8


def evaluation_callback(config: ExperimentConfig, run: Run) -> EvalCallback:
    """Evaluations on the training split that keep the best agent, every ``train.eval_freq`` steps.

    Those on ``train.eval_splits`` come with them. They end the training where ``train.stop_reward`` or
    ``train.stop_after_evals`` says so.
    """
    settings, n_envs = config.train, config.env.n_envs
    eval_env = make_vec_env(
        config.played,
        n_envs=min(n_envs, _EVAL_ENVS),
        seed=settings.seed + _EVAL_SEED_OFFSET,
        replayable=True,
        **env_arguments(config.env),
    )
    return _Evaluation(
        config,
        eval_env,
        callback_on_new_best=None
        if settings.stop_reward is None
        else StopTrainingOnRewardThreshold(settings.stop_reward),
        callback_after_eval=None
        if settings.stop_after_evals is None
        else StopTrainingOnNoModelImprovement(settings.stop_after_evals, settings.stop_min_evals),
        n_eval_episodes=settings.eval_episodes,
        eval_freq=max(1, settings.eval_freq // n_envs),
        best_model_save_path=str(run.path),
        deterministic=False,
        verbose=0,
    )


class _Evaluation(MaskableEvalCallback):
    """SB3's evaluations, with a row of results on each of ``train.eval_splits``.

    Every evaluation of a split plays the same levels with the same chances, and leaves the generators that training
    draws from as they were: nothing of it has to be in a checkpoint, and nothing of what is learned depends on it.
    """

    def __init__(self, config: ExperimentConfig, eval_env: VecEnv, **options: Any) -> None:
        super().__init__(eval_env, **options)
        self._config = config

    def _init_callback(self) -> None:
        with warnings.catch_warnings():  # these environments need not have the vector's wrappers of the training's
            warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
            super()._init_callback()

    def _on_step(self) -> bool:
        if self.eval_freq > 0 and self.n_calls % self.eval_freq == 0:
            for split in self._config.train.eval_splits:
                self._record(split)
        return super()._on_step()  # which writes the row

    def _record(self, split: str) -> None:
        config = self._config
        episodes, seed = config.train.eval_episodes, config.train.seed + _EVAL_SEED_OFFSET
        make = partial(
            make_vec_env,
            config.played,
            split=split,
            n_envs=min(config.env.n_envs, _EVAL_ENVS, episodes),
            seed=seed,
            **env_arguments(config.env),
        )
        with _rng_preserved():
            outcome = play(self.model, make, episodes, deterministic=False, seed=seed).summary()
        for name in ("return_mean", "success_rate"):
            if outcome[name] is not None:
                self.logger.record(f"eval/{name}_{split}", outcome[name])


@contextmanager
def _rng_preserved() -> Iterator[None]:
    """Draw in this block without a trace."""
    state, tensors = random_state()
    try:
        yield
    finally:
        restore_rng_state(Fields(state, "random"), tensors)


def why_ended(config: ExperimentConfig, evaluation: EvalCallback | None) -> str:
    """Why a training ended before its last step, in words; to be asked where it did."""
    settings = config.train
    if evaluation is not None and settings.stop_reward is not None:
        best = float(evaluation.best_mean_reward)
        if best >= settings.stop_reward:
            return f"an evaluation's mean return, {best:g}, reached train.stop_reward {settings.stop_reward:g}"
    patience = None if evaluation is None else evaluation.callback
    if isinstance(patience, StopTrainingOnNoModelImprovement):
        waited = patience.no_improvement_evals
        if waited > patience.max_no_improvement_evals:
            return f"{waited} evaluations had no better mean return than the best before (train.stop_after_evals)"
    return "a callback asked for it"


def counters_of(callbacks: Iterable[BaseCallback]) -> list[dict[str, float]]:
    """The numbers that callbacks keep, those within others included: what they go on from."""
    found = []
    for callback in _with_inner(callbacks, set()):
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in vars(callback).items()}
        found.append({name: value for name, value in plain.items() if isinstance(value, int | float)})
    return found


def restore_counters(callbacks: Iterable[BaseCallback], counters: Iterable[Mapping[str, Any]]) -> None:
    """Give callbacks the numbers that `counters_of` found; nothing else is changed, whatever the numbers are."""
    there, found = list(_with_inner(callbacks, set())), list(counters)
    if len(there) != len(found):  # accepted changes brought others
        return
    for callback, numbers in zip(there, found, strict=True):
        for name, value in numbers.items():
            before = getattr(callback, name, None)
            if isinstance(value, int | float) and (before is None or isinstance(before, int | float | np.number)):
                setattr(callback, name, value)


def _with_inner(callbacks: Iterable[BaseCallback], met: set[int]) -> Iterator[BaseCallback]:
    for callback in callbacks:
        if id(callback) in met:
            continue
        met.add(id(callback))
        yield callback
        held = [value for name, value in vars(callback).items() if name != "parent"]
        inner = [each for value in held for each in (value if isinstance(value, list) else [value])]
        yield from _with_inner([each for each in inner if isinstance(each, BaseCallback)], met)


def callbacks_of(
    config: ExperimentConfig, run: Run, evaluation: EvalCallback | None, progress_bar: bool
) -> list[BaseCallback]:
    """What runs beside learning, `evaluation` first; checkpoints to go on from and stopping are not among them."""
    settings, n_envs = config.train, config.env.n_envs
    callbacks: list[BaseCallback] = [] if evaluation is None else [evaluation]
    if settings.checkpoint_freq:
        callbacks.append(
            CheckpointCallback(max(1, settings.checkpoint_freq // n_envs), str(run.path / "checkpoints"), "model")
        )
    if progress_bar:
        callbacks.append(_Progress(run.path.name, settings.total_timesteps, n_envs))
    return callbacks


class _Progress(BaseCallback):
    """A bar with the figures that tell whether it learns; a line now and then where there is no terminal."""

    def __init__(self, title: str, total_timesteps: int, n_envs: int) -> None:
        super().__init__()
        self._title = title
        self._n_envs = n_envs
        self._total = total_timesteps

    def _on_training_start(self) -> None:
        self._bar = bar(self._title, self._total, self.num_timesteps)

    def _on_step(self) -> bool:
        self._bar.update(self._n_envs)
        return True

    def _on_rollout_end(self) -> None:
        episodes, successes = self.model.ep_info_buffer, self.model.ep_success_buffer
        figures = {}
        if episodes:
            figures["return"] = f"{safe_mean([episode['r'] for episode in episodes]):.2f}"
        if successes:
            figures["success"] = f"{safe_mean(list(successes)):.2f}"
        self._bar.set_postfix(figures, refresh=False)

    def _on_training_end(self) -> None:
        self._bar.close()


class Onlooker(CallbackList):
    """A callback of who called `rimrl.experiments.train.train`, which may end the training for now.

    Args:
        callback: The callback.

    Attributes:
        ended: Whether it has ended the training.
    """

    def __init__(self, callback: BaseCallback) -> None:
        super().__init__([callback])
        self.ended = False

    def _on_step(self) -> bool:
        goes_on = super()._on_step()
        self.ended = self.ended or not goes_on
        return goes_on


class Stopping(BaseCallback):
    """Ends the training at the next step once it is asked to."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop

    def _on_step(self) -> bool:
        return not self._stop.requested
