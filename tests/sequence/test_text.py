"""Text: streams, counts, splits and refusals, against answers derived here."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from safetensors.torch import load_file

from rimrl.cores.registry import make_core
from rimrl.errors import UsageError
from rimrl.reading import read_json
from rimrl.sequence.count_model import CountModel
from rimrl.sequence.model import SequenceModel
from rimrl.sequence.text import Text
from rimrl.sequence.text_files import END_OF_LINE, UNKNOWN
from tests.commands import call, succeed
from tests.sequence.small import make_text
from tests.sequence.test_tasks import Constant, model_of

SMALL = (
    *("text", "--core.hidden_size", "12", "--core.num_units", "3", "--core.num_active", "2"),
    *("--core.input_value_size", "4", "--model.embedding_size", "4", "--train.batch_size", "3", "--task.length", "5"),
    *("--task.test_length", "20", "--train.test_sequences", "70", "--train.log_freq", "1", "--quiet"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_text(tmp_path / "text.txt", words=300)


def text(file: Path, **options: Any) -> Text:
    return Text(**{"data": str(file), "length": 7, "test_length": 20, **options})


def written(task: Text, symbols: th.Tensor) -> str:
    return "".join(task.corpus.vocabulary[number] for number in symbols.tolist())


# -- what is read -----------------------------------------------------------------------------------------------------


def test_the_end_of_the_file_is_held_out(file: Path) -> None:
    task, whole = text(file, test_share=0.25), file.read_text()
    read = "".join(task.corpus.vocabulary[number] for number in np.concatenate([task.corpus.train, task.corpus.test]))
    assert read == whole
    assert len(task.corpus.test) == round(len(whole) / 4)
    assert [(split.name, split.held_out) for split in task.splits] == [("train", False), ("test", True)]


def test_what_training_does_not_hold_is_unknown(tmp_path: Path) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    train.write_text("b a a\nb  a c\n" * 3)
    test.write_text("a d b\n" * 3)
    task = text(train, test_data=str(test), level="word", length=2, test_length=5)
    assert task.corpus.vocabulary == (UNKNOWN, "a", END_OF_LINE, "b", "c")
    assert task.corpus.test.tolist() == [1, 0, 3, 2] * 3
    fewer = text(train, test_data=str(test), level="word", length=2, test_length=5, vocabulary_size=3)
    assert fewer.corpus.test.tolist() == [1, 0, 0, 2] * 3


# -- training reads on, update by update ------------------------------------------------------------------------------


def test_updates_of_an_epoch_read_streams_that_cover_the_text(file: Path) -> None:
    task, batch_size = text(file), 4
    length = (len(task.corpus.train) - 1) // (batch_size * task.length)
    batches = [task.training_batch(5, update, batch_size) for update in range(length + 1)]
    assert [task.continues(update, batch_size) for update in range(length + 1)] == [False] + [True] * (length - 1) + [
        False
    ]
    for before, after in itertools.pairwise(batches[:-1]):
        assert th.equal(before.targets[-1], after.inputs[0])
    read = [written(task, th.cat([batch.inputs[:, row] for batch in batches[:-1]])) for row in range(batch_size)]
    around = written(task, th.from_numpy(task.corpus.train)) * 2
    assert all(stream in around for stream in read)
    shown = th.cat([batch.inputs for batch in batches[:-1]]).numel()
    assert len(task.corpus.train) - shown <= batch_size * task.length
    assert not th.equal(batches[0].inputs, batches[-1].inputs)
    assert not th.equal(batches[0].inputs, task.training_batch(6, 0, batch_size).inputs)


def test_the_state_goes_on_and_gradients_do_not(file: Path) -> None:
    short, long = text(file, length=6), text(file, length=12)
    model = model_of(short)
    first, second = (short.training_batch(1, update, 3) for update in (0, 1))
    whole = long.training_batch(1, 0, 3)
    assert th.equal(th.cat([first.inputs, second.inputs]), whole.inputs)
    loss, state = short.loss_from(model, first, None)
    assert state is not None
    following, _ = short.loss_from(model, second, (state[0].detach(), state[1].detach()))
    th.testing.assert_close((loss + following) / 2, long.loss(model, whole))


@pytest.mark.parametrize("core", ["rim", "lstm"])
def test_a_resumed_run_is_the_same_to_the_bit(core: str, file: Path, tmp_path: Path) -> None:
    small = SMALL if core == "rim" else (*SMALL[:3], *SMALL[9:])
    options = (*small, "--core", core, "--data", file, "--train.learning_rate_schedule", "constant")
    succeed("sequence", *options, "--num-updates", "9", "--run-dir", tmp_path / "whole")
    succeed("sequence", *options, "--num-updates", "4", "--run-dir", tmp_path / "two")
    succeed("sequence", "--resume", tmp_path / "two", "--num-updates", "9", "--quiet")
    resumed, uninterrupted = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "whole"))
    assert all(th.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


# -- scores -----------------------------------------------------------------------------------------------------------


def test_a_guess_by_frequency_scores_the_chance(file: Path) -> None:
    task = text(file)
    counts = np.bincount(task.corpus.train, minlength=len(task.corpus.vocabulary)) + 1.0
    model = model_of(task, Constant(th.from_numpy(np.log(counts)).float()))
    for split in task.splits:
        available = task.num_sequences(split)
        assert available is not None
        batch = task.evaluation_batch(split, 0, 0, available)
        whole = written(task, batch.targets.t().flatten())
        assert len(whole) == available * 20
        bits = -np.log2(counts / counts.sum())
        expected = bits[batch.targets.numpy()].mean()
        assert task.scores(model, batch).metric.mean().item() == pytest.approx(expected, rel=1e-5)
        assert split.chance == pytest.approx(bits[task._part(split.name)].mean())


def test_stretches_of_a_test_are_each_read_once(file: Path) -> None:
    task = text(file, test_length=11)
    test = task.splits[1]
    available = task.num_sequences(test)
    assert available is not None
    batches = [task.evaluation_batch(test, 3, number, 4) for number in range(-(-available // 4))]
    starts = sorted(written(task, row) for batch in batches for row in batch.inputs.t())
    whole = written(task, th.from_numpy(task.corpus.test))
    assert starts == sorted(whole[begin : begin + 11] for begin in range(0, 11 * available, 11))


def slow_probability(text: list[int], context: tuple[int, ...], symbol: int, num_symbols: int) -> float:
    """Witten and Bell's interpolation, as it is defined."""
    below = slow_probability(text, context[1:], symbol, num_symbols) if context else 1 / num_symbols
    size = len(context)
    followers = Counter(text[i + size] for i in range(len(text) - size) if tuple(text[i : i + size]) == context)
    total, kinds = followers.total(), len(followers)
    return (followers[symbol] + kinds * below) / (total + kinds) if total else below


@pytest.mark.parametrize("order", [0, 1, 3])
def test_counts_are_interpolated_as_defined(order: int) -> None:
    stream = np.random.default_rng(order)
    train, shown = stream.integers(0, 4, 60), stream.integers(0, 5, (9, 2))
    bits = CountModel(train, 5, order).bits(shown)
    for row, column in itertools.product(range(8), range(2)):
        context = tuple(shown[max(0, row + 1 - order) : row + 1, column].tolist())
        expected = -math.log2(slow_probability(train.tolist(), context, int(shown[row + 1, column]), 5))
        assert bits[row, column] == pytest.approx(expected)


def test_probabilities_of_counts_add_up_to_one() -> None:
    train = np.random.default_rng(0).integers(0, 4, 200)
    model = CountModel(train, 5)
    sums: dict[int, float] = defaultdict(float)
    for symbol in range(5):
        for begin in range(5):
            shown = np.array([begin, 1, 2, symbol])[:, None]
            sums[begin] += float(2.0 ** -model.bits(shown)[-1, 0])
    assert list(sums.values()) == pytest.approx([1.0] * 5)


def test_a_run_says_bits_perplexity_and_counts(file: Path, tmp_path: Path) -> None:
    succeed("sequence", *SMALL, "--data", file, "--num-updates", "2", "--run-dir", tmp_path / "run")
    succeed("compare", tmp_path / "run", "--json", tmp_path / "compared.json")
    assert read_json(tmp_path / "compared.json")["metric"]["name"] == "bits_per_symbol"
    splits = read_json(tmp_path / "run/evaluation.json")["splits"]
    assert list(splits) == ["train", "test"]
    for split in splits.values():
        assert split["perplexity"] == pytest.approx(2 ** split["bits_per_symbol"])
        assert 0 < split["count_model_bits"] < split["random_bits_per_symbol"]
        assert 0 <= split["symbols_right"] <= 1


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_model_is_not_tested_on_another_text(file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("sequence", *SMALL, "--data", file, "--num-updates", "2", "--run-dir", run)
    before = (run / "evaluation.json").read_bytes()
    file.write_text(file.read_text()[::-1])
    answer = call("evaluate", run, "--quiet")
    assert answer.code == 2
    assert "task.data" in answer.err
    assert (run / "evaluation.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "text.txt.*task.data.*empty"),
        (b" \n\n", "text.txt.*task.data.*empty"),
        (b"ab\xff", "text.txt.*byte 2.*UTF-8"),
        (b"a\0b" * 99, "text.txt.*byte 0"),
        (b"abc", "train.*3.*test_length 20"),
        (None, "text.txt.*task.data"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes | None, found: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=found):
        text(file)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"level": "byte"}, "level.*'character'.*'word'.*'byte'"),
        ({"length": 0}, "length.*number.*1.*0"),
        ({"test_share": 1.0}, "test_share.*0 and 1.*1.0"),
        ({"vocabulary_size": 1000}, "vocabulary_size.*2.*1000"),
        ({"count_order": 60}, "count_order.*60"),
        ({"count_order": -1}, "count_order.*-1"),
        ({"test_data": "nowhere"}, "nowhere.*task.test_data"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], found: str, file: Path) -> None:
    with pytest.raises(UsageError, match=found):
        text(file, **options)


def test_more_streams_than_the_text_has(file: Path) -> None:
    task = text(file)
    with pytest.raises(UsageError, match=r"batch_size 1000.*7.*7001"):
        task.check_batch_size(1000)


def test_a_text_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIMRL_TEXT", raising=False)
    answer = call("sequence", "text", "--quiet")
    assert answer.code == 2
    assert "--data" in answer.err


def test_one_hot_symbols(file: Path) -> None:
    task = text(file)
    encoder, width = task.make_encoder(None)
    model = SequenceModel(encoder, make_core("lstm", width, hidden_size=4), task.make_decoder(4))
    assert width == len(task.corpus.vocabulary)
    assert math.isfinite(float(task.loss(model, task.training_batch(0, 0, 2))))
