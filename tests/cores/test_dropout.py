"""Dropout in whole sequences: what each step draws is drawn at once, and does there what it does in the step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rimrl.cores.base import RecurrentCore
from rimrl.cores.unchanging import unchanging_weights
from tests import paths
from tests.cores.builders import BRIMS, RIM, CoreSpec, build, randomise
from tests.cores.test_scan import B, T, assert_same, everything, problem

BOTH = {"input_dropout": 0.5, "communication_dropout": 0.5}
SPECS: dict[str, CoreSpec] = {
    "rim": ("rim", {**RIM, **BOTH}),
    "rim, residual, gru, competition of units": (
        "rim",
        {**RIM, **BOTH, "communication": "residual", "dynamics": "gru", "competition": "units"},
    ),
    "rim, two heads": ("rim", {**RIM, **BOTH, "input_heads": 2}),
    "rim, three elements": ("rim", {**RIM, **BOTH, "num_inputs": 3, "input_heads": 2}),
    "rim, three elements, competition of units": (
        "rim",
        {**RIM, **BOTH, "num_inputs": 3, "competition": "units"},
    ),
    "rim, no input attention": ("rim", {**RIM, **BOTH, "input_attention": False, "num_active": None}),
    "brims": ("brims", {**BRIMS, **BOTH}),
}
every_core = pytest.mark.parametrize("name", SPECS)


class Fixed(nn.Dropout):
    """Leaves out what it is told to, in a step as in a whole sequence.

    Args:
        scales: ``[T, N, B, D]`` for messages, ``[T, N, B, H, M]`` for what is read.
    """

    def __init__(self, scales: Tensor) -> None:
        super().__init__(0.5)
        self.scales, self.step = scales, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.shape == self.scales.shape:
            assert bool((x == 1).all())
            return self.scales
        own = self.scales[self.step % len(self.scales)].transpose(0, 1)
        self.step += 1
        if own.dim() == 3:  # of messages, [B, N, D]
            return x * own
        null = own.new_ones(*own.shape[:-1], 1)
        return x * torch.cat([null, own], dim=-1).transpose(1, 2)  # [B, H, N, 1 + M]


def fix(core: RecurrentCore, p: Any) -> int:
    """Replace every dropout of a core by one that draws nothing; returns how many there were."""
    found = [(name, module) for name, module in core.named_modules() if isinstance(module, nn.Dropout)]
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name, _ in found}
    hooks = [m.register_forward_hook(lambda _, a, out, n=n: shapes[n].append(tuple(out.shape))) for n, m in found]
    with paths.on("torch"):
        core(p.x)
    for hook in hooks:
        hook.remove()
    generator = torch.Generator().manual_seed(9)
    for name, _ in found:
        (shape,) = set(shapes[name])
        scales = torch.bernoulli(torch.full(shape, 0.6, dtype=torch.float64), generator=generator) / 0.6
        parent, _, attribute = name.rpartition(".")
        setattr(core.get_submodule(parent), attribute, Fixed(scales))
    return len(found)


@every_core
@paths.every_fast_path
def test_the_same_as_step_by_step(name: str, path: str) -> None:
    """Given the same to leave out: outputs, states, traces and all gradients."""
    core = randomise(build(SPECS[name]))
    p = problem(core)._replace(starts=None)
    assert fix(core, p) == {"brims": 4, "rim, no input attention": 1}.get(name, 2)
    with paths.on("step"):
        expected = everything(p)
    with paths.on(path):
        assert_same(everything(p), expected)


@every_core
@paths.every_fast_path
def test_every_step_draws_anew_what_the_seed_says(name: str, path: str) -> None:
    """Where all steps start from the same state on the same input, they differ by what is left out alone."""
    core = randomise(build(SPECS[name]))
    x = problem(core).x
    same, starts = x[:1].expand(T, *x.shape[1:]), torch.ones(T, B, dtype=torch.bool)
    with paths.on(path):
        outputs = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            outputs.append(core(same, None, starts)[0])
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[0], outputs[2])
        assert len({tuple(y.mul(1e9).round().flatten().tolist()) for y in outputs[0]}) > T // 2
        core.eval()
        quiet, _ = core(same, None, starts)
        torch.testing.assert_close(quiet, quiet[:1].expand_as(quiet), rtol=0.0, atol=1e-12)


@paths.every_fast_path
@pytest.mark.parametrize("option", BOTH)
def test_as_much_is_left_out_as_was_asked_for(path: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    original = nn.Dropout.forward

    def forward(self: nn.Dropout, x: Tensor) -> Tensor:
        drawn.append(original(self, x))
        return drawn[-1]

    monkeypatch.setattr(nn.Dropout, "forward", forward)
    core = build(("rim", {**RIM, option: 0.2}))
    torch.manual_seed(0)
    with paths.on(path):
        core(problem(core, 200, 30).x)
    (scales,) = drawn
    zero = scales == 0
    assert torch.allclose(scales[~zero], torch.tensor(1.25, dtype=scales.dtype))
    deviation = math.sqrt(0.2 * 0.8 / zero.numel())
    assert float(zero.double().mean()) == pytest.approx(0.2, abs=4 * deviation)


@paths.every_fast_path
def test_acting_steps_in_training_mode_draw_anew(path: str) -> None:
    """Even where weights are prepared once for many steps."""
    core = randomise(build(SPECS["rim"]))
    x = problem(core).x[:1]
    torch.manual_seed(0)
    state = core(problem(core).x)[1]
    with paths.on(path), torch.no_grad(), unchanging_weights():
        assert len({tuple(core(x, state)[0].flatten().tolist()) for _ in range(12)}) > 6
        core.eval()
        assert len({tuple(core(x, state)[0].flatten().tolist()) for _ in range(3)}) == 1
