"""What tests of several studies need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a Ray of two nodes on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed")
    environment = os.environ | {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    line = [sys.executable, "-m", "tests.experiments.ray_cluster"]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate(timeout=60)
