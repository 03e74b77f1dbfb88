"""Bouncing balls: predict the frames to come, with more or fewer balls than in training (RIM paper, Sec. 4.2, D.4)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch as th
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rimrl.errors import invalid_value, needs, wrong
from rimrl.sequence.balls_physics import film, scatter
from rimrl.sequence.base import (
    Batch,
    MetricName,
    Scores,
    StepAnnotations,
    Task,
    TaskSplit,
    evaluation_stream,
    training_stream,
)
from rimrl.sequence.checks import require_length, require_some
from rimrl.sequence.frames import FrameDecoder, FrameEncoder, check_channels
from rimrl.sequence.model import SequenceModel
from rimrl.sequence.rollouts import Feedback, Rollout, roll_out

_CURTAIN = 0.4  # of each side
_MOST_COVERED = 0.4  # of the box: more discs find no place
_LEAST_RADIUS, _MOST_RADIUS = 0.001, 0.35
_DECODER_WIDTH = 512


class Setting(NamedTuple):
    """How many balls there are, and whether a curtain hides a part of them."""

    least: int
    most: int
    curtain: bool


class BouncingBalls(Task):
    """Predict the next frame; tests go on from their own predictions.

    Balls of different radii and masses move without friction in a square box and bounce off its walls and each other. A
    pixel is 1 where its centre lies in a ball. Training is by teacher forcing, with the binary cross entropy of every
    next frame. In a test the model sees ``warm_up`` frames and predicts ``rollout`` more from its own predictions. The
    score is the cross entropy of these, summed over the pixels of a frame (nats a frame), mean over frames.

    Args:
        balls: Balls in training: ``4``, ``6-8`` (any number of these) or ``4_curtain``, with a square of 0.4 of each
            side, somewhere in the box, that hides what is behind it. Default 4.
        test_balls: Of a split each. Default 4, 6-8 and 4_curtain.
        size: Pixels along each side. Default 64.
        num_frames: Of a training sequence. Default 51.
        warm_up: Frames that are shown in a test. Default 15.
        rollout: Frames that are predicted in a test. Default 35.
        feedback: Predictions are fed back as ``probabilities`` (default), or ``rounded`` to black and white.
        min_radius: Least radius, with the box's side as unit. Default 0.08.
        max_radius: Largest radius. Default 0.12. Radii are drawn evenly, masses are as areas.
        speed: Mean speed in sides per frame. Default 0.05.
        channels: Of the encoder's convolutions of stride 2; the decoder has the same backwards. Default 16, 32, 64.

    Raises:
        UsageError: For numbers that make no sense, and balls that do not fit into the box.
    """

    name: ClassVar[str] = "balls"
    metric: ClassVar[MetricName] = "cross_entropy"
    other_splits: ClassVar[str] = "N_balls, N-M_balls or N_balls_curtain"

    def __init__(
        self,
        balls: str | int = "4",
        test_balls: Sequence[str | int] = ("4", "6-8", "4_curtain"),
        size: int = 64,
        num_frames: int = 51,
        warm_up: int = 15,
        rollout: int = 35,
        feedback: Feedback = "probabilities",
        min_radius: float = 0.08,
        max_radius: float = 0.12,
        speed: float = 0.05,
        channels: Sequence[int] = (16, 32, 64),
    ) -> None:
        require_length("size", size, 4, 512)
        require_length("num_frames", num_frames, 2, 10_000)
        require_length("warm_up", warm_up, 1, 10_000)
        require_length("rollout", rollout, 1, 10_000)
        check_channels(size, channels)
        if feedback not in ("probabilities", "rounded"):
            raise invalid_value("feedback", "'probabilities' or 'rounded'", feedback)
        if not _LEAST_RADIUS <= min_radius <= max_radius <= _MOST_RADIUS:
            raise invalid_value(
                "the radii", f"from {_LEAST_RADIUS} to {_MOST_RADIUS} and in order", (min_radius, max_radius)
            )
        if not 0.0 < speed <= min_radius:
            raise invalid_value("speed", f"above 0 and at most min_radius ({min_radius}) a frame", speed)
        test_names = [str(name) for name in test_balls]
        require_some("test_balls", test_names)
        self.size = size
        self.num_frames = num_frames
        self.warm_up = warm_up
        self.rollout = rollout
        self.feedback: Feedback = feedback
        self.channels = tuple(channels)
        self._radii = min_radius, max_radius
        self._speed = speed
        self._training = self._setting("balls", str(balls))
        require_some("test_balls", [self._setting("test_balls", name) for name in test_names])
        self.splits = tuple(self._split("test_balls", name) for name in test_names)

    def _split(self, key: str, name: str) -> TaskSplit:
        setting = self._setting(key, name)
        return TaskSplit(
            _split_name(name),
            setting != self._training,
            f"{name.partition('_')[0]} balls" + (", a curtain" if setting.curtain else ""),
            {"balls": name, "warm_up": self.warm_up, "rollout": self.rollout, "size": self.size},
            self._chance(setting),
        )

    def other_split(self, name: str) -> TaskSplit | None:
        # One way to write each, so that no split is there twice: no 04_balls, and 4_balls for 4-4_balls.
        match = re.fullmatch(r"(?!([0-9]+)-\1_)([1-9][0-9]*(?:-[1-9][0-9]*)?)_balls?(_curtain)?", name)
        return None if match is None else self._split("balls of the split", match[2] + (match[3] or ""))

    def _setting(self, key: str, name: str) -> Setting:
        match = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?(_curtain)?", name)
        if match is None or not 1 <= int(match[1]) <= int(match[2] or match[1]):
            raise invalid_value(key, "numbers of balls such as 4, 6-8 or 4_curtain", name)
        setting = Setting(int(match[1]), int(match[2] or match[1]), match[3] is not None)
        most = math.floor(_MOST_COVERED / (math.pi * self._radii[1] ** 2))
        if setting.most > most:
            raise wrong(f"{key} {name}", f"has {setting.most} balls", f"{most} of max_radius {self._radii[1]} fit")
        return setting

    def _chance(self, setting: Setting) -> float:
        """Nats a frame of always giving every pixel the share of it that balls cover."""
        low, high = self._radii
        area = math.pi * (low**2 + low * high + high**2) / 3.0
        share = (setting.least + setting.most) / 2.0 * area * (1.0 - _CURTAIN**2 * setting.curtain)
        return -(share * math.log(share) + (1.0 - share) * math.log(1.0 - share)) * self.size**2

    def training_batch(self, seed: int, update: int, batch_size: int) -> Batch:
        return self._batch(training_stream(seed, update), batch_size, self._training, self.num_frames)

    def evaluation_batch(self, split: TaskSplit, seed: int, number: int, batch_size: int) -> Batch:
        setting = self._setting("balls", split.settings["balls"])
        return self._batch(evaluation_stream(seed, number), batch_size, setting, self.warm_up + self.rollout)

    def _batch(self, stream: np.random.Generator, batch_size: int, setting: Setting, num_frames: int) -> Batch:
        """Inputs ``[T - 1, B, S, S]``, all frames but the last, and targets, all but the first."""
        discs = scatter(stream, batch_size, (setting.least, setting.most), self._radii, self._speed)
        frames = film(discs, num_frames, self.size)
        if setting.curtain:
            side = round(_CURTAIN * self.size)
            corner = stream.integers(0, self.size - side + 1, (2, batch_size, 1))
            places = np.arange(self.size)
            down, across = (places >= corner) & (places < corner + side)
            frames *= ~(down[:, :, None] & across[:, None, :])
        shown = th.from_numpy(frames).float()
        return Batch(shown[:-1], shown[1:])

    def make_encoder(self, embedding_size: int | None) -> tuple[nn.Module, int]:
        if embedding_size is None:
            raise needs("task 'balls'", "model.embedding_size, the width of its encoder's output")
        return FrameEncoder(self.size, self.channels, embedding_size), embedding_size

    def make_decoder(self, hidden_size: int) -> nn.Module:
        return FrameDecoder(hidden_size, self.size, self.channels, min(_DECODER_WIDTH, 2 * hidden_size))

    def loss(self, model: SequenceModel, batch: Batch) -> Tensor:
        hidden, _ = model(batch.inputs)
        return binary_cross_entropy_with_logits(model.decode(hidden), batch.targets)

    def scores(self, model: SequenceModel, batch: Batch) -> Scores:
        truth = self.truth(batch)
        predicted = self.roll_out(model, batch).logits
        by_step = nats_a_frame(predicted, truth)  # [rollout, B]
        next_frame = nats_a_frame(model.decode(model(batch.inputs)[0]), batch.targets).mean(0)
        others = {"next_frame_cross_entropy": next_frame, "f1": _f1(predicted > 0, truth > 0.5)}
        return Scores(by_step.mean(0), {**others, "cross_entropy_by_step": by_step.t()})

    def truth(self, batch: Batch) -> Tensor:
        """The frames that a rollout is to predict, ``[rollout, B, S, S]``."""
        return batch.targets[self.warm_up - 1 :]

    def roll_out(self, model: SequenceModel, batch: Batch, keep: Tensor | None = None) -> Rollout:
        """Predict the frames after the warm-up; see `rimrl.sequence.rollouts.roll_out`."""
        return roll_out(model, batch.inputs[: self.warm_up], self.rollout, self.feedback, keep)

    def annotate_steps(self, batch: Batch, hidden: Tensor, model: SequenceModel) -> StepAnnotations:
        nothing = th.zeros(batch.inputs.shape[:2])
        return StepAnnotations(("Frame shown", "Outcome"), None, nothing.long(), nothing, None)


def nats_a_frame(logits: Tensor, frames: Tensor) -> Tensor:
    """Cross entropy summed over the pixels of each frame, ``[T, B, S, S]`` to ``[T, B]``."""
    return binary_cross_entropy_with_logits(logits, frames, reduction="none").sum((-2, -1))


def _f1(predicted: Tensor, truth: Tensor) -> Tensor:
    """F1 of the pixels of each row's frames, ``[T, B, S, S]`` to ``[B]``."""
    right = (predicted & truth).sum((0, 2, 3)).double()
    return 2.0 * right / (predicted.sum((0, 2, 3)) + truth.sum((0, 2, 3))).clamp(min=1)


def _split_name(setting: str) -> str:
    number, _, curtain = setting.partition("_")
    noun = "ball" if number == "1" else "balls"
    return f"{number}_{noun}" + (f"_{curtain}" if curtain else "")
