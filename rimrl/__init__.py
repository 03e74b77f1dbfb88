"""rimrl: reinforcement learning agents with modular recurrent policies.

Importing the package registers its environments with gymnasium. The public names below load on first use, so
that ``rimrl --help`` and a process that only needs the environments never wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rimrl.envs.registration import register_envs

if TYPE_CHECKING:
    from rimrl.agents.a2c import RecurrentA2C
    from rimrl.agents.bc import RecurrentBC
    from rimrl.agents.load import load, pretrained
    from rimrl.agents.policies import (
        CnnRecurrentCorePolicy,
        MultiInputRecurrentCorePolicy,
        RecurrentCorePolicy,
    )
    from rimrl.agents.ppo import RecurrentPPO
    from rimrl.agents.registry import register_algorithm
    from rimrl.cores.base import CoreTrace, RecurrentCore
    from rimrl.cores.contract import check_core
    from rimrl.cores.registry import make_core, register_core
    from rimrl.envs.suites import register_suite
    from rimrl.envs.vector import make_env
    from rimrl.errors import UsageError

__version__ = "0.1.0.dev0"

_HOME_OF = {
    "CnnRecurrentCorePolicy": "rimrl.agents.policies",
    "CoreTrace": "rimrl.cores.base",
    "MultiInputRecurrentCorePolicy": "rimrl.agents.policies",
    "RecurrentA2C": "rimrl.agents.a2c",
    "RecurrentBC": "rimrl.agents.bc",
    "RecurrentCore": "rimrl.cores.base",
    "RecurrentCorePolicy": "rimrl.agents.policies",
    "RecurrentPPO": "rimrl.agents.ppo",
    "UsageError": "rimrl.errors",
    "check_core": "rimrl.cores.contract",
    "load": "rimrl.agents.load",
    "make_core": "rimrl.cores.registry",
    "make_env": "rimrl.envs.vector",
    "pretrained": "rimrl.agents.load",
    "register_algorithm": "rimrl.agents.registry",
    "register_core": "rimrl.cores.registry",
    "register_suite": "rimrl.envs.suites",
}

__all__ = [
    "CnnRecurrentCorePolicy",
    "CoreTrace",
    "MultiInputRecurrentCorePolicy",
    "RecurrentA2C",
    "RecurrentBC",
    "RecurrentCore",
    "RecurrentCorePolicy",
    "RecurrentPPO",
    "UsageError",
    "__version__",
    "check_core",
    "load",
    "make_core",
    "make_env",
    "pretrained",
    "register_algorithm",
    "register_core",
    "register_suite",
]

register_envs()


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'rimrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
