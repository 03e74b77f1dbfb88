"""What `benchmarks.training` races is the same work: a network of the same size, as many steps, as many updates."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.peers import PEERS

INPUTS, ACTIONS, WIDTH = 7 * 7 * 3, 7, 8

# In a process of its own: these libraries change settings of torch and multiprocessing as they are imported.
PROGRAM = f"""
import json, sys
from benchmarks.peers import PEERS
from benchmarks.tasks import Task
from minigrid.minigrid_env import MiniGridEnv

task = Task("MiniGrid-Empty-5x5-v0", "raw", "Mlp", n_envs=4, n_steps=8, batch_size=16, n_epochs=3, lstm_size={WIDTH})
played, updates = [], []
step = MiniGridEnv.step
MiniGridEnv.step = lambda self, action: played.append(None) or step(self, action)
peer = PEERS[sys.argv[1]].make(task)
peer.optimizer.register_step_post_hook(lambda *_: updates.append(None))
before = [weight.clone() for weight in peer.network.parameters()]
del played[:]
peer.iterate()
found = {{
    "played": len(played),
    "updates": len(updates),
    "numbers": sum(weight.numel() for weight in before),
    "trained": sum(bool((a != b).any()) for a, b in zip(before, peer.network.parameters())),
    "optimized": sum(weight.numel() for group in peer.optimizer.param_groups for weight in group["params"]),
    "learning_rate": peer.optimizer.param_groups[0]["lr"],
    "eps": peer.optimizer.param_groups[0]["eps"],
}}
peer.close()
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_does_the_same_work(name: str) -> None:
    if not PEERS[name].installed:
        pytest.skip("not installed")
    done = subprocess.run([sys.executable, "-c", PROGRAM, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    lstm, heads = 4 * WIDTH * (INPUTS + WIDTH + 2), (WIDTH + 1) * (ACTIONS + 1)
    assert found["numbers"] == found["optimized"] == lstm + heads
    assert found["trained"] == 8  # weights and biases of the input, of the state, of the actor and of the critic
    assert (found["learning_rate"], found["eps"]) == (2.5e-4, 1e-5)
    # 32 steps in minibatches of 16, three times. In every second pass torch-ac begins sequences in their middle, and
    # leaves out those that would cross the end of the rollout: of sequences as long as the rollout, all.
    assert found["updates"] == {"torch-ac": 5, "torch-ac-whole": 4}.get(name, 6)
    # torch-ac plays all environments but the first in processes, where they are not counted.
    assert found["played"] == (8 if name.startswith("torch-ac") else 32)
