"""Every example on the cores' pages runs, and every figure is the one that a command or a count gives."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rimrl.cores.backends import use_backend
from rimrl.cores.registry import core_options, make_core

PAGES = sorted((Path(__file__).parents[2] / "docs" / "cores").glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def cores_of(page: Path) -> list[str]:
    names = re.search(r"Names?: (.+)\.$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert names is not None, f"{page.name} does not say under which name its core is found"
    return re.findall(r"`(\w+)`", names[1])


@every_page
def test_examples_run(page: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})


@every_page
def test_commands_print_what_stands_below_them(page: Path) -> None:
    commands = re.findall(r'^\$ python -c "(.+)"\n(.+)$', page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == len(cores_of(page))
    for code, expected in commands:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        assert printed.getvalue().strip() == expected


@every_page
def test_multiplications_are_those_that_torch_counts(page: Path) -> None:
    """Those of the equations, late in an episode: torch's counter does not see into compiled kernels."""
    claims = re.findall(r"(\d[\d ]*)\s+multiplications", page.read_text(encoding="utf-8"))
    counted = []
    for name in cores_of(page):
        core = make_core(name, 128, hidden_size=96).double()
        x = torch.zeros(100, 1, 128, dtype=torch.float64)
        _, late = core(x)
        with FlopCounterMode(display=False) as counter, use_backend("step"):
            core(x[:1], late)
        counted.append(counter.get_total_flops() // 2)
    assert [int(claim.replace(" ", "")) for claim in claims] == counted


@every_page
def test_every_option_is_in_the_table(page: Path) -> None:
    table = page.read_text(encoding="utf-8").partition("## Options")[2].partition("\n## ")[0]
    shown = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    shown = [name if not name.startswith("_") else f"communication{name}" for name in shown]
    for core in cores_of(page):
        assert set(shown) == set(core_options(core))
