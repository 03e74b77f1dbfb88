"""LSTM, GRU, RNN, IndRNN and the feed-forward control agree with their transcriptions to 1e-9, gradients included."""

from __future__ import annotations

import numpy as np
import pytest

from rimrl.cores.base import RecurrentCore
from rimrl.cores.feedforward import FeedForward
from rimrl.cores.indrnn import IndRNN
from rimrl.cores.lstm import GRU, LSTM
from rimrl.cores.rnn import RNN
from tests.reference.agreement import assert_close, assert_gradients_agree, assert_values_agree, make_case, run_core
from tests.reference.baselines_numpy import RECURRENT_BOUND, feedforward, rnn
from tests.reference.complex_step import directional_derivative


def layers_of(kind: str, num_layers: int) -> RecurrentCore:
    sizes = {"input_size": 2, "hidden_size": 3, "num_layers": num_layers}
    if kind in ("tanh", "relu"):
        return RNN(**sizes, nonlinearity=kind)  # type: ignore[arg-type]
    if kind == "indrnn":
        return IndRNN(**sizes, max_recurrent_weight=RECURRENT_BOUND)
    return {"lstm": LSTM, "gru": GRU}[kind](**sizes)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh", "relu", "indrnn"])
def test_recurrent_layers(kind: str, num_layers: int) -> None:
    case = make_case(layers_of(kind, num_layers), seed=int(kind == "indrnn"), num_steps=6, memory=kind == "lstm")
    found = run_core(case)
    assert_values_agree(found, rnn(kind, case.point, case.starts))
    without_resets = rnn(kind, case.point, np.zeros_like(case.starts))
    assert np.abs(found.y - without_resets.y).max() > 1e-3
    skip = () if kind == "lstm" else ("c",)
    assert_gradients_agree(case, found, lambda point, starts: rnn(kind, point, starts), skip=skip)
    assert found.trace.active.all()
    assert found.trace.active.shape == (6, 3, 1)


def test_feedforward() -> None:
    case = make_case(FeedForward(input_size=2, hidden_size=3), seed=0, memory=False)
    case.point["h"][:] = 0
    found = run_core(case)
    assert_values_agree(found, feedforward(case.point, case.starts))
    assert_gradients_agree(case, found, feedforward, skip=("h", "c"))


def test_complex_step_is_exact() -> None:
    """Against derivatives known in closed form, so that the yardstick itself is measured."""
    at = {"a": np.array([0.3, -1.2]), "b": np.array(0.7)}
    direction = {"a": np.array([2.0, -0.5])}
    slope = directional_derivative(
        lambda p: complex(np.sum(np.tanh(p["a"]) * p["b"]) + np.exp(p["a"][0])), at, direction
    )
    expected = np.sum((1 - np.tanh(at["a"]) ** 2) * 0.7 * direction["a"]) + np.exp(0.3) * 2.0
    assert_close(np.array(slope), np.array(expected), "closed form")
