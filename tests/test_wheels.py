"""What is installed: everything of the package, on every Python, with kernels or without."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rimrl"
SOURCES = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"]
BUILT = {"__pycache__", "_kernels.so", "_kernels.dll"}
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false", "PATH": "/nowhere"}

TRAINS_TWICE = """
import json, warnings, torch, rimrl
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    core = rimrl.make_core("rim", 3, num_units=2, num_active=1, unit_size=4)
    for _ in range(2):
        core(torch.randn(6, 2, 3))[0].sum().backward()
said = [str(w.message) for w in caught if w.category is UserWarning]
reason = core.backends["native"]
print(json.dumps({"file": rimrl.__file__, "backend": core.backend, "unsupported_reason": reason, "said": said}))
"""


def build(what: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run setuptools' ``build_wheel`` or ``build_sdist`` on a copy of the source; the result is in its ``dist``."""
    source = folder / "source"
    shutil.copytree(PACKAGE, source / "rimrl", ignore=shutil.ignore_patterns(*BUILT, "_kernels.*.so"))
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    (source / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_house.py", source / "tests")
    code = f"from setuptools import build_meta; build_meta.{what}({str(folder / 'dist')!r})"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def wheel_of(folder: Path, environment: dict[str, str]) -> Path:
    done = build("build_wheel", folder, environment)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def run_from(wheel: Path, folder: Path, *words: str) -> str:
    """Run Python on what is in a wheel, instead of this checkout."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    environment = os.environ | NO_COMPILER | {"PYTHONPATH": str(folder / "installed"), "COLUMNS": "300"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def plain_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built where there is no compiler."""
    return wheel_of(tmp_path_factory.mktemp("plain"), NO_COMPILER)


def package_files() -> set[str]:
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    return {str(path.relative_to(ROOT)) for path in files if not path.name.startswith("_kernels.")}


def test_a_wheel_holds_the_whole_package_and_its_licence(plain_wheel: Path) -> None:
    with zipfile.ZipFile(plain_wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (licence,) = (name for name in names if name.endswith("/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert {name for name in names if ".dist-info/" not in name} == package_files()
    assert {"rimrl/py.typed", "rimrl/configs/recall/rim.yaml", "rimrl/reporting/templates/report.html"} <= names


def test_the_source_can_be_built_from(tmp_path: Path) -> None:
    done = build("build_sdist", tmp_path, NO_COMPILER)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    assert package_files() | set(SOURCES) - {"MANIFEST.in"} <= names
    assert not any(name.startswith("tests/") for name in names)


def test_a_wheel_is_for_one_platform_and_every_python(plain_wheel: Path) -> None:
    python, abi, platform = plain_wheel.stem.split("-")[2:]
    assert (python, abi) == ("py3", "none")
    assert platform != "any"


def test_without_a_compiler_training_runs_and_says_once_why_it_is_slow(plain_wheel: Path, tmp_path: Path) -> None:
    found = json.loads(run_from(plain_wheel, tmp_path, "-c", TRAINS_TWICE))
    assert Path(found["file"]).is_relative_to(tmp_path)
    assert found["backend"] == "torch"
    (said,) = found["said"]
    assert found["unsupported_reason"] in said
    assert "compiler" in found["unsupported_reason"]


def test_without_a_compiler_the_list_of_cores_says_why_and_what_helps(plain_wheel: Path, tmp_path: Path) -> None:
    listed = run_from(plain_wheel, tmp_path, "-m", "rimrl", "list", "cores")
    rows = {line.split()[0]: line.split()[2] for line in listed.splitlines() if len(line.split()) > 2}
    assert (rows["rim"], rows["riglstm"], rows["lstm"], rows["gru"]) == ("torch/step",) * 4
    assert rows["rmc"] == "step"
    ((reason, cores),) = re.findall(r"not native: ([^()]*)\(([^()]*)\)", " ".join(listed.split()))
    assert sorted(cores.split(", ")) == ["brims", "lstm", "riglstm", "rim", "rmc"]
    for part in ("compiler", "wheel"):
        assert part in reason


def test_a_wheel_for_others_is_not_built_without_kernels(tmp_path: Path) -> None:
    assert build("build_wheel", tmp_path, NO_COMPILER | {"RIMRL_REQUIRE_KERNELS": "1"}).returncode != 0
    assert not list((tmp_path / "dist").glob("*.whl"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
def test_with_a_compiler_a_wheel_has_kernels_for_every_python(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path, {"RIMRL_REQUIRE_KERNELS": "1"})
    with zipfile.ZipFile(wheel) as archive:
        (kernels,) = (name for name in archive.namelist() if re.search(r"/_kernels\.(so|dll)$", name))
        assert b"PyInit" not in archive.read(kernels)
    found = json.loads(run_from(wheel, tmp_path, "-c", TRAINS_TWICE))
    assert Path(found["file"]).is_relative_to(tmp_path)
    assert (found["backend"], found["unsupported_reason"], found["said"]) == ("native", None, [])
