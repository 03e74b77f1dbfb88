"""Products of all units and all steps at once.

Letters as in `rimrl.cores.base`; tensors of a sequence are ``[N, T, B, ...]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """Gradient ``[N, in, out]`` of unit weights, of ``x [N, T, B, in]`` and ``dy [N, T, B, out]``: one product."""
    return torch.bmm(x.flatten(1, 2).transpose(1, 2), dy.flatten(1, 2))


def batch_first_weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """`weight_gradient` of ``x [T, B, N, in]``."""
    return torch.bmm(x.flatten(0, 1).permute(1, 2, 0), dy.flatten(1, 2))


class _InputProduct(torch.autograd.Function):
    """`input_product` without a copy of its input, or of the input's gradient, for each unit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = x.flatten(0, 1)
        return torch.bmm(rows.expand(len(weight), *rows.shape), weight).view(len(weight), *x.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows, d_rows = x.flatten(0, 1), d_out.flatten(1, 2)
        dx = d_weight = None
        if ctx.needs_input_grad[0]:
            dx = torch.zeros_like(rows)
            for d_unit, unit_weight in zip(d_rows, weight, strict=True):
                dx.addmm_(d_unit, unit_weight.t())
            dx = dx.view_as(x)
        if ctx.needs_input_grad[1]:
            d_weight = torch.bmm(rows.t().expand(len(weight), *rows.t().shape), d_rows)
        return dx, d_weight


def input_product(x: Tensor, weight: Tensor) -> Tensor:
    """An input that all units share times each unit's own matrix.

    Args:
        x: ``[T, B, in]``.
        weight: ``[N, in, out]``.

    Returns:
        ``[N, T, B, out]``.
    """
    product: Tensor = _InputProduct.apply(x, weight)  # type: ignore[no-untyped-call]
    return product
