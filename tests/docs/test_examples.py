"""The scripts in ``examples/`` answer their questions, shown here on a few steps; each is short and has its place."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO

from rimrl.agents.demonstrations import read_demonstrations
from rimrl.cores.registry import CORES

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of the test's own, and forget registered cores."""
    monkeypatch.chdir(tmp_path)
    before = set(CORES)
    yield
    for name in CORES.keys() - before:
        del CORES[name]


def test_each_is_short_and_linked() -> None:
    page = (ROOT / "docs/how-do-i.md").read_text()
    assert len(SCRIPTS) == 9
    for path in SCRIPTS:
        text = path.read_text()
        assert len(text.splitlines()) < 65, path
        assert re.search(rf"^python examples/{path.name}\b", text, flags=re.MULTILINE), path
        assert f"examples/{path.name}" in page, path


def test_own_environment_keeps_the_contract_and_pays_at_most_one() -> None:
    example = script("own_environment")
    check_env(example.Cue(), skip_render_check=True)
    assert 0.0 <= example.main(["--total-timesteps", "256"]) <= 1.0


def test_own_core_is_what_the_policy_holds() -> None:
    example = script("own_core")
    core = example.main(["--total-timesteps", "128"]).policy.core
    assert isinstance(core, example.Leaky)
    assert core.hidden_size == 64


def test_as_many_units_are_active_in_each_step_as_were_asked_for() -> None:
    raster = script("units").main(["--total-timesteps", "128"])
    assert raster.shape[1] == 6
    assert (raster.sum(1) == 4).all()


def test_both_policies_without_velocities_get_returns_that_pendulum_has() -> None:
    returns = script("masked_velocities").main(["--total-timesteps", "1024", "--episodes", "2"])
    assert returns.keys() == {"gru", "feedforward"}
    assert all(-3255 < value <= 0 for value in returns.values())  # 200 steps of at most 16.27


def test_a_resumed_run_is_the_same() -> None:
    assert script("resume").main(["--total-timesteps", "2048"])
    assert Path("runs/resume/two/config.yaml").is_file()


def test_an_agent_does_the_same_however_it_is_loaded() -> None:
    actions = script("share").main(["--total-timesteps", "1024"])
    assert set(actions) == {"run", "export", "sb3-contrib"}
    assert all(np.array_equal(taken, actions["run"]) for taken in actions.values())
    assert len(np.unique(actions["run"])) > 50  # a constant would agree with anything


def test_an_expert_is_recorded_as_it_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari", reason="needs Minari: pip install 'rimrl[imitate]'")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    expert = PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8, device="cpu", seed=0)
    expert.save(tmp_path / "expert")
    recorded = script("demonstrations").main(["--expert", str(tmp_path / "expert.zip"), "--episodes", "2"])
    assert recorded.total_episodes == 2
    for episode in recorded:
        assert episode.observations.shape == (201, 3)
        taken = [expert.predict(each, deterministic=True)[0] for each in episode.observations[:-1]]
        np.testing.assert_array_equal(taken, episode.actions)
    assert not np.array_equal(recorded[0].observations[0], recorded[1].observations[0])
    found = read_demonstrations("pendulum/expert-v0", expert.observation_space, expert.action_space)
    assert found.lengths.tolist() == [200, 200]


def test_an_expert_that_sees_normalised_observations_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minari", reason="needs Minari: pip install 'rimrl[imitate]'")
    pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'gymnasium[mujoco]'")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    output = str(tmp_path / "expert")
    expert = script("expert").main(["--total-timesteps", "512", "--output", output])
    words = ["--env", "HalfCheetah-v5", "--expert", f"{output}.zip", "--statistics", f"{output}.pkl", "--episodes", "1"]
    (episode,) = script("demonstrations").main(words)
    seen = expert.get_vec_normalize_env().normalize_obs(episode.observations[:-1])
    np.testing.assert_allclose(expert.predict(seen, deterministic=True)[0], episode.actions, rtol=1e-4, atol=1e-5)
    assert not np.allclose(seen, episode.observations[:-1])


@pytest.mark.slow
def test_a_sweep_finishes_every_run_and_compares_them(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--total-timesteps", "1024", "--seeds", "0..1", "--episodes", "2"]
    runs = script("sweep_and_compare").main(words)
    assert {str(run.relative_to("runs/sweep")) for run in runs} == {
        f"core={core}/seed_{seed}" for core in ("rim", "lstm") for seed in (0, 1)
    }
    assert all((run / "evaluation.json").is_file() for run in runs)
    assert "rim" in capsys.readouterr().out
