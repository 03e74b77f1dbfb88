"""Bouncing balls: conservation laws, closed forms, and rollouts against a loop written out here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from torch.nn.functional import binary_cross_entropy

from rimrl.cores.registry import make_core
from rimrl.errors import UsageError
from rimrl.sequence.balls import BouncingBalls, nats_a_frame
from rimrl.sequence.balls_physics import SUBSTEPS, Discs, Floats, draw, film, scatter
from rimrl.sequence.lesion import _keep, _parts, _silenced
from rimrl.sequence.model import SequenceModel
from rimrl.sequence.rollouts import roll_out


def scattered(count: tuple[int, int] = (6, 8), boxes: int = 50, seed: int = 0) -> Discs:
    return scatter(np.random.default_rng(seed), boxes, count, (0.05, 0.12), 0.05)


def energy(discs: Discs) -> Floats:
    """Kinetic energy of each box, ``[B]``."""
    energy: Floats = (0.5 * discs.masses * (discs.velocities**2).sum(-1)).sum(-1)
    return energy


def momentum(discs: Discs) -> Floats:
    """Momentum of each box, ``[B, 2]``."""
    momentum: Floats = (discs.masses[..., None] * discs.velocities).sum(1)
    return momentum


def test_energy_is_kept_by_walls_and_collisions() -> None:
    discs = scattered()
    before, first = energy(discs), discs.velocities.copy()
    for _ in range(60 * SUBSTEPS):
        discs.advance(1 / SUBSTEPS)
    np.testing.assert_allclose(energy(discs), before, rtol=1e-10)
    assert (np.abs(discs.velocities - first).max(axis=(1, 2)) > 0.01).all()  # something has happened in every box


def test_momentum_is_kept_by_collisions() -> None:
    discs = scattered()
    discs.velocities += 0.02 * (0.5 - discs.positions)  # towards each other
    before, moving, first = momentum(discs), energy(discs), discs.velocities.copy()
    for _ in range(20 * SUBSTEPS):
        discs.advance(1 / SUBSTEPS, walls=False)
    np.testing.assert_allclose(momentum(discs), before, atol=1e-14)
    np.testing.assert_allclose(energy(discs), moving, rtol=1e-10)
    assert (discs.velocities != first).any()


def pair(radii: tuple[float, float], velocities: tuple[tuple[float, float], tuple[float, float]]) -> Discs:
    positions = np.array([[[0.3, 0.5], [0.3 + sum(radii) + 0.001, 0.5]]])
    return Discs(positions, np.array([velocities]), np.array([radii]))


@pytest.mark.parametrize("radii", [(0.1, 0.1), (0.05, 0.12)])
def test_a_head_on_collision_is_the_one_of_the_textbook(radii: tuple[float, float]) -> None:
    u1, u2 = 0.04, -0.03
    discs = pair(radii, ((u1, 0.01), (u2, 0.02)))
    for _ in range(4):
        discs.advance(1 / SUBSTEPS)
    m1, m2 = (radius**2 for radius in radii)
    v1 = ((m1 - m2) * u1 + 2 * m2 * u2) / (m1 + m2)
    v2 = ((m2 - m1) * u2 + 2 * m1 * u1) / (m1 + m2)
    # What is not along the line between the centres stays, but for their small drift across it.
    np.testing.assert_allclose(discs.velocities[0], [[v1, 0.01], [v2, 0.02]], atol=2e-3)


def test_equal_masses_swap_velocities() -> None:
    discs = pair((0.1, 0.1), ((0.05, 0.0), (0.0, 0.0)))
    for _ in range(4):
        discs.advance(1 / SUBSTEPS)
    np.testing.assert_allclose(discs.velocities[0], [[0.0, 0.0], [0.05, 0.0]], atol=1e-15)


def test_a_wall_turns_the_velocity_across_it() -> None:
    discs = Discs(np.array([[[0.11, 0.5]]]), np.array([[[-0.08, 0.03]]]), np.array([[0.1]]))
    for _ in range(SUBSTEPS):
        discs.advance(1 / SUBSTEPS)
    assert discs.velocities.tolist() == [[[0.08, 0.03]]]


def test_discs_begin_apart_and_stay_in_the_box() -> None:
    discs = scattered()
    assert set(discs.present.sum(1)) == {6, 7, 8}
    assert overlap(discs) <= 0
    reach = discs.radii[..., None]
    for _ in range(200):
        discs.advance(1 / SUBSTEPS)
        assert overlap(discs) < 0.03
        there = discs.present
        assert (np.minimum(discs.positions - reach, 1 - reach - discs.positions)[there] > -1e-12).all()


def overlap(discs: Discs) -> float:
    i, j = np.triu_indices(discs.radii.shape[1], 1)
    distance = np.linalg.norm(discs.positions[:, i] - discs.positions[:, j], axis=-1)
    depth: Floats = discs.radii[:, i] + discs.radii[:, j] - distance
    return float(depth[discs.present[:, i] & discs.present[:, j]].max())


def test_a_disc_is_drawn_where_it_is() -> None:
    frame = draw(Discs(np.array([[[0.25, 0.75]]]), np.zeros((1, 1, 2)), np.array([[0.2]])), 100)[0]
    rows, columns = frame.nonzero()
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((75, 25))
    assert frame.sum() == pytest.approx(math.pi * 20**2, rel=0.02)
    assert draw(Discs(np.full((1, 1, 2), 0.5), np.zeros((1, 1, 2)), np.zeros((1, 1))), 10).sum() == 0


def test_a_film_moves_by_the_velocity() -> None:
    discs = Discs(np.array([[[0.3, 0.5]]]), np.array([[[0.1, 0.0]]]), np.array([[0.1]]))
    frames = film(discs, 4, 50)
    centres = [frame[0].nonzero()[1].mean() + 0.5 for frame in frames]
    assert centres == pytest.approx([15, 20, 25, 30])


def test_the_chance_is_that_of_the_share_of_pixels_that_balls_cover() -> None:
    task = BouncingBalls(size=16, channels=(2,), test_balls=["4", "6-8", "4_curtain", "1"])
    for split in task.splits:
        frames = task.evaluation_batch(split, 0, 0, 400).inputs
        share = float(frames.mean())
        nats = -(share * math.log(share) + (1 - share) * math.log(1 - share)) * 16**2
        assert nats == pytest.approx(split.chance, rel=0.04)


def test_a_curtain_hides_a_square_in_all_frames_of_a_sequence() -> None:
    plain = BouncingBalls(size=20, channels=(2,), balls="4", test_balls=["4", "4_curtain"])
    open_, hidden = (plain.evaluation_batch(split, 3, 0, 30).inputs for split in plain.splits)
    gone = (open_ != hidden).any(0)  # [B, S, S]
    assert (hidden <= open_).all()
    assert gone.any((1, 2)).sum() > 20
    for row in gone:
        ys, xs = row.nonzero(as_tuple=True)
        assert len(ys) == 0 or int(ys.max() - ys.min()) < 8
        assert len(xs) == 0 or int(xs.max() - xs.min()) < 8
        if len(ys):
            hole = hidden[:, :, ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            assert (hole[:, gone.tolist().index(row.tolist())] == 0).all()


def small(core: str = "rim", **options: int) -> tuple[BouncingBalls, SequenceModel]:
    th.manual_seed(1)
    task = BouncingBalls(size=8, channels=(3,), num_frames=6, warm_up=3, rollout=4, test_balls=["2"], balls="2")
    encoder, width = task.make_encoder(5)
    made = make_core(core, width, **options)
    return task, SequenceModel(encoder, made, task.make_decoder(made.output_size)).eval()


def test_cross_entropy_is_summed_over_the_pixels_of_a_frame() -> None:
    logits, truth = th.randn(2, 3, 4, 4).double(), (th.rand(2, 3, 4, 4) > 0.5).double()
    nats = nats_a_frame(logits, truth)
    for t in range(2):
        for b in range(3):
            expected = binary_cross_entropy(logits[t, b].sigmoid(), truth[t, b], reduction="sum")
            assert float(nats[t, b]) == pytest.approx(float(expected))


@pytest.mark.parametrize("feedback", ["probabilities", "rounded"])
@pytest.mark.parametrize("core", ["rim", "lstm", "riglstm"])
def test_a_rollout_feeds_predictions_back_one_by_one(core: str, feedback: str) -> None:
    task, model = small(core, hidden_size=12)
    frames = task.evaluation_batch(task.splits[0], 0, 0, 2).inputs
    with th.no_grad():
        ours = roll_out(model, frames[:3], 4, feedback)  # type: ignore[arg-type]
        state, shown, expected = None, [*frames[:3]], []
        for t in range(6):
            y, state = model.core.step(model.encoder(shown[t][None])[0], state)
            if t >= 2:
                logits = model.decoder(y)
                expected.append(logits)
                shown.append(logits.sigmoid().round() if feedback == "rounded" else logits.sigmoid())
    assert th.allclose(ours.logits, th.stack(expected), atol=1e-5)


def test_scores_of_a_rollout_are_of_the_frames_after_the_warm_up() -> None:
    task, model = small(hidden_size=12)
    batch = task.evaluation_batch(task.splits[0], 0, 0, 3)
    frames = th.cat([batch.inputs, batch.targets[-1:]])  # [7, ...]
    with th.no_grad():
        scores = task.scores(model, batch)
        predicted = roll_out(model, frames[:3], 4).logits
    expected = nats_a_frame(predicted, frames[3:])
    assert th.allclose(scores.metric, expected.mean(0))
    assert th.allclose(scores.others["cross_entropy_by_step"], expected.t())


# -- dropping ---------------------------------------------------------------------------------------------------------


def test_nothing_reads_a_dropped_unit() -> None:
    task, model = small(num_units=4, num_active=3, unit_size=5)
    frames = task.evaluation_batch(task.splits[0], 0, 0, 2).inputs[:1]  # from the first step on, with no memory of it
    before = roll_out(_silenced(model, 2), frames, 4, keep=_keep(model, 2, 4))
    with th.no_grad():
        for name, weight in model.core.named_parameters():
            if name.startswith("dynamics"):
                weight[2] += 1.0
    after = roll_out(_silenced(model, 2), frames, 4, keep=_keep(model, 2, 4))
    assert th.equal(before.logits, after.logits)
    assert (before.hidden.view(4, 2, 4, 5)[:, :, 2] == 0).all()
    heard = roll_out(model, frames, 4, keep=_keep(model, 2, 4))
    assert not th.equal(heard.logits, after.logits)  # without silence its candidate is heard within the step


@pytest.mark.parametrize(
    ("core", "options"),
    [("scoff", {}), ("rim_workspace", {}), ("gtrxl", {"num_layers": 1, "hidden_size": 12, "memory_length": 4})],
)
def test_states_that_are_more_than_units_are_not_dropped(core: str, options: dict[str, Any]) -> None:
    _, model = small(core, **options)
    with pytest.raises(UsageError, match="lesion"):
        _parts(model, 4)


def test_keeping_everything_changes_nothing() -> None:
    task, model = small("lstm", hidden_size=12)
    frames = task.evaluation_batch(task.splits[0], 0, 0, 2).inputs[:3]
    whole, kept = roll_out(model, frames, 4), roll_out(model, frames, 4, keep=th.ones(12))
    assert th.equal(whole.logits, kept.logits)
