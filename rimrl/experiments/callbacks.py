"""What is done beside learning: evaluations, checkpoints to look at, the progress bar, stopping."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.utils import safe_mean

from rimrl.agents.masked_play import MaskableEvalCallback
from rimrl.envs.vector import make_vec_env
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.run import Run
from rimrl.runs.progress import progress_bar as bar
from rimrl.runs.stopping import Stop

# Far from the training environments' seeds, which are seed, seed + 1, ...
_EVAL_SEED_OFFSET = 100_000


def evaluation_callback(config: ExperimentConfig, run: Run) -> EvalCallback:
    """Evaluations on the training split that keep the best agent, every ``train.eval_freq`` steps."""
    settings, n_envs = config.train, config.env.n_envs
    eval_env = make_vec_env(
        config.env.id,
        n_envs=min(n_envs, 8),
        seed=settings.seed + _EVAL_SEED_OFFSET,
        efference_copies=config.env.efference_copies,
        replayable=True,
        **config.env.kwargs,
    )
    kind = MaskableEvalCallback if config.agent.use_masking else EvalCallback
    return kind(
        eval_env,
        n_eval_episodes=settings.eval_episodes,
        eval_freq=max(1, settings.eval_freq // n_envs),
        best_model_save_path=str(run.path),
        deterministic=False,
        verbose=0,
    )


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


class Stopping(BaseCallback):
    """Ends the training at the next step once it is asked to."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop

    def _on_step(self) -> bool:
        return not self._stop.requested
