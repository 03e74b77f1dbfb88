"""What several tests of pictures need."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from rimrl.reporting import figures, group_plots, plots


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is made, in order."""
    kept: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            kept.append(self)

    for module in (figures, group_plots, plots):
        monkeypatch.setattr(module, "Figure", Kept)
    return kept
