"""What a training that broke proposes: other settings only where settings were to blame."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rimrl.errors import EnvironmentFaultError, UsageError, needs
from rimrl.experiments.config_files import load_config
from rimrl.experiments.run import Run
from rimrl.runs.failures import Failure, described, explained


@pytest.mark.parametrize(("error", "proposed"), [(UsageError("a"), True), (EnvironmentFaultError("b"), False)])
def test_another_rate_is_proposed_only_for_what_a_rate_can_mend(
    error: UsageError, proposed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rimrl.runs.failures.found", lambda run: [run / "512"])
    text = str(explained(error, Run(tmp_path, load_config("recall/rim")), 600))
    assert "512" in text
    assert f"--resume {tmp_path}" in text
    assert ("learning_rate" in text) == proposed


def test_a_failure_of_another_process_keeps_its_fields(tmp_path: Path) -> None:
    error = needs("--gpus", "--ray")
    sent = json.loads(json.dumps(asdict(described(error))))
    told = explained(Failure(**sent), Run(tmp_path, load_config("recall/rim")), 600)
    assert isinstance(told, UsageError)
    assert told.fields == error.fields
    assert str(error) in str(told)
