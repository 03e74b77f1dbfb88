"""Where agents start: how loud what a core reads is, and how static the choice of active units is, before any update.

    python -m benchmarks.starts distractors multiroom recall --cores rim riglstm
    python -m benchmarks.starts distractors --learn 20000            # and what the first updates change of the choice
    python -m benchmarks.starts --runs runs/study/distractors        # the same of trained agents

Every agent plays its training split for some steps with sampled actions. Columns, means over agents (seeds):

features   norm of what the core reads
value      RIM: root mean square of the entries of the values that units read, before attention
scores     RIM: standard deviation over the units of a step's scores, q k / sqrt(dk); null scores 0
state      root mean square of the entries of h
changes    share of the units whose activity differs from that of the step before
idle       share of the units that are active in less than 1 % of the steps
collapse   `rimrl.usage.collapse`: 0 is even use
relearned  share of units whose activity in one and the same sequence of observations is another one after ``--learn``
           steps than before
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rimrl.agents.load import load
from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.cores.attention import InputAttention
from rimrl.cores.initialization import STARTS
from rimrl.cores.rim import RIM
from rimrl.envs.vector import make_vec_env
from rimrl.experiments.config_files import load_config
from rimrl.experiments.factory import make_agent, make_train_env
from rimrl.experiments.run import Run
from rimrl.usage import collapse

COLUMNS = ("features", "value", "scores", "state", "changes", "idle", "collapse", "relearned")
N_ENVS = 32
RARELY = 0.01


def measure(policy: RecurrentCorePolicy, env: VecEnv, steps: int) -> dict[str, float]:
    """The columns of one agent."""
    core = policy.core
    figures: defaultdict[str, list[float]] = defaultdict(list)
    active, continues = [], []
    policy.set_training_mode(False)
    state, starts = None, np.ones(env.num_envs, dtype=bool)
    obs: Any = env.reset()
    for _ in range(steps):
        with th.no_grad():
            features = policy.extract_features(policy.obs_to_tensor(obs)[0], policy.pi_features_extractor)
        assert isinstance(features, th.Tensor)
        active.append(policy.trace(obs, state, starts).active[0].numpy())
        continues.append(~starts)
        figures["features"].append(float(features.norm(dim=-1).mean()))
        if isinstance(core, RIM) and isinstance(core.input_read, InputAttention) and state is not None:
            for name, value in _of_rim(core, core.input_read, features, th.as_tensor(state[0][0])).items():
                figures[name].append(value)
        actions, state = policy.predict(obs, state, starts)
        assert state is not None
        figures["state"].append(float(np.sqrt(np.square(state[0]).mean())))
        obs, _, starts, _ = env.step(actions)
    units, goes_on = np.stack(active), np.stack(continues)[1:]  # [S, B, N], [S - 1, B]
    share = units.mean(axis=(0, 1))
    found = {name: float(np.mean(values)) for name, values in figures.items()}
    found["changes"] = float((units[1:] != units[:-1])[goes_on].mean())
    found["idle"] = float((share < RARELY).mean())
    found["collapse"] = collapse(share)
    return found


def _of_rim(core: RIM, read: InputAttention, features: th.Tensor, h: th.Tensor) -> dict[str, float]:
    with th.no_grad():
        keys, values = read.encode(features.unsqueeze(1))
        attention = read(h.view(len(h), core.num_units, core.unit_size), keys, values).attention
        scores = (attention[..., 1] / attention[..., 0]).log()  # null scores 0
    return {"value": float(values.square().mean().sqrt()), "scores": float(scores.std(dim=1).mean())}


def relearned(agent: RecurrentOnPolicyAlgorithm, env: VecEnv, timesteps: int, steps: int = 32) -> float:
    """The column of that name: learn, and choose again."""
    policy = agent.policy
    assert isinstance(policy, RecurrentCorePolicy)
    seen: list[Any] = [env.reset()]
    begins = [np.ones(env.num_envs, dtype=bool)]
    for _ in range(steps - 1):
        obs, _, starts, _ = env.step(np.array([env.action_space.sample() for _ in range(env.num_envs)]))
        seen.append(obs)
        begins.append(starts)

    def choices() -> NDArray[np.bool_]:
        policy.set_training_mode(False)
        with th.no_grad():
            tensors = [policy.obs_to_tensor(obs)[0] for obs in seen]
            extracted = [policy.extract_features(obs, policy.pi_features_extractor) for obs in tensors]
            features = th.stack([each for each in extracted if isinstance(each, th.Tensor)])
            _, _, trace = policy.core(features, None, th.as_tensor(np.stack(begins)), return_trace=True)
        active: NDArray[np.bool_] = trace.active.numpy()
        return active

    before = choices()
    agent.learn(timesteps)
    return float((choices() != before).mean())


def untrained(
    suites: Iterable[str], cores: Iterable[str], seeds: int, steps: int, learn: int
) -> Iterator[tuple[str, ...]]:
    """A row for each suite, core and initialisation."""
    for suite in suites:
        for core in cores:
            for initialization in STARTS:
                found = []
                for seed in range(seeds):
                    words = [f"--core.initialization={initialization}", f"--train.seed={seed}"]
                    config = load_config(f"{suite}/{core}", words)
                    agent = make_agent(config, make_train_env(config))
                    env = make_vec_env(suite, n_envs=N_ENVS, seed=1000 + seed)
                    env.action_space.seed(seed)
                    assert isinstance(agent.policy, RecurrentCorePolicy)
                    figures = measure(agent.policy, env, steps)
                    if learn:
                        figures["relearned"] = relearned(agent, env, learn)
                    found.append(figures)
                yield (suite, core, initialization, *_means(found))


def trained(folders: Iterable[Path], steps: int) -> Iterator[tuple[str, ...]]:
    """A row for each group of runs that differ in their seed alone."""
    groups: defaultdict[tuple[str, str, str], list[dict[str, float]]] = defaultdict(list)
    for file in sorted(file for folder in folders for file in folder.rglob("model.zip")):
        config = Run.open(file.parent).config
        env = make_vec_env(config.env.id, n_envs=N_ENVS, seed=10_000 + config.train.seed)
        policy = load(file, device="cpu").policy
        assert isinstance(policy, RecurrentCorePolicy)
        start = str(config.core.options.get("initialization", "-"))
        groups[config.env.id, config.core.name, start].append(measure(policy, env, steps))
    for names, found in groups.items():
        yield (*names, *_means(found))


def _means(found: list[dict[str, float]]) -> list[str]:
    return [f"{np.mean([each[name] for each in found]):.2g}" if name in found[0] else "-" for name in COLUMNS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", help="with configurations of all cores")
    parser.add_argument("--cores", nargs="+", default=["rim", "riglstm"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--learn", type=int, default=0, metavar="STEPS", help="environment steps; default none")
    parser.add_argument(
        "--runs", nargs="+", type=Path, help="folders of runs, whose trained agents are measured instead"
    )
    asked = parser.parse_args()
    th.set_num_threads(1)
    rows = (
        trained(asked.runs, asked.steps)
        if asked.runs
        else untrained(asked.suites, asked.cores, asked.seeds, asked.steps, asked.learn)
    )
    print("| suite | core | initialization | " + " | ".join(COLUMNS) + " |")
    print("| --- | --- | --- |" + " ---: |" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
