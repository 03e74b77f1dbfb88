"""Time of a core on each of its backends, beside `torch.nn.LSTM` of equal width: sequences, and single acting steps.

python -m benchmarks.backends brims --width 96 240 --threads 1
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks._timing import interleave, markdown_table
from benchmarks.cores import PEER, Workload, acting, against_peer, rollout, sequence
from rimrl.cores.backends import use_backend
from rimrl.cores.base import RecurrentCore
from rimrl.cores.registry import make_core

ACTING_STEPS = 50


def on(backend: str, workload: Workload) -> Workload:
    """A workload on one backend."""

    def run() -> None:
        with use_backend(backend):
            workload()

    return run


def compare(
    core: RecurrentCore,
    peers: Mapping[str, nn.Module],
    make: Callable[[nn.Module], Workload],
    rounds: int,
    times: int,
) -> list[dict[str, object]]:
    """Rows of a table: torch's LSTM and other peers, and the core on every backend that it can run on."""
    workloads = {name: make(peer) for name, peer in peers.items()}
    workloads |= {
        name: on(name, make(core)) for name, unsupported_reason in core.backends.items() if unsupported_reason is None
    }
    timings = interleave({name: rollout(workload, times) for name, workload in workloads.items()}, rounds)
    return against_peer(timings, times)


def sequence_parser(description: str | None) -> argparse.ArgumentParser:
    """Options of what is timed; the caller adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("core", help="name of a core")
    parser.add_argument("--input-size", type=int, default=128, help="width of the input (default 128)")
    parser.add_argument("--num-steps", type=int, default=32, help="time steps of a sequence (default 32)")
    parser.add_argument("--batch-size", type=int, default=16, help="batch rows (default 16)")
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each side (default 9)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own)")
    return parser


def main() -> None:
    parser = sequence_parser(__doc__)
    parser.add_argument("--width", type=int, nargs="+", default=[96], help="hidden_size of both (default 96)")
    parser.add_argument(
        "--num-inputs", type=int, default=1, help="elements of the input; with more, also the core of one"
    )
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    T, B = arguments.num_steps, arguments.batch_size
    kinds: dict[str, tuple[Callable[[nn.Module], Workload], int]] = {
        f"forward + backward, T={T}, B={B}": (lambda module: sequence(module, T, B, "cpu"), 1),
        f"one acting step, B={B}": (lambda module: acting(module, B, "cpu"), ACTING_STEPS),
    }
    for width in arguments.width:
        options: dict[str, Any] = {"hidden_size": width}
        peers: dict[str, nn.Module] = {PEER: nn.LSTM(arguments.input_size, width)}
        if arguments.num_inputs > 1:
            peers["of one element"] = make_core(arguments.core, arguments.input_size, **options)
            options["num_inputs"] = arguments.num_inputs
        core = make_core(arguments.core, arguments.input_size, **options)
        for title, (make, times) in kinds.items():
            rows = compare(core, peers, make, arguments.rounds, times)
            print(f"### {arguments.core}, width {width}: {title}\n\n{markdown_table(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
