"""The compiled kernels' own functions are right over the whole range of numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.scan.layout import MAX_UNITS
from rimrl.cores.scan.library import kernels
from tests import paths

pytestmark = pytest.mark.skipif(not paths.compiled(), reason="no kernels were compiled")
DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 3e-7, torch.float64: 1e-15}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
EXTREMES = (
    *(0.0, 1e-45, 1e-40, 1e-38, 1e-310, 1e-30, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1),
    *(0.5, math.log(2), 1.0, 2.0, 5.0, 8.0, 9.0, 10.0, 16.0, 17.0, 18.0, 36.0, 40.0, 43.0, 44.0, 45.0),
    *(86.9, 87.0, 87.1, 87.9, 88.0, 88.1, 88.8, 103.0, 104.0, 708.0, 710.0, 745.0, 746.0, 1e3, 1e4, 1e30, 1e38),
    math.inf,
)


def numbers(dtype: torch.dtype) -> Tensor:
    """Extremes of both signs and what lies between, in order."""
    positive = torch.cat([torch.tensor(EXTREMES, dtype=torch.float64), torch.linspace(0, 100, 4001).double()])
    positive = positive.sort().values
    return torch.cat([-positive.flip(0), positive]).to(dtype)


def lstm(gates: Tensor, c: Tensor, active: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One unit, one row: the activations ``[4, D]`` of ``gates [4, D]``, tanh of the new c, the new h and c."""
    D = gates.shape[1]
    activations, c = gates.clone().contiguous(), c.contiguous()
    mask = torch.full((1,), float(active), dtype=gates.dtype)
    tanh_c, h, c_out = (torch.full_like(c, math.nan) for _ in range(3))
    k: Any = kernels(gates)
    pointers = [t.data_ptr() for t in (activations, c, mask, tanh_c, h, c_out)]
    k.lstm(1, 1, D, pointers[0], pointers[1], D, pointers[2], pointers[3], pointers[4], D, pointers[5], D)
    return activations, tanh_c, h, c_out


@every_dtype
def test_sigmoid_and_tanh(dtype: torch.dtype) -> None:
    x = numbers(dtype)
    activations, *_ = lstm(x.repeat(4, 1), torch.zeros_like(x))
    i, f, g, o = activations
    for found, function in ((i, torch.sigmoid), (f, torch.sigmoid), (g, torch.tanh), (o, torch.sigmoid)):
        torch.testing.assert_close(found, function(x), rtol=0.0, atol=TOLERANCE[dtype])
        assert (found.diff() >= -TOLERANCE[dtype]).all(), "not monotonous"
    assert ((i >= 0) & (i <= 1)).all()
    assert (g.abs() <= 1).all()


@every_dtype
def test_tanh_is_odd_and_zero_stays_zero(dtype: torch.dtype) -> None:
    x = numbers(dtype)
    up, down = (lstm((sign * x).repeat(4, 1), torch.zeros_like(x))[0][2] for sign in (1, -1))
    assert torch.equal(up, -down)
    assert torch.all(up[x == 0] == 0)


def test_small_sigmoids_keep_their_relative_precision() -> None:
    """Where sigmoid is the exponential itself, over the range in which single precision has full precision."""
    x = torch.linspace(-87.0, -20.0, 100_001)
    activations, *_ = lstm(x.repeat(4, 1), torch.zeros_like(x))
    torch.testing.assert_close(activations[0].double(), x.double().exp(), rtol=3e-7, atol=0.0)


@every_dtype
@pytest.mark.parametrize("width", [*range(1, 20), 31, 32, 33, 100])
def test_the_cell_at_every_width(width: int, dtype: torch.dtype) -> None:
    """Against torch's own cell, with weights of zero so that its gates are its biases."""
    torch.manual_seed(width)
    gates, c = 3 * torch.randn(4, width, dtype=dtype), 3 * torch.randn(width, dtype=dtype)
    cell = torch.nn.LSTMCell(1, width).to(dtype)
    with torch.no_grad():
        for name, p in cell.named_parameters():
            p.copy_(gates.flatten() if name == "bias_ih" else torch.zeros_like(p))
        h_expected, c_expected = cell(torch.zeros(1, 1, dtype=dtype), (torch.zeros(1, width, dtype=dtype), c[None]))
    _, tanh_c, h, c_new = lstm(gates, c)
    tolerance = 4 * TOLERANCE[dtype]
    torch.testing.assert_close(h, h_expected[0], rtol=0.0, atol=tolerance)
    torch.testing.assert_close(c_new, c_expected[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(tanh_c, c_expected[0].tanh(), rtol=0.0, atol=tolerance)
    *_, kept = lstm(gates, c, active=False)
    assert torch.equal(kept, c)


@every_dtype
def test_not_a_number_stays_one(dtype: torch.dtype) -> None:
    """So that it is reported, not clamped away."""
    for width in (1, 5, 16, 33):
        x = torch.zeros(width, dtype=dtype)
        x[width // 2] = math.nan
        activations, *_ = lstm(x.repeat(4, 1), torch.zeros_like(x))
        assert torch.equal(activations.isnan(), x.isnan().expand(4, -1))


def attend(
    query: Tensor, key: Tensor, value: Tensor, kept: int = MAX_UNITS, others_only: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention ``[B, H, N, N]`` and what is read ``[N, B, H, dv]``, of ``[N, B, H, dk or dv]``."""
    N, B, H, dk = query.shape
    dv = value.shape[3]
    qkv = torch.cat([part.flatten(2) for part in (query, key, value)], dim=-1).contiguous()
    attention, read = query.new_full((B, H, N, N), math.nan), query.new_full((N, B, H, dv), math.nan)
    k: Any = kernels(query)
    k.attend(N, B, H, dk, dv, kept, others_only, qkv.data_ptr(), attention.data_ptr(), read.data_ptr())
    return attention, read


@every_dtype
def test_softmax_of_any_scores(dtype: torch.dtype) -> None:
    """Two units, of which the first has query 1: its attention to the second is a softmax over 0 and the score."""
    scores = numbers(dtype)
    scores = scores[scores.isfinite() & (scores.abs() < 1e30)]
    query = torch.ones(2, len(scores), 1, 1, dtype=dtype)
    key = torch.stack([torch.zeros_like(scores), scores])[..., None, None]
    attention, _ = attend(query, key, key)
    expected = torch.stack([torch.zeros_like(scores), scores], dim=-1).softmax(-1)
    for reader in range(2):
        torch.testing.assert_close(attention[:, 0, reader], expected, rtol=0.0, atol=TOLERANCE[dtype])


@every_dtype
@pytest.mark.parametrize(
    ("N", "B", "H", "dk", "dv"),
    [(1, 1, 1, 1, 1), (2, 3, 1, 1, 5), (5, 2, 3, 17, 1), (33, 2, 2, 3, 7), (64, 2, 4, 32, 32)],
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_attention_of_any_size(N: int, B: int, H: int, dk: int, dv: int, scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(N, B, H, d, dtype=dtype) for d in (dk, dk, dv))
    query *= scale
    attention, read = attend(query, key, value)
    q, k, v = (t.permute(1, 2, 0, 3).double() for t in (query, key, value))
    expected = (q @ k.transpose(-1, -2) / math.sqrt(dk)).softmax(-1)
    tolerance = (1e-4 if dtype == torch.float32 else 1e-12) * scale
    torch.testing.assert_close(attention.double(), expected, rtol=0.0, atol=tolerance)
    torch.testing.assert_close(read.permute(1, 2, 0, 3).double(), expected @ v, rtol=0.0, atol=tolerance)
    torch.testing.assert_close(attention.sum(-1), torch.ones(B, H, N, dtype=dtype))


@every_dtype
@pytest.mark.parametrize("others_only", [False, True])
@pytest.mark.parametrize("kept", [1, 2, 5, 6])
def test_attention_to_the_largest_scores(kept: int, others_only: bool, dtype: torch.dtype) -> None:
    """Scores from a few values only, so that they tie, against a stable sort."""
    torch.manual_seed(0)
    N, B, H = 6, 40, 2
    query, key = (torch.randint(-1, 2, (N, B, H, 1)).to(dtype) for _ in range(2))
    value = torch.randn(N, B, H, 3, dtype=dtype)
    attention, read = attend(query, key, value, kept, others_only)
    q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))
    scores = q @ k.transpose(-1, -2)
    if others_only:
        scores = scores.masked_fill(torch.eye(N, dtype=torch.bool), -math.inf)
    order = scores.sort(dim=-1, descending=True, stable=True).indices[..., : min(kept, N - others_only)]
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)
    expected = scores.masked_fill(~chosen, -math.inf).softmax(-1)
    assert torch.equal(attention > 0, chosen)
    torch.testing.assert_close(attention, expected, rtol=0.0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(read.permute(1, 2, 0, 3), expected @ v)


@every_dtype
def test_ties_go_to_the_lowest_index(dtype: torch.dtype) -> None:
    """Scores from a few values only, against a stable sort."""
    torch.manual_seed(0)
    scores = torch.randint(-1, 2, (MAX_UNITS, 50)).to(dtype)
    k: Any = kernels(scores)
    for num_active in (1, 2, 21, 43, 63, 64):
        mask = torch.full_like(scores, math.nan)
        k.choose(*scores.shape, num_active, scores.data_ptr(), mask.data_ptr())
        winners = scores.sort(dim=0, descending=True, stable=True).indices[:num_active]
        assert torch.equal(mask, torch.zeros_like(mask).scatter(0, winners, 1.0))
