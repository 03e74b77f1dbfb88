"""The run folder of a sequence task.

config.yaml        the complete configuration; ``rimrl sequence RUN/config.yaml`` repeats the run
environment.json   versions, commit and machine, and how the run ended
model.safetensors  the weights at the end of training, or where it was interrupted
resume/            what ``rimrl sequence --resume RUN`` goes on from
progress.csv       losses and small evaluations        events.out.*  TensorBoard
evaluation.json    every split, every sequence included
inspection/        what ``rimrl inspect`` recorded and drew, one folder a split
dropping.json      what ``rimrl sequence lesion`` found, and dropping.png
"""

from __future__ import annotations

from pathlib import Path

import torch as th
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from rimrl.cores.registry import make_core
from rimrl.errors import damaged, missing, one_line, quoted, wrong
from rimrl.files import placing_file
from rimrl.imports import options as import_options
from rimrl.runs.environment import refuse_edited
from rimrl.runs.folder import RunFolder, missing_run
from rimrl.runs.kinds import SEQUENCE, kind_of
from rimrl.runs.yaml_files import read_yaml
from rimrl.sequence.base import Task
from rimrl.sequence.config import SequenceConfig
from rimrl.sequence.config_files import load_sequence
from rimrl.sequence.model import SequenceModel
from rimrl.sequence.registry import make_task


class SequenceRun(RunFolder[SequenceConfig]):
    """One run folder of a sequence task.

    Args:
        path: The folder.
        config: Its configuration.
    """

    @property
    def model_file(self) -> Path:
        """The weights at the end of training, or where it was interrupted."""
        return self.path / "model.safetensors"

    @classmethod
    def open(cls, path: Path) -> SequenceRun:
        """Open an existing run.

        Raises:
            UsageError: If the folder is not there, is no run of a sequence task, or its configuration is damaged.
        """
        if not path.is_dir():
            raise missing_run(path)
        file = path / "config.yaml"
        content = read_yaml(file, follow=False) if file.is_file() else {}
        if not isinstance(content, dict):
            raise damaged(file, "it holds no keys", "restore it from the command that trained the run")
        if kind_of(content) is not SEQUENCE:
            raise wrong(path, "is not a run of rimrl sequence", kind="state")
        config = load_sequence(str(file), of_others=True)
        refuse_edited(path, content)
        return cls(path, config)

    def save_model(self, model: SequenceModel) -> None:
        """Write the weights, whole or not at all.

        Raises:
            OSError: If they cannot be written.
        """
        content = save({name: weight.contiguous().cpu() for name, weight in model.state_dict().items()})
        with placing_file(self.model_file) as partial:
            partial.write_bytes(content)  # `save_file` lets nobody else read what it writes

    def load_model(self, task: Task) -> SequenceModel:
        """The trained model, in eval mode, on the device of the configuration.

        Args:
            task: The run's own, from `make_run_task`.

        Raises:
            UsageError: If it is missing or damaged.
        """
        if not self.model_file.is_file():
            why = "has no saved model"
            if self.status in ("running", "failed"):
                command = f"rimrl sequence --resume {quoted(self.path)}{import_options(self.config.modules)}"
                why = f"was stopped before its end, or goes on; to go on with it: {command}"
            raise missing(str(self.model_file)).within(after=f": the run {why}")
        model = make_model(self.config, task)
        try:
            model.load_state_dict(load_file(self.model_file))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise damaged(self.model_file, f"or of another configuration: {one_line(error, 200)}") from None
        return model.to(device_of(self.config)).eval()


def make_run_task(config: SequenceConfig) -> Task:
    """The task of a configuration.

    Raises:
        UsageError: If its options make no sense, or data is missing.
    """
    return make_task(config.task.name, **config.task.options)


def make_model(config: SequenceConfig, task: Task) -> SequenceModel:
    """The model of a configuration, untrained.

    Raises:
        UsageError: If its options do not fit together.
    """
    encoder, input_size = task.make_encoder(config.model.embedding_size)
    core = make_core(config.core.name, input_size, **config.core.options)
    return SequenceModel(encoder, core, task.make_decoder(core.output_size), config.model.dropout)


def device_of(config: SequenceConfig) -> th.device:
    """The device of a configuration, which `rimrl.runs.device.check_device` has accepted."""
    name = config.train.device
    if name == "auto":
        name = "cuda" if th.cuda.is_available() else "cpu"
    return th.device(name)
