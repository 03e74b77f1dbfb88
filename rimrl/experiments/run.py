"""The run folder: everything that one training leaves behind, and the only way verbs hand results to each other.

config.yaml       the complete configuration; ``rimrl train RUN/config.yaml`` repeats the run
environment.json  versions, commit and machine, and how the run ended
model.zip         the agent at the end; best_model.zip at its best evaluation; checkpoints/ on the way
resume/           what ``rimrl train --resume RUN`` goes on from
monitor.csv       every training episode        progress.csv  every update        events.out.*  TensorBoard
evaluation.json   what ``rimrl evaluate`` found, every episode included; evaluation-SUITE.json: on another suite;
                  evaluation-NAME=VALUE.json: with another argument of the environment
inspection/       what ``rimrl inspect`` recorded and drew, one folder a split
watch/            films of ``rimrl watch``
tracking.json     by what names trackers know the run (``--track``)
"""

from __future__ import annotations

from pathlib import Path

from rimrl.agents.saved.names import CARD, WEIGHTS
from rimrl.errors import conflict, missing, quoted, wrong
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import load_config
from rimrl.imports import options
from rimrl.reading import check_regular
from rimrl.runs.environment import refuse_edited, run_processes
from rimrl.runs.folder import RunFolder, missing_run
from rimrl.runs.kinds import AGENT, kind_of_run
from rimrl.runs.yaml_files import read_yaml


class Run(RunFolder[ExperimentConfig]):
    """One run folder of an agent.

    Args:
        path: The folder.
        config: Its configuration.
    """

    @property
    def model_file(self) -> Path:
        """The agent at the end of training, or where it was interrupted."""
        return self.path / "model.zip"

    @property
    def is_export(self) -> bool:
        """Whether this is a folder of ``rimrl export``, which is played like a run."""
        return (self.path / CARD).is_file() and not (self.path / "config.yaml").is_file()

    def agent_file(self, best: bool = False) -> Path:
        """The saved agent, at the end or at its best evaluation; an exported folder has one for both.

        Raises:
            UsageError: If there is none.
        """
        if self.is_export:
            if best:
                raise conflict("--best", f"{self.path}, an export, which holds one agent", "leave it out")
            return self.path / WEIGHTS
        file = self.path / "best_model.zip" if best else self.model_file
        if not file.is_file():
            why = "did not reach an evaluation (train.eval_freq); leave out --best" if best else "has no saved agent"
            if not best and self.status == "running":
                command = f"{self.kind.command(run_processes(self.path))} --resume {quoted(self.path)}"
                command += options(self.config.modules)
                why = f"was stopped before its end, or goes on; to go on with it: {command}"
            raise missing(str(file)).within(after=f": the run {why}")
        return file

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open an existing run, or a folder of ``rimrl export``.

        Raises:
            UsageError: If the folder is not there, or is not a run folder.
        """
        if not path.is_dir():
            raise missing_run(path)
        if not (path / "config.yaml").is_file() and (path / CARD).is_file():
            return cls(path, load_config(str(path / CARD), of_others=True, to_train=False))
        if not (path / "config.yaml").is_file():
            raise wrong(path, "is not a run folder: it holds no config.yaml", kind="missing")
        check_regular(path / "config.yaml", follow=False)
        kind = kind_of_run(path)
        if kind is not AGENT:
            raise wrong(
                path,
                f"is a run of {kind.command()} and holds no agent",
                f"rimrl evaluate, inspect, compare and report take it, {kind.command()} --resume {quoted(path)}, too",
                "state",
            )
        config = load_config(str(path / "config.yaml"), of_others=True, to_train=False)
        refuse_edited(path, read_yaml(path / "config.yaml", follow=False))
        return cls(path, config)
