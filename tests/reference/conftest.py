"""A core agrees with its transcription on every backend on which it can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import paths


@pytest.fixture(params=paths.PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The core runs on each backend in turn."""
    with paths.on(request.param):
        yield request.param
