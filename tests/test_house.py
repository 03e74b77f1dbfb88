"""The house keeps its shape: links, public names, and documents that say what is there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rimrl

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rimrl"


@pytest.mark.parametrize("name", ["agents", "envs", "configs"])
def test_top_level_names_are_relative_links_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("rimrl") / name
    assert (link.resolve() / "__init__.py").is_file() or any(link.rglob("*.yaml"))


def test_public_names_can_be_imported_one_by_one() -> None:
    for name in rimrl.__all__:
        assert getattr(rimrl, name) is not None
    assert sorted(rimrl.__all__) == rimrl.__all__ == dir(rimrl)
    assert set(rimrl._HOME_OF) | {"__version__"} == set(rimrl.__all__)


def test_public_names_have_documentation() -> None:
    assert all(getattr(rimrl, name).__doc__ for name in rimrl.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'RecurentPPO'"):
        rimrl.RecurentPPO  # noqa: B018


def test_importing_the_package_is_light_and_registers_the_environments() -> None:
    code = (
        "import sys, gymnasium, rimrl; gymnasium.spec('rimrl/Distractors-v0'); "
        "sys.exit('torch' in sys.modules or 'minigrid' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_that_of_the_distribution() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{rimrl.__version__}"\n' in text


def test_the_changelog_has_a_place_for_what_comes() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()


def python_snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_snippets_of_the_readme_run(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/rim").symlink_to(trained)
    snippets = python_snippets()
    assert len(snippets) >= 2
    for snippet in snippets:
        short = re.sub(r"learn\([\d_]+\)", "learn(128)", snippet)
        code = f"{short}\nassert model.num_timesteps >= 128, model.num_timesteps\n"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{snippet}\n{done.stderr}"


def test_the_names_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in re.findall(r"`rimrl\.(\w+)", readme):
        assert name in rimrl.__all__, name
    for target in re.findall(r"\]\(([\w./-]+)\)", readme):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:rimrl|tests|docs)/[\w./-]+)`", readme):
        assert (ROOT / path).exists(), path


def tree() -> list[tuple[Path, str]]:
    """The lines of the tree in docs/architecture.md, each with the folder that it stands in."""
    match = re.search(r"```\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), flags=re.DOTALL)
    assert match
    lines: list[tuple[Path, str]] = []
    folders = {0: ROOT}
    for line in match[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        lines.append((folders[depth], line.strip()))
        first = line.split()[0]
        if first.endswith("/"):
            folders[depth + 1] = folders[depth] / first
    return lines


def test_the_tree_names_only_what_exists() -> None:
    for folder, line in tree():
        for link, target in re.findall(r"(\S+) -> (\S+)", line):
            assert (folder / link).resolve() == (folder / target).resolve()
        named = [line.split()[0], *re.findall(r"[\w/-]+\.(?:py|md|toml|txt)\b", line)]
        for name in named:
            assert (folder / name).exists(), f"{name} in {line!r}"


def test_every_folder_of_code_stands_in_the_tree() -> None:
    named = {folder / line.split()[0] for folder, line in tree()}
    tops = ("rimrl", "tests", "benchmarks", "examples")
    folders = {file.parent for top in tops for file in (ROOT / top).rglob("*.py")}
    mirrored = {folder for folder in folders if folder.is_relative_to(ROOT / "tests") and folder.name != "reference"}
    assert {folder for folder in folders - mirrored if folder not in named} == set()


def test_every_module_says_what_it_holds() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines()]


def test_no_file_knows_the_machine_that_it_was_written_on() -> None:
    place = re.compile(r"(?<![\w.:/])/(?:work|tmp|root|home|Users)/")
    for file in tracked():
        if file.is_file() and not file.is_relative_to(ROOT / "tests"):
            try:
                text = file.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # a picture
                continue
            assert not place.search(text), file


def test_data_files_are_shipped_with_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["rimrl"]
    shipped = {file for pattern in patterns for file in PACKAGE.glob(pattern)}
    present = {file for file in tracked() if file.is_relative_to(PACKAGE) and file.suffix != ".py"}
    assert present - shipped == set()
    assert {file.suffix for file in shipped} >= {".yaml", ".html", ".css", ".cpp", ".h"}
    assert (PACKAGE / "py.typed") in shipped
