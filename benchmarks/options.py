"""Time of a core with other options than its defaults, beside these and `torch.nn.LSTM` of equal width.

python -m benchmarks.options rim dynamics=gru competition=units input_dropout=0.1,communication_dropout=0.1
"""

from __future__ import annotations

import torch
import yaml
from torch import nn

from benchmarks._timing import interleave, markdown_table
from benchmarks.backends import sequence_parser
from benchmarks.cores import PEER, against_peer, sequence
from rimrl.cores.registry import make_core


def main() -> None:
    parser = sequence_parser(__doc__)
    parser.add_argument(
        "options", nargs="*", help="name=value,name=value: what one of the cores has other than defaults"
    )
    parser.add_argument("--width", type=int, default=96, help="hidden_size of all (default 96)")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    T, B = arguments.num_steps, arguments.batch_size
    modules: dict[str, nn.Module] = {PEER: nn.LSTM(arguments.input_size, arguments.width)}
    for text in ("", *arguments.options):
        pairs = (pair.partition("=") for pair in text.split(",") if pair)
        options = {name: yaml.safe_load(value) for name, _, value in pairs}
        core = make_core(arguments.core, arguments.input_size, hidden_size=arguments.width, **options)
        modules[f"{text or 'defaults'} ({core.backend})"] = core
    timings = interleave({name: sequence(module, T, B, "cpu") for name, module in modules.items()}, arguments.rounds)
    print(f"### {arguments.core}, width {arguments.width}: forward + backward, T={T}, B={B}\n")
    print(markdown_table(against_peer(timings, 1)))


if __name__ == "__main__":
    main()
