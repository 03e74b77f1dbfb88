"""All that a training is, between two iterations, as tensors and JSON; and back.

What is here: weights, the optimiser's state, what the agent saw last and remembers, its counters and recent episodes,
figures that wait to be logged, every random state, and where the environments are. Schedules are functions of the
counters. A snapshot is taken at the start of a rollout and keeps references, which costs little; it can be written
until the rollout ends, because only the update that follows changes weights.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.envs.replay import EpisodeRecord, ReplayError
from rimrl.envs.reward_scale import RewardScale
from rimrl.envs.vector_state import VectorMark, is_replayable, mark, marked_episodes, restore
from rimrl.experiments.callbacks import counters_of, restore_counters
from rimrl.runs.rng_state import random_state, restore_rng_state
from rimrl.runs.tensors import fitting, optimizer_state, restore_optimizer
from rimrl.runs.validated import DamagedError, Fields

Agent = RecurrentOnPolicyAlgorithm
_PLAIN = (str, int, float, bool, type(None))
_BEST = ("best_mean_reward", "last_mean_reward")


@dataclass(slots=True)
class Snapshot:
    """What changes during a rollout, as it was at its start; ``state`` goes into JSON as it is."""

    num_timesteps: int
    state: dict[str, Any]
    tensors: dict[str, Tensor]
    observation: Any
    training: VectorMark
    evaluation: VectorMark | None


def take(agent: Agent, evaluation: EvalCallback | None, callbacks: Sequence[BaseCallback] = ()) -> Snapshot:
    """Remember where a training is; between iterations only.

    Args:
        agent: Who learns.
        evaluation: Evaluates it on the way.
        callbacks: The user's own.
    """
    assert agent.env is not None
    assert agent.ep_info_buffer is not None
    assert agent.ep_success_buffer is not None
    chance, random_tensors = random_state()
    states = agent._last_states
    tensors = {f"memory.pi.{i}": part for i, part in enumerate(states.pi)}
    if states.vf[0] is not states.pi[0]:
        tensors |= {f"memory.vf.{i}": part for i, part in enumerate(states.vf)}
    starts = th.as_tensor(np.array(agent._last_episode_starts, dtype=bool))
    logger = agent.logger
    return Snapshot(
        num_timesteps=agent.num_timesteps,
        state={
            "num_timesteps": agent.num_timesteps,
            "elapsed": (time.time_ns() - agent.start_time) / 1e9,
            "n_updates": agent._n_updates,
            "episodes": [{name: _plain(value) for name, value in each.items()} for each in agent.ep_info_buffer],
            "successes": [bool(success) for success in agent.ep_success_buffer],
            "random": chance,
            "log": {
                "values": {name: _plain(value) for name, value in logger.name_to_value.items()},
                "counts": dict(logger.name_to_count),
                "excluded": {name: list(kinds or ()) for name, kinds in logger.name_to_excluded.items()},
            },
            "evaluation": None if evaluation is None else {name: getattr(evaluation, name) for name in _BEST},
            "callbacks": counters_of(_counting(evaluation, callbacks)),
        },
        tensors={**tensors, **random_tensors, "episode_starts": starts},
        observation=agent._last_obs,
        training=mark(agent.env),
        evaluation=None if evaluation is None else mark(evaluation.eval_env),
    )


def _counting(evaluation: EvalCallback | None, callbacks: Sequence[BaseCallback]) -> list[BaseCallback]:
    """Callbacks whose numbers are kept: the user's own, and what ends a training without improvement."""
    patience = None if evaluation is None else evaluation.callback
    return [*callbacks] if patience is None else [patience, *callbacks]


def as_contents(
    snapshot: Snapshot, agent: Agent, evaluation: EvalCallback | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A snapshot with the weights that belong to it, as tensors and JSON.

    Raises:
        ValueError: If weights are not finite.
    """
    tensors = dict(snapshot.tensors)
    own = agent.policy.state_dict()
    for name, first in _stored_under(own).items():
        weight = own[name]
        if name != first:
            continue
        if weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(f"the weights {name} are not finite")
        tensors[f"policy.{name}"] = weight
    of_optimizer, scalars = optimizer_state(agent.policy.optimizer)
    tensors |= of_optimizer
    layout = {}
    seen = snapshot.observation
    for name, array in (seen if isinstance(seen, dict) else {"": np.asarray(seen)}).items():
        # The layout in memory decides how the rollout is laid out, and with it the order of sums.
        order = sorted(range(array.ndim), key=lambda axis, array=array: (-array.strides[axis], axis))  # type: ignore[misc]
        tensors[f"observation.{name}"] = th.as_tensor(np.ascontiguousarray(array.transpose(order)))
        layout[name] = order
    assert agent.env is not None
    state = snapshot.state | {
        "optimizer": scalars,
        "observation": layout,
        "training": _vector_as_json(agent.env, snapshot.training, "training", tensors),
    }
    if evaluation is not None and snapshot.evaluation is not None:
        env = _vector_as_json(evaluation.eval_env, snapshot.evaluation, "evaluation", tensors)
        state["evaluation"] = state["evaluation"] | {"env": env}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, state


def restore_snapshot(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    agent: Agent,
    evaluation: EvalCallback | None,
    callbacks: Sequence[BaseCallback] = (),
) -> str | None:
    """Bring a fresh agent with its environments to where another was.

    Returns:
        None; where the environments could not be brought there and episodes begin anew, why.

    Raises:
        DamagedError: If something does not fit the agent, which is unusable then unless another one is put back.
    """
    fields = Fields(dict(state), "state")
    num_timesteps = fields.integer("num_timesteps")
    assert agent.env is not None
    _restore_weights(agent, tensors)
    restore_optimizer(agent.policy.optimizer, tensors, fields.nested("optimizer"))
    agent.num_timesteps = num_timesteps
    agent._n_updates = fields.integer("n_updates")
    window = agent._stats_window_size
    agent.ep_info_buffer = deque((_episode(item) for item in fields.objects("episodes")), maxlen=window)
    agent.ep_success_buffer = deque((bool(value) for value in fields.items("successes")), maxlen=window)
    _restore_log(agent, fields.nested("log"))
    observation, starts, states = _seen(agent, tensors, fields.nested("observation"))

    inexact = _restore_vector(agent.env, fields.nested("training"), "training", tensors)
    if inexact is not None:
        # Other levels than the first ones again; the simulators in C++ have no larger seeds.
        agent.env.seed(((agent.seed or 0) + num_timesteps + 1) % (2**31 - 1 - agent.n_envs))
        observation = agent.env.reset()
        starts = np.ones(agent.n_envs, dtype=bool)
    agent._last_obs = observation
    agent._last_episode_starts = starts
    agent._last_states = states
    if evaluation is not None and "evaluation" in fields:
        old = fields.nested("evaluation")
        for name in _BEST:
            setattr(evaluation, name, old.number(name, finite=False))
        inexact = _restore_vector(evaluation.eval_env, old.nested("env"), "evaluation", tensors) or inexact
    if "callbacks" in fields:
        numbers = [{name: each.raw(name) for name in each.names()} for each in fields.objects("callbacks")]
        restore_counters(_counting(evaluation, callbacks), numbers)
    restore_rng_state(fields.nested("random"), tensors)  # the last: everything above may draw
    return inexact


# -- weights ----------------------------------------------------------------------------------------------------------


def _restore_weights(agent: Agent, tensors: Mapping[str, Tensor]) -> None:
    weights = {}
    own = agent.policy.state_dict()
    for name, first in _stored_under(own).items():
        weights[name] = fitting(tensors, f"policy.{first}", own[name])
    extra = [name for name in tensors if name.startswith("policy.") and name.removeprefix("policy.") not in own]
    if extra:
        raise DamagedError(f"it holds {extra[0]}, which this policy does not have")
    agent.policy.load_state_dict(weights)


def _stored_under(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The first name of every weight: SB3's policies have up to three for the same features extractor."""
    first: dict[Any, str] = {}
    return {
        name: first.setdefault((weight.data_ptr(), weight.shape, weight.stride()) if weight.numel() else name, name)
        for name, weight in weights.items()
    }


# -- what the agent saw, and its log ----------------------------------------------------------------------------------


def _seen(agent: Agent, tensors: Mapping[str, Tensor], layout: Fields) -> tuple[Any, NDArray[np.bool_], RNNStates]:
    space = agent.observation_space
    parts = getattr(space, "spaces", None)
    observation = {}
    for name, part in (parts if isinstance(parts, dict) else {"": space}).items():
        shape = (agent.n_envs, *(part.shape or ()))
        order = layout.integers(name, len(shape), 0, len(shape) - 1)
        stored = tensors.get(f"observation.{name}")
        if stored is None or sorted(order) != list(range(len(shape))) or stored.dim() != len(shape):
            raise DamagedError(f"the last observation {name} does not fit")
        array = stored.numpy().transpose(np.argsort(order))
        if array.shape != shape or array.dtype.kind not in "biuf":
            raise DamagedError(f"the last observation {name} is {array.dtype} {array.shape}, and should be {shape}")
        observation[name] = array
    starts = fitting(tensors, "episode_starts", th.zeros(agent.n_envs, dtype=th.bool)).numpy().copy()
    with th.no_grad():
        like = agent.policy.initial_states(agent.n_envs)

    def memory(of: str, example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(fitting(tensors, f"memory.{of}.{i}", x).to(agent.device) for i, x in enumerate(example))

    pi = memory("pi", like.pi)
    vf = pi if like.vf[0] is like.pi[0] else memory("vf", like.vf)
    return (observation if isinstance(parts, dict) else observation[""]), starts, RNNStates(pi, vf)


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, _PLAIN) else str(value)


def _episode(fields: Fields) -> dict[str, Any]:
    # In the types of VecMonitor, so that means over old and new episodes are taken in the same precision.
    known: dict[str, Any] = {
        "r": np.float32(fields.number("r")),
        "l": np.int32(fields.integer("l", most=2**31 - 1)),
        "t": fields.number("t"),
    }
    return known | {name: fields.raw(name) for name in fields.names() if name not in known}


def _restore_log(agent: Agent, log: Fields) -> None:
    values, counts, excluded = log.nested("values"), log.nested("counts"), log.nested("excluded")
    logger = agent.logger
    for pending in (logger.name_to_value, logger.name_to_count, logger.name_to_excluded):
        pending.clear()
    for name in values.names():
        value = values.raw(name)
        # An integer stays one, or progress.csv would have 48.0 where it had 48.
        of_log = value if isinstance(value, str | int) else values.number(name, finite=False)
        logger.name_to_value[name] = of_log  # type: ignore[assignment]
    for name in counts.names():
        logger.name_to_count[name] = counts.integer(name)
    for name in excluded.names():
        logger.name_to_excluded[name] = tuple(str(kind) for kind in excluded.items(name))
    if logger.name_to_value.keys() != logger.name_to_excluded.keys():
        raise DamagedError("state.log is incomplete")


# -- environments -----------------------------------------------------------------------------------------------------


def _vector_as_json(venv: VecEnv, mark: VectorMark, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    state: dict[str, Any] = {
        "returns": mark.returns.tolist(),
        "lengths": mark.lengths.tolist(),
        "episode_count": mark.episode_count,
        "lives": None if mark.lives is None else mark.lives.tolist(),
        "scale": None if mark.scale is None else mark.scale._replace(returns=mark.scale.returns.tolist())._asdict(),
        "episodes": None,
        "lost": None,
    }
    try:
        episodes = marked_episodes(venv)
    except ReplayError as error:
        return state | {"lost": str(error)}
    if episodes is not None:
        state["episodes"] = []
        for env, record in enumerate(episodes):
            fields = asdict(record)
            actions = fields.pop("actions")
            if actions is not None:
                tensors[f"{name}.actions.{env}"] = th.as_tensor(actions)
            state["episodes"].append(fields)
    return state


def _restore_vector(venv: VecEnv, fields: Fields, name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Bring environments to where others were; says why where that cannot be."""
    count = venv.num_envs
    mark = VectorMark(
        np.array(fields.numbers("returns", count), dtype=np.float32),
        np.array(fields.integers("lengths", count, most=2**31 - 1), dtype=np.int32),
        fields.integer("episode_count"),
        np.array(fields.integers("lives", count), dtype=np.int64) if "lives" in fields else None,
        _scale(fields.nested("scale"), count) if "scale" in fields else None,
    )
    lost = fields.text("lost") if "lost" in fields else None
    if lost is not None or not is_replayable(venv):
        restore_counts(venv, mark)
        return lost or "this back end cannot be brought to where others were"
    episodes = None
    if "episodes" in fields:
        episodes = [
            _record(item, tensors.get(f"{name}.actions.{env}"))
            for env, item in enumerate(fields.objects("episodes", count))
        ]
    try:
        restore(venv, mark, episodes)
    except ReplayError as error:
        restore_counts(venv, mark)
        return str(error)
    return None


def restore_counts(venv: VecEnv, mark: VectorMark) -> None:
    """Of wrappers whose environments begin anew, what goes on."""
    scale = None if mark.scale is None else mark.scale._replace(returns=np.zeros_like(mark.scale.returns))
    none = np.zeros_like(mark.returns), np.zeros_like(mark.lengths)
    restore(venv, VectorMark(*none, mark.episode_count, None, scale), None)


def _scale(fields: Fields, count: int) -> RewardScale:
    var, number = fields.number("var"), fields.number("number")
    if var < 0 or number <= 0:
        raise DamagedError(f"{fields.where} holds a variance of {var} over {number} returns")
    return RewardScale(np.array(fields.numbers("returns", count)), fields.number("mean"), var, number)


def _record(fields: Fields, actions: Tensor | None) -> EpisodeRecord:
    generators = fields.nested("generators")
    return EpisodeRecord(
        {place: dict(_generator(generators.nested(place))) for place in generators.names()},
        fields.integer("seed", most=2**63) if "seed" in fields else None,
        None if actions is None else actions.numpy(),
        fields.text("observation"),
        fields.number("total_reward", finite=False),
    )


def _generator(fields: Fields) -> dict[str, Any]:
    inner = fields.nested("state")
    return {
        "bit_generator": fields.text("bit_generator"),
        "state": {name: inner.integer(name, 0, 2**128 - 1) for name in ("state", "inc")},
        "has_uint32": fields.integer("has_uint32", 0, 1),
        "uinteger": fields.integer("uinteger", 0, 2**32 - 1),
    }
