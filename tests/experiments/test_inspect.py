"""What `rimrl inspect` records is what the agent and its core did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import rimrl
from rimrl.envs.vector import make_vec_env
from rimrl.errors import UsageError
from rimrl.experiments.evaluate import DEFAULT_SEED, play
from rimrl.experiments.inspect import record
from rimrl.experiments.run import Run
from rimrl.runs.recording import RECORDING_FILES, Recording
from tests.commands import SMALL_PPO, files, rewrite, succeed

EPISODES = 6


@pytest.fixture(scope="module")
def recording(trained: Path) -> Recording:
    # Sampled actions: at this age the likeliest one is the same at nearly every step.
    return record(Run.open(trained), episodes=EPISODES, deterministic=False, progress_bar=False)


def small_run(folder: Path, core: str, env: str, *options: str) -> Run:
    words = ("--env.id", env, "--core.name", core, *options, "--total-timesteps", "64", "--run-dir", str(folder))
    succeed("train", "distractors/lstm", *SMALL_PPO, "--core.hidden_size", "12", *words)
    return Run.open(folder)


def test_a_unit_is_active_where_its_state_changes_step_by_step(trained: Path, recording: Recording) -> None:
    """Replays the recorded actions, one `predict` a step from a state that is forgotten after each episode."""
    policy = rimrl.load(trained).policy
    num_units, unit_size = 3, 8
    env = rimrl.make_env("distractors")
    obs, _ = env.reset(seed=DEFAULT_SEED)
    state, before = None, np.zeros((num_units, unit_size), dtype=np.float32)
    ended = False
    for t, action in enumerate(recording.arrays["action"]):
        _, state = policy.predict(obs, state)
        assert state is not None
        h = state[0].reshape(num_units, unit_size)
        changed = (h != before).any(axis=1)
        np.testing.assert_array_equal(recording.arrays["active"][t], changed, err_msg=f"step {t}")
        obs, reward, terminated, truncated, _ = env.step(action)
        assert recording.arrays["reward"][t] == pytest.approx(float(reward))
        before, ended = h, terminated or truncated
        if ended:
            obs, _ = env.reset()
            state, before = None, np.zeros_like(h)
    assert ended


def test_episodes_are_those_that_the_agent_plays(trained: Path) -> None:
    seed = 7
    facts = record(
        Run.open(trained), episodes=EPISODES, split="all_novel", deterministic=True, seed=seed, progress_bar=False
    ).facts
    expected = play(
        rimrl.load(trained), lambda: make_vec_env("distractors", "all_novel", seed=seed), EPISODES, True, seed
    )
    assert [episode["length"] for episode in facts["episodes"]] == expected.lengths
    assert [episode["success"] for episode in facts["episodes"]] == expected.successes
    assert [episode["return"] for episode in facts["episodes"]] == pytest.approx(expected.returns)
    assert (facts["split"], facts["held_out"], facts["seed"]) == ("all_novel", True, seed)


def test_rows_are_steps_in_the_order_they_were_taken(recording: Recording) -> None:
    lengths = [episode["length"] for episode in recording.facts["episodes"]]
    assert len(lengths) == EPISODES
    assert recording.facts["steps"] == sum(lengths)
    assert recording.arrays["episode"].tolist() == [i for i, length in enumerate(lengths) for _ in range(length)]
    assert recording.arrays["step"].tolist() == [step for length in lengths for step in range(length)]
    assert {len(rows) for rows in recording.arrays.values()} == {sum(lengths)}
    for episode, outcome in enumerate(recording.facts["episodes"]):
        rewards = recording.arrays["reward"][recording.arrays["episode"] == episode]
        assert outcome["return"] == pytest.approx(float(rewards.sum()))
        assert outcome["task"].startswith("pick up the ")
        assert outcome["out_of_time"] is (not outcome["success"] and outcome["length"] == 64)


def test_frequencies_are_means_of_the_raster(recording: Recording) -> None:
    active, action = recording.arrays["active"], recording.arrays["action"]
    later = recording.arrays["step"] > 0
    rows = {row["when"]: row for row in recording.facts["active_frequency"]}
    chosen: dict[str, NDArray[Any]] = {
        "all steps": np.full(len(active), True),
        "first step of an episode": ~later,
        "all later steps": later,
        "left": later & (action == 0),
        "right": later & (action == 1),
        "forward": later & (action == 2),
        "pickup": later & (action == 3),
        "reward above zero": later & (recording.arrays["reward"] > 0),
        "reward below zero": later & (recording.arrays["reward"] < 0),
    }
    assert list(rows) == list(chosen)
    for when, mask in chosen.items():
        steps = [t for t in range(len(active)) if mask[t]]
        assert rows[when]["steps"] == len(steps)
        if not steps:
            assert rows[when]["units"] is None
            continue
        for n in range(3):
            assert rows[when]["units"][n] == pytest.approx(sum(bool(active[t, n]) for t in steps) / len(steps))
    assert len(set(action.tolist())) > 1
    assert sum(rows["all steps"]["units"]) == pytest.approx(2.0)  # two of the three units work at every step


def test_evenness_and_what_units_tell_are_those_of_the_recording(recording: Recording) -> None:
    arrays, facts = recording.arrays, recording.facts
    active = arrays["active"]
    shares = [int(active[:, n].sum()) / int(active.sum()) for n in range(3)]
    assert facts["units_per_layer"] == [3]
    assert facts["collapse"] == pytest.approx(3 / 2 * sum(max(1 / 3 - share, 0) for share in shares))
    assert facts["worst_share"] == pytest.approx(1 - 3 * min(shares))
    every, later = range(len(active)), [t for t in range(len(active)) if arrays["step"][t] > 0]
    kinds: dict[str, tuple[Any, Any]] = {
        "action": (later, arrays["action"]),
        "reward": (later, [0 if r == 0 else 1 if r > 0 else -1 for r in arrays["reward"]]),
        "first_step": (every, arrays["step"] == 0),
    }
    assert list(facts["mutual_information"]) == list(kinds)
    for name, (steps, events) in kinds.items():
        joint: dict[tuple[Any, int], float] = {}
        for t in steps:
            for n in np.flatnonzero(active[t]).tolist():
                joint[events[t], n] = joint.get((events[t], n), 0.0) + 1 / 2 / len(steps)  # two units are active
        bits = 0.0
        for (event, unit), p in joint.items():
            p_event = sum(q for (other, _), q in joint.items() if other == event)
            p_unit = sum(q for (_, other), q in joint.items() if other == unit)
            bits += p * np.log2(p / p_event / p_unit)
        assert facts["mutual_information"][name] == pytest.approx(bits, abs=1e-9), name
    assert "event" not in arrays  # the environment reports none


class _Announcing(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Reports every second step of an episode as an event, and something else that is none."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.count = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        *rest, info = self.env.step(action)
        self.count += 1
        event: Any = f"step {self.count}" if self.count % 2 == 0 else [self.count]
        return *rest, info | {"event": event}


def test_events_that_the_environment_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--core.num_units", "3", "--core.num_active", "2")
    run = small_run(tmp_path / "run", "rim", "CartPole-v1", *words)
    gymnasium.register("test/Announcing-v0", lambda **kwargs: _Announcing(gymnasium.make("CartPole-v1", **kwargs)))
    try:
        rewrite(run.path, "CartPole-v1", "test/Announcing-v0")
        recording = record(Run.open(run.path), episodes=2, progress_bar=False)
    finally:
        del gymnasium.registry["test/Announcing-v0"]
    counts = recording.arrays["step"] + 1
    assert recording.arrays["event"].tolist() == [f"step {n}" if n % 2 == 0 else "" for n in counts]
    assert list(recording.facts["mutual_information"]) == ["action", "reward", "first_step", "event"]
    assert recording.facts["mutual_information"]["event"] > 0
    recording.save(tmp_path)
    with np.load(tmp_path / "recording.npz") as saved:  # without unpickling
        assert saved["event"].tolist() == recording.arrays["event"].tolist()


def test_layers_of_brims_are_measured_alone(tmp_path: Path) -> None:
    words = ("--core.num_units", "[3, 2]", "--core.num_active", "[2, 2]")
    recording = record(small_run(tmp_path / "run", "brims", "CartPole-v1", *words), episodes=1, progress_bar=False)
    active, facts = recording.arrays["active"], recording.facts
    assert facts["units_per_layer"] == [3, 2]
    shares = active[:, :3].mean(axis=0) / 2
    assert active[:, 3:].all()
    assert facts["collapse"] == pytest.approx(3 / 2 * np.maximum(1 / 3 - shares, 0).sum() / 2)
    assert facts["worst_share"] == pytest.approx(1 - 3 * shares.min())


def test_attention_means(recording: Recording) -> None:
    arrays, facts = recording.arrays, recording.facts
    communication = arrays["communication_attention"]
    np.testing.assert_allclose(arrays["input_attention"].sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(facts["input_attention_mean"], arrays["input_attention"].mean(axis=0), rtol=1e-4)
    for listener in range(3):
        listens = [communication[t, listener] for t in range(facts["steps"]) if arrays["active"][t, listener]]
        np.testing.assert_allclose(facts["communication_attention_mean"][listener], np.mean(listens, axis=0), rtol=1e-4)


def test_a_recording_is_repeatable_and_saved_whole(trained: Path, recording: Recording, tmp_path: Path) -> None:
    recording.save(tmp_path)
    assert sorted(files(tmp_path)) == sorted(RECORDING_FILES)
    assert json.loads((tmp_path / "inspection.json").read_text(encoding="utf-8")) == recording.facts
    again = record(Run.open(trained), episodes=EPISODES, deterministic=False, progress_bar=False)
    assert again.facts == recording.facts
    with np.load(tmp_path / "recording.npz") as saved:
        assert set(saved.files) == set(recording.arrays) == set(again.arrays)
        for name in saved.files:
            np.testing.assert_array_equal(saved[name], again.arrays[name])


def test_a_core_without_units_is_one_unit_at_work(tmp_path: Path) -> None:
    recording = record(small_run(tmp_path / "run", "lstm", "CartPole-v1"), episodes=2, progress_bar=False)
    assert recording.arrays["active"].shape == (recording.facts["steps"], 1)
    assert recording.arrays["active"].all()
    assert recording.facts["units"] == 1
    for name in ("collapse", "worst_share", "mutual_information"):
        assert recording.facts[name] is None
    assert recording.facts["input_attention_mean"] is None
    assert recording.facts["communication_attention_mean"] is None
    assert recording.facts["action_names"] == ["0", "1"]
    episode = recording.facts["episodes"][0]
    assert (episode["success"], episode["task"], episode["return"]) == (None, None, episode["length"])


def test_continuous_actions_have_no_names(tmp_path: Path) -> None:
    recording = record(small_run(tmp_path / "run", "gru", "Pendulum-v1"), episodes=1, progress_bar=False)
    assert recording.facts["action_names"] is None
    assert recording.arrays["action"].shape == (200, 1)
    assert recording.facts["episodes"][0]["out_of_time"] is True
    assert [row["kind"] for row in recording.facts["active_frequency"]] == ["all", "first", "later", "reward", "reward"]


def test_the_actors_core_is_inspected_not_the_critics(tmp_path: Path) -> None:
    options = ("--core.num_units", "4", "--core.num_active", "2", "--agent.core_sharing", "separate")
    run = small_run(tmp_path / "run", "rim", "CartPole-v1", *options)
    before = record(run, episodes=2, progress_bar=False)
    agent = rimrl.load(run.path)
    critic = agent.policy.critic_core
    assert critic is not None
    for parameter in critic.parameters():
        parameter.data.zero_()
    agent.save(run.model_file)
    after = record(run, episodes=2, progress_bar=False)
    assert before.facts == after.facts
    assert before.arrays["input_attention"].std() > 0
    np.testing.assert_array_equal(before.arrays["input_attention"], after.arrays["input_attention"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"episodes": 0}, "at least 1"),
        ({"split": "novel_shape"}, r"'novel_shapes'"),
        ({"best": True}, "best_model.zip"),
    ],
)
def test_bad_input_is_named(run: Path, options: dict[str, Any], said: str) -> None:
    (run / "best_model.zip").unlink()
    with pytest.raises(UsageError, match=said):
        record(Run.open(run), progress_bar=False, **options)
