"""Copying, adding and what all tasks share, against answers derived here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch as th
from torch import nn

from rimrl.cores.registry import make_core
from rimrl.errors import UsageError
from rimrl.sequence.adding import Adding
from rimrl.sequence.balls import BouncingBalls
from rimrl.sequence.base import Task
from rimrl.sequence.copying import Copying
from rimrl.sequence.model import SequenceModel
from rimrl.sequence.registry import make_task

SMALL_BALLS: Mapping[str, Any] = {"size": 8, "channels": (2,), "num_frames": 5, "warm_up": 2, "rollout": 3}
TASKS: Mapping[str, Task] = {
    "copying": Copying(),
    "adding": Adding(),
    "balls": BouncingBalls(**SMALL_BALLS),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


class Constant(nn.Module):
    """Answers the same whatever it sees."""

    def __init__(self, answer: th.Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, hidden: th.Tensor) -> th.Tensor:
        return self.answer.expand(*hidden.shape[:-1], *self.answer.shape)


def model_of(task: Task, decoder: nn.Module | None = None, embedding_size: int | None = 4) -> SequenceModel:
    th.manual_seed(0)
    encoder, width = task.make_encoder(embedding_size)
    core = make_core("rim", width, num_units=3, unit_size=4)
    return SequenceModel(encoder, core, decoder or task.make_decoder(core.output_size)).eval()


@every_task
def test_an_update_meets_the_same_sequences_whenever_it_is_asked(task: Task) -> None:
    first, other = task.training_batch(3, 5, 4), task.training_batch(3, 6, 4)
    again = task.training_batch(3, 5, 4)
    assert th.equal(first.inputs, again.inputs)
    assert th.equal(first.targets, again.targets)
    assert not th.equal(first.inputs, other.inputs)
    assert not th.equal(first.inputs, task.training_batch(4, 5, 4).inputs)


@every_task
def test_evaluation_draws_from_a_stream_of_its_own(task: Task) -> None:
    split = task.splits[0]
    trained = [task.training_batch(7, update, 4).targets for update in range(4)]
    tested = [task.evaluation_batch(split, 7, number, 4).targets for number in range(4)]
    shown = {part[:, row].numpy().tobytes() for part in trained for row in range(4)}
    assert len(shown) == 16
    assert not shown & {part[: len(trained[0]), row].numpy().tobytes() for part in tested for row in range(4)}


@every_task
def test_the_first_split_is_like_training_and_the_others_are_held_out(task: Task) -> None:
    assert [split.held_out for split in task.splits] == [False] + [True] * (len(task.splits) - 1)


@every_task
def test_scores_of_a_row_do_not_depend_on_the_rows_beside_it(task: Task) -> None:
    model = model_of(task)
    batch = task.evaluation_batch(task.splits[-1], 0, 0, 6)
    with th.no_grad():
        together = task.scores(model, batch).metric
        alone = th.cat([task.scores(model, batch.first(row + 1)).metric[row:] for row in range(6)])
    assert th.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "configured", "name", "held_out"),
    [
        (Copying(), Copying(test_blanks=[70]), "70_blanks", True),
        (Copying(min_blanks=0), Copying(min_blanks=0, test_blanks=[0]), "0_blanks", False),
        (Adding(), Adding(test_lengths=[500]), "500_steps", True),
        (Adding(test_lengths=[200]), Adding(), "50_steps", False),
        (BouncingBalls(**SMALL_BALLS), BouncingBalls(test_balls=["1"], **SMALL_BALLS), "1_ball", True),
        (
            BouncingBalls(**SMALL_BALLS),
            BouncingBalls(test_balls=["2-3_curtain"], **SMALL_BALLS),
            "2-3_balls_curtain",
            True,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_split_is_the_same_whether_or_not_it_was_configured(
    task: Task, configured: Task, name: str, held_out: bool
) -> None:
    assert name not in [split.name for split in task.splits]
    split = task.split(name)
    assert split == configured.split(name)
    assert split.held_out is held_out
    batch, expected = (each.evaluation_batch(split, 3, 1, 4) for each in (task, configured))
    assert th.equal(batch.inputs, expected.inputs)
    assert th.equal(batch.targets, expected.targets)


@pytest.mark.parametrize(
    ("task", "name", "said"),
    [
        ("copying", "050_blanks", "unknown split '050_blanks'"),
        ("copying", "blanks", "unknown split 'blanks'"),
        ("copying", "-3_blanks", "unknown split '-3_blanks'"),
        ("copying", "100001_blanks", "blanks.*number.*0.*100000.*100001"),
        ("adding", "50_blanks", "unknown split '50_blanks'"),
        ("adding", "0_steps", "steps.*number.*1"),
        ("adding", "1_steps", "num_marked 2.* 1 steps"),
        ("balls", "1_balls", "unknown split '1_balls'"),
        ("balls", "04_balls", "unknown split '04_balls'"),
        ("balls", "5-5_balls", "unknown split '5-5_balls'"),
        ("balls", "\u0664_balls", "unknown split"),
        ("balls", "6-4_balls", "split.*4, 6-8.*4_curtain.*'6-4'"),
        ("balls", "9_balls", "9 balls.*fit"),
    ],
)
def test_a_split_that_cannot_be_is_refused(task: str, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TASKS[task].split(name)


# -- copying ----------------------------------------------------------------------------------------------------------


def test_a_sequence_to_copy_is_digits_blanks_marker_blanks() -> None:
    batch = Copying(num_digits=4, blanks=3).training_batch(0, 0, 5)
    assert batch.inputs.shape == (4 + 3 + 1 + 4, 5)
    for row in range(5):
        symbols = batch.inputs[:, row].tolist()
        assert symbols[4:] == [0, 0, 0, 9, 0, 0, 0, 0]
        assert batch.targets[:, row].tolist() == symbols[:4]


@pytest.mark.parametrize("lowest", [0, 1])
def test_digits_are_drawn_evenly(lowest: int) -> None:
    digits = Copying(lowest_digit=lowest).training_batch(0, 0, 5000).targets.flatten().numpy()
    counts = np.bincount(digits, minlength=10)
    expected = len(digits) / (9 - lowest)
    assert counts[9] == 0
    assert (counts[:lowest] == 0).all()
    assert np.abs(counts[lowest:9] - expected).max() < 5 * math.sqrt(expected)


def test_the_digits_are_the_same_through_any_stretch() -> None:
    task = Copying(test_blanks=[50, 200])
    short, long = (task.evaluation_batch(split, 3, 1, 8) for split in task.splits)
    assert th.equal(short.targets, long.targets)
    assert len(long.inputs) - len(short.inputs) == 150


def test_lengths_to_copy_through_are_drawn_evenly_and_follow_from_the_update() -> None:
    task = Copying(num_digits=1, blanks=7, min_blanks=4, test_blanks=[5, 7, 3, 8])
    batches = [task.training_batch(0, update, 1) for update in range(800)]
    counts = np.bincount([len(batch.inputs) - 3 for batch in batches], minlength=8)
    assert counts.sum() == counts[4:8].sum() == 800
    assert np.abs(counts[4:8] - 200).max() < 5 * math.sqrt(200)
    assert th.equal(batches[5].inputs, task.training_batch(0, 5, 1).inputs)
    assert [split.held_out for split in task.splits] == [False, False, True, True]


def test_a_power_makes_short_stretches_frequent() -> None:
    task = Copying(num_digits=1, blanks=11, min_blanks=4, blanks_power=3.0, test_blanks=[11, 4, 12])
    batches = [task.training_batch(0, update, 1) for update in range(2000)]
    counts = np.bincount([len(batch.inputs) - 3 for batch in batches], minlength=12)
    # u ** 3 is below x with the cube root of x as probability.
    shares = np.diff(np.cbrt(np.arange(9) / 8))
    assert counts.sum() == counts[4:12].sum() == 2000
    assert (np.abs(counts[4:12] - 2000 * shares) < 5 * np.sqrt(2000 * shares)).all()
    assert th.equal(batches[5].inputs, task.training_batch(0, 5, 1).inputs)
    assert [split.held_out for split in task.splits] == [False, False, True]
    longest = Copying(blanks=5, min_blanks=0, blanks_power=1e-20)
    assert len(longest.training_batch(0, 0, 1).inputs) == 5 + 21


@pytest.mark.parametrize(
    ("always", "range_of_one"),
    [
        (Copying(blanks=7), Copying(blanks=7, min_blanks=7)),
        (Adding(length=7), Adding(length=7, min_length=7)),
    ],
)
def test_a_range_of_one_length_is_that_length(always: Task, range_of_one: Task) -> None:
    for update in range(3):
        assert th.equal(always.training_batch(0, update, 4).inputs, range_of_one.training_batch(0, update, 4).inputs)


def test_the_loss_of_copying_is_that_of_the_last_steps_alone() -> None:
    task = Copying(num_digits=3, blanks=2)
    model, batch = model_of(task), task.training_batch(0, 0, 4)
    with th.no_grad():
        hidden, _ = model(batch.inputs)
        by_digit = np.zeros((4, 3))
        for step in range(3):
            for row in range(4):
                logits = model.decoder(hidden[-3 + step, row]).double()
                digit = int(batch.inputs[step, row])
                by_digit[row, step] = logits.exp().sum().log() - logits[digit]
        assert float(task.loss(model, batch)) == pytest.approx(by_digit.mean(), rel=1e-5)
        scores = task.scores(model, batch)
        assert scores.metric.numpy() == pytest.approx(by_digit.mean(1), rel=1e-5)
        assert scores.others["cross_entropy_by_digit"].numpy() == pytest.approx(by_digit, rel=1e-5)


@pytest.mark.parametrize("lowest", [0, 1])
def test_a_guess_among_the_digits_scores_the_chance_of_copying(lowest: int) -> None:
    task = Copying(lowest_digit=lowest)
    logits = th.zeros(10)
    logits[:lowest] = logits[9] = -1e9
    scores = task.scores(model_of(task, Constant(logits)), task.evaluation_batch(task.splits[0], 0, 0, 8))
    assert scores.metric.detach().mean() == pytest.approx(task.splits[0].chance)


# -- adding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marked", [1, 2, 5])
def test_the_answer_is_the_sum_of_the_marked_numbers(marked: int) -> None:
    batch = Adding(length=9, test_lengths=[9], num_marked=marked).training_batch(1, 2, 30)
    assert batch.inputs.shape == (9, 30, 2)
    for row in range(30):
        steps = batch.inputs[:, row].tolist()
        assert sorted({mark for _, mark in steps}) == ([0.0, 1.0] if marked < 9 else [1.0])
        assert sum(mark for _, mark in steps) == marked
        assert float(batch.targets[0, row]) == pytest.approx(sum(number for number, mark in steps if mark), rel=1e-5)


def test_lengths_to_add_over_are_drawn_evenly_and_follow_from_the_update() -> None:
    task = Adding(length=6, min_length=3, test_lengths=[3, 6, 2, 7])
    batches = [task.training_batch(0, update, 2) for update in range(800)]
    counts = np.bincount([len(batch.inputs) for batch in batches], minlength=7)
    assert counts.sum() == counts[3:7].sum() == 800
    assert np.abs(counts[3:7] - 200).max() < 5 * math.sqrt(200)
    assert all((batch.inputs[..., 1].sum(0) == 2).all() for batch in batches)
    assert th.equal(batches[5].inputs, task.training_batch(0, 5, 2).inputs)
    assert [split.held_out for split in task.splits] == [False, False, True, True]


def test_every_step_is_marked_as_often() -> None:
    marks = Adding(length=10, test_lengths=[10]).training_batch(0, 0, 20_000).inputs[..., 1].mean(1)
    assert th.allclose(marks, th.full((10,), 0.2), atol=0.015)


def test_guessing_the_mean_scores_the_chance_of_adding() -> None:
    task = Adding(length=12, test_lengths=[12], num_marked=3)
    sums = task.training_batch(0, 0, 50_000).targets
    assert float(((sums - 1.5) ** 2).mean()) == pytest.approx(task.splits[0].chance, rel=0.03)


def test_the_loss_of_adding_is_the_squared_error_after_the_last_step() -> None:
    task = Adding(length=6, test_lengths=[6])
    batch = task.training_batch(0, 0, 4)
    model = model_of(task, Constant(th.tensor([0.75])))
    expected = sum((0.75 - float(total)) ** 2 for total in batch.targets[0]) / 4
    assert task.loss(model, batch).item() == pytest.approx(expected, rel=1e-5)
    assert task.scores(model, batch).metric.detach().tolist() == pytest.approx(
        [(0.75 - float(total)) ** 2 for total in batch.targets[0]], rel=1e-5
    )


def test_inputs_can_go_to_the_core_as_they_are() -> None:
    assert model_of(TASKS["copying"], embedding_size=None).core.input_size == 10
    assert model_of(TASKS["adding"], embedding_size=None).core.input_size == 2
    with pytest.raises(UsageError, match=r"needs model\.embedding_size"):
        TASKS["balls"].make_encoder(None)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("copying", {"blanks": -1}, "'copying': blanks.*number.*0.*100000.*-1"),
        ("copying", {"blanks": 9, "min_blanks": 10}, "min_blanks.*number.*0.*9.*10"),
        ("copying", {"blanks_power": 3.0}, "blanks_power needs min_blanks"),
        ("copying", {"min_blanks": 0, "blanks_power": 0.0}, r"blanks_power must be above 0 and finite, got 0\.0"),
        ("copying", {"min_blanks": 0, "blanks_power": math.inf}, "blanks_power.*0.*finite"),
        ("copying", {"min_blanks": 0, "blanks_power": math.nan}, "blanks_power.*0.*finite"),
        ("copying", {"num_digits": 0}, "num_digits must be"),
        ("copying", {"test_blanks": []}, "test_blanks"),
        ("copying", {"test_blanks": [5, 5]}, "test_blanks names one twice: 5, 5"),
        ("copying", {"lowest_digit": 9}, "lowest_digit must be 0 or 1, got 9"),
        ("adding", {"length": 0}, "length.*number.*1"),
        ("adding", {"length": 9, "min_length": 10}, "min_length.*number.*1.*9.*10"),
        ("adding", {"min_length": 1}, "num_marked 2.* 1 steps"),
        ("adding", {"length": 5, "num_marked": 6}, "num_marked 6.* 5 steps"),
        ("adding", {"test_lengths": [50, True]}, "test_lengths.*number"),
        ("mnist", {"resolution": 29}, "resolution.*number.*4.*28.*29"),
        ("mnist", {"test_resolutions": [14, 1]}, "test_resolutions.*number.*4.*28.*1"),
        ("balls", {"balls": "6-4"}, "balls.*4, 6-8.*4_curtain.*'6-4'"),
        ("balls", {"balls": "four"}, "got 'four'"),
        ("balls", {"test_balls": ["9"]}, r"test_balls 9 .*8 of max_radius 0\.12"),
        ("balls", {"size": 30}, "size 30.*divide.*8"),
        ("balls", {"channels": []}, "channels.*positive"),
        ("balls", {"min_radius": 0.2}, r"radii.*0\.001.*0\.35"),
        ("balls", {"speed": 0.5}, "speed.*0.*min_radius"),
        ("balls", {"feedback": "sampled"}, "feedback must be"),
        ("balls", {"rollout": 0}, "rollout must be"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        make_task(name, **options)
    assert re.search(said, str(refusal.value))
    assert "\n" not in str(refusal.value)
