"""What Python hands to the kernels is what they were written for."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from rimrl.cores.scan import library
from rimrl.cores.scan.layout import (
    BRIMS_LAYER,
    HEADER,
    LSTM_SEQUENCE,
    RIGLSTM_SEQUENCE,
    RIM_SEQUENCE,
    RMC_SEQUENCE,
    Structure,
    header,
)
from rimrl.cores.scan.library import SIGNATURES

FILES = ("loops.h", "units.h", "rim.h", "brims.h", "lstm.h", "joined.h", "riglstm.h", "rmc.h")
KERNELS = "".join(HEADER.with_name(name).read_text(encoding="utf-8") for name in FILES)
every_structure = pytest.mark.parametrize(
    "structure", [RIM_SEQUENCE, LSTM_SEQUENCE, RIGLSTM_SEQUENCE, RMC_SEQUENCE, BRIMS_LAYER], ids=lambda s: s.name
)


def test_the_header_is_that_of_the_description() -> None:
    assert HEADER.read_text(encoding="utf-8") == header(), "run python -m rimrl.cores.scan.layout"


@every_structure
def test_the_fields_in_c_are_those_of_ctypes(structure: Structure) -> None:
    """Read back from the header: the same names in the same order, numbers where numbers are."""
    body = re.search(rf"struct {structure.name} {{\n(.*?)}};", HEADER.read_text(encoding="utf-8"), re.DOTALL)
    assert body is not None
    declared = []
    for line in body[1].splitlines():
        code, _, _ = line.partition("//")
        kind = ctypes.c_int64 if code.split()[0] == "idx" else ctypes.c_void_p
        declared += [(name, kind) for name in re.findall(r"(\w+)(?=[,;])", code)]
    made = structure.as_ctypes()
    assert [(field[0], field[1]) for field in made._fields_] == declared
    offsets = [getattr(made, name).offset for name, _ in declared]
    assert offsets == list(range(0, 8 * len(declared), 8))
    assert ctypes.sizeof(made) == 8 * len(declared)


@every_structure
def test_the_kernels_read_no_other_field(structure: Structure) -> None:
    names = {name for name, _ in structure.fields()}
    kind = f"(?:{structure.name}<R>|S)" if structure in (RIM_SEQUENCE, BRIMS_LAYER) else f"{structure.name}<R>"
    used = re.findall(
        rf"\(const {kind}[*&] (?:s|layers)\b[^)]*\) {{( .*? }}$|\n.*?\n}}$)", KERNELS, re.DOTALL | re.MULTILINE
    )
    assert len(used) >= 2
    assert {name for text in used for name in re.findall(r"\b(?:s|layers)(?:->|\.)(\w+)", text)} == names


@every_structure
def test_a_field_that_is_not_there_cannot_be_set(structure: Structure) -> None:
    made = structure.as_ctypes()()
    with pytest.raises(AttributeError):
        made.no_such_field = 1


def test_the_signatures_of_python_are_those_of_the_kernels() -> None:
    arguments = dict(re.findall(r"^#define (\w+)\(R\) \((.*)\)$", KERNELS, re.MULTILINE))
    exported = re.findall(r"^BOTH\((\w+), (\w+),", KERNELS, re.MULTILINE)
    letters = {
        name: "".join("i" if argument.strip().startswith("idx ") else "p" for argument in arguments[listed].split(","))
        for name, listed in exported
    }
    assert letters == SIGNATURES


def test_the_package_brings_the_header_along() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f"rimrl/cores/scan/{HEADER.name}" in project


def test_kernels_of_other_structures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an editable checkout has them that was updated and not installed again."""
    loaded = library._library.__wrapped__
    if isinstance(loaded(), str):
        pytest.skip("no kernels were compiled")
    monkeypatch.setattr(library, "fingerprint", lambda: "of others")
    reason = loaded()
    assert isinstance(reason, str)
    assert "install" in reason
