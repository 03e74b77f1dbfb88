"""Time of the cores at equal width, beside `torch.nn.LSTM`: whole sequences, single steps, and how cost grows.

python -m benchmarks.cores --rounds 9 --json docs/benchmarks/cores.json --plot docs/benchmarks/cores.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks._timing import Spread, Timing, interleave, markdown_table, write_json
from rimrl.cores.backends import use_backend
from rimrl.cores.registry import make_core
from rimrl.cores.unchanging import unchanging_weights

INPUT_SIZE = 512
WIDTH = 600
"""The RIM paper's six units of 100."""
RIM = {"num_units": 6, "num_active": 4, "hidden_size": WIDTH}
CORES: dict[str, dict[str, Any]] = {
    "rim": RIM,
    "riglstm": {"num_units": 6, "num_active": 5, "hidden_size": WIDTH},
    "brims": {"num_layers": 2, "num_units": 6, "num_active": 4, "hidden_size": WIDTH},
    "rmc": {"num_slots": 4, "slot_size": WIDTH // 4, "num_heads": 5},
    "lstm": {"hidden_size": WIDTH},
    "gru": {"hidden_size": WIDTH},
}
PEER = "torch.nn.LSTM"
STEP_LOOP = "rim, step by step"

Workload = Callable[[], object]


def sequence(module: nn.Module, num_steps: int, batch_size: int, device: str, resets: bool = False) -> Workload:
    """Forward and backward over a sequence, gradients of the input included, as under a feature extractor."""
    x = torch.randn(num_steps, batch_size, *_input_shape(module), device=device, requires_grad=True)
    starts: tuple[Tensor, ...] = ()
    if resets:
        starts = (torch.rand(num_steps, batch_size, device=device) < 1 / 50,)
    weight: Tensor | None = None

    def run() -> None:
        nonlocal weight
        module.zero_grad()
        x.grad = None
        y = module(x, None, *starts)[0]
        if weight is None:
            weight = torch.randn_like(y)
        y.backward(weight)

    return run


def forward(module: nn.Module, num_steps: int, batch_size: int, device: str) -> Workload:
    """Forward alone, without gradient."""
    x = torch.randn(num_steps, batch_size, *_input_shape(module), device=device)

    @torch.no_grad()
    def run() -> None:
        module(x)

    return run


def acting(module: nn.Module, batch_size: int, device: str) -> Workload:
    """One step of every environment, without gradient, from a state in the midst of an episode."""
    x = torch.randn(1, batch_size, *_input_shape(module), device=device)
    with torch.no_grad():
        _, state = module(torch.randn(4, batch_size, *_input_shape(module), device=device))

    @torch.no_grad()
    def run() -> None:
        module(x, state)

    return run


def rollout(step: Workload, num_steps: int) -> Workload:
    """Several acting steps, between which weights do not change."""

    def run() -> None:
        with unchanging_weights():
            for _ in range(num_steps):
                step()

    return run


def _input_shape(module: nn.Module) -> tuple[int, ...]:
    """Of a step's input; torch's own layers read one element."""
    input_size: Any = module.input_size
    num_inputs: Any = getattr(module, "num_inputs", 1)
    return (input_size,) if num_inputs == 1 else (num_inputs, input_size)


def by_steps(workload: Workload) -> Workload:
    """The same on the plain step."""

    def run() -> None:
        with use_backend("step"):
            workload()

    return run


def modules(names: Iterable[str], device: str) -> dict[str, nn.Module]:
    """Torch's LSTM and the cores, all of the same width."""
    made: dict[str, nn.Module] = {PEER: nn.LSTM(INPUT_SIZE, WIDTH)}
    made.update((name, make_core(name, INPUT_SIZE, **CORES[name])) for name in names)
    return {name: module.to(device) for name, module in made.items()}


def against_peer(timings: Mapping[str, Timing], times: int = 1) -> list[dict[str, object]]:
    """Rows of a table: milliseconds, and time as a multiple of torch's LSTM."""
    return [
        {
            "core": name,
            "ms": scaled(timing.seconds(), 1e3 / times),
            "CPU ms": scaled(timing.cpu_seconds(), 1e3 / times),
            "x LSTM's time": timings[PEER].speedup_over(timing),
            "x LSTM's CPU time": timings[PEER].cpu_speedup_over(timing),
        }
        for name, timing in timings.items()
    ]


def scaled(spread: Spread, factor: float) -> Spread:
    """The same in another unit."""
    return Spread(spread.median * factor, spread.low * factor, spread.high * factor)


def compare(rounds: int, device: str, quick: bool) -> dict[str, Any]:
    """All cores beside torch's LSTM; when quick, RIM and RigLSTM, where it matters most."""
    results: dict[str, Any] = {}
    every = modules(("rim", "riglstm") if quick else CORES, device)
    kinds = [("forward", forward), ("forward + backward", sequence)]
    for batch_size in (8, 64):
        for kind, make in kinds[1:] if quick else kinds:
            workloads = {name: make(module, 128, batch_size, device) for name, module in every.items()}
            if not quick:
                workloads[STEP_LOOP] = by_steps(make(every["rim"], 128, batch_size, device))
            results[f"{kind}, T=128, B={batch_size}"] = against_peer(interleave(workloads, rounds))
    workloads = {
        name: sequence(module, 128, 16, device, resets=name != PEER)
        for name, module in every.items()
        if name in (PEER, "rim", "riglstm", "lstm", "gru")
    }
    title = "forward + backward, T=128, B=16, an episode every 50 steps (torch's LSTM: none)"
    results[title] = against_peer(interleave(workloads, rounds))
    for batch_size in (8, 16):
        workloads = {name: acting(module, batch_size, device) for name, module in every.items()}
        workloads[STEP_LOOP] = by_steps(acting(every["rim"], batch_size, device))
        timings = interleave({name: rollout(w, 50) for name, w in workloads.items()}, rounds)
        results[f"one acting step, B={batch_size}"] = against_peer(timings, 50)
    return results


TICKS_MS = (10, 30, 100, 300, 1000)
Sweep = tuple[str, list[int], Callable[[int], dict[str, Workload]]]


def sweeps(device: str) -> list[Sweep]:
    """What is varied, its values, and the workloads for each value."""

    def rim(**options: Any) -> nn.Module:
        return make_core("rim", INPUT_SIZE, **{**RIM, **options}).to(device)

    lstm, core = nn.LSTM(INPUT_SIZE, WIDTH).to(device), rim()

    def pair(num_steps: int = 128, batch_size: int = 16, **options: Any) -> dict[str, Workload]:
        of_rim = rim(**options) if options else core
        return {
            PEER: sequence(lstm, num_steps, batch_size, device),
            "rim": sequence(of_rim, num_steps, batch_size, device),
        }

    def of_width(width: int) -> dict[str, Workload]:
        sides = {PEER: nn.LSTM(INPUT_SIZE, width).to(device), "rim": rim(hidden_size=width)}
        return {name: sequence(module, 128, 16, device) for name, module in sides.items()}

    return [
        ("time steps T", [16, 32, 64, 128, 256], lambda value: pair(num_steps=value)),
        ("batch rows B", [4, 8, 16, 32, 64, 128], lambda value: pair(batch_size=value)),
        ("units N, width 600", [2, 4, 6, 10, 12, 20], lambda n: pair(num_units=n, num_active=max(1, 2 * n // 3))),
        ("active units K of 6", [1, 2, 3, 4, 5, 6], lambda k: pair(num_active=k)),
        ("width N D, 6 units", [120, 300, 600, 1200], of_width),
    ]


def grow(rounds: int, device: str) -> dict[str, list[dict[str, Any]]]:
    """How the time of forward and backward grows; T=128, B=16, N=6, K=4, width 600 where not said otherwise."""
    results: dict[str, list[dict[str, Any]]] = {}
    for title, values, make in sweeps(device):
        rows = []
        for value in values:
            timings = interleave(make(value), rounds)
            rows.append(
                {
                    title: value,
                    "rim ms": scaled(timings["rim"].seconds(), 1e3),
                    "LSTM ms": scaled(timings[PEER].seconds(), 1e3),
                    "rim / LSTM": timings[PEER].speedup_over(timings["rim"]),
                }
            )
        results[title] = rows
    return results


def plot(growth: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """One panel a sweep, log-log on one scale of time, so that linear growth has slope one."""
    figure = Figure(figsize=(3.2 * len(growth), 3.2), layout="constrained")
    for index, (title, rows) in enumerate(growth.items()):
        axes = figure.add_subplot(1, len(growth), index + 1)
        values = [row[title] for row in rows]
        for label, key, color in (("RIM", "rim ms", "#0072b2"), ("torch.nn.LSTM", "LSTM ms", "#999999")):
            middle = [row[key].median for row in rows]
            axes.plot(values, middle, "o-", color=color, label=label)
            axes.fill_between(values, [r[key].low for r in rows], [r[key].high for r in rows], color=color, alpha=0.2)
        axes.set(xscale="log", yscale="log", xlabel=title, ylim=(10, 2000))
        axes.set_xticks(values, [str(value) for value in values])
        axes.set_yticks(TICKS_MS, [str(tick) for tick in TICKS_MS] if index == 0 else [])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        if index == 0:
            axes.set_ylabel("forward + backward, ms")
            axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each side (default 9)")
    parser.add_argument("--device", default="cpu", help="torch device (default cpu)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own)")
    parser.add_argument("--quick", action="store_true", help="three rounds, RIM and RigLSTM only")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--plot", type=Path, help="where to draw how cost grows")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rounds = 3 if arguments.quick else arguments.rounds
    compiled = make_core("rim", INPUT_SIZE).to(arguments.device).backends["native"] is None
    print(f"kernels: {'compiled' if compiled else 'none, torch operations'}; input {INPUT_SIZE}, width {WIDTH}\n")
    results: dict[str, Any] = {"kernels": compiled, "compare": compare(rounds, arguments.device, arguments.quick)}
    for title, rows in results["compare"].items():
        print(f"### {title}\n\n{markdown_table(rows)}\n", flush=True)
    if not arguments.quick:
        results["growth"] = grow(max(3, rounds // 2), arguments.device)
        for title, rows in results["growth"].items():
            print(f"### {title}\n\n{markdown_table(rows)}\n", flush=True)
        if arguments.plot is not None:
            plot(results["growth"], arguments.plot)
    if arguments.json is not None:
        write_json(arguments.json, "cores", {"rounds": rounds, "device": arguments.device}, results)


if __name__ == "__main__":
    main()
