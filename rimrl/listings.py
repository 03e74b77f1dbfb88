"""What ``rimrl list`` shows: cores, configurations, suites, environments, sequence tasks and trained agents."""

from __future__ import annotations

from rich import box
from rich.table import Table

# Widths at which cores are compared: features of 128, and the state of the shipped experiments.
_INPUT_SIZE = 128
_HIDDEN_SIZE = 96


def listing(what: str) -> Table:
    """A table of everything of one kind.

    Args:
        what: ``"cores"``, ``"configs"``, ``"suites"``, ``"envs"``, ``"tasks"`` or ``"pretrained"``.
    """
    tables = {
        "cores": _cores,
        "configs": _configs,
        "suites": _suites,
        "envs": _envs,
        "tasks": _tasks,
        "pretrained": _pretrained,
    }
    return tables[what]()


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0)
    return table


def _cores() -> Table:
    from rimrl.cores.registry import CORES, core_options, make_core  # noqa: PLC0415

    table = _table("core", "parameters*", "backends**", "reconstruction", "what it is", "paper")
    table.columns[1].justify = "right"
    table.caption_justify = "left"
    missing: dict[str, list[str]] = {}
    for name, entry in CORES.items():
        # One of the user's own may have no option for its width.
        width = {"hidden_size": _HIDDEN_SIZE} if "hidden_size" in core_options(name) else {}
        core = make_core(name, _INPUT_SIZE, **width)
        number = sum(parameter.numel() for parameter in core.parameters() if parameter.requires_grad)
        reconstruction = "yes" if entry.reconstruction else "no"
        can_run = [backend for backend, unsupported_reason in core.backends.items() if unsupported_reason is None]
        table.add_row(name, f"{number:,}", "/".join(can_run), reconstruction, entry.summary, entry.paper)
        for backend, unsupported_reason in core.backends.items():
            if unsupported_reason is not None:
                missing.setdefault(f"{backend}: {unsupported_reason}", []).append(name)
    lines = [
        f"* at input {_INPUT_SIZE} and hidden {_HIDDEN_SIZE}, every other option at its default",
        "** what can run the core on this machine; the first is in use",
        *(f"not {reason} ({', '.join(cores)})" for reason, cores in missing.items()),
    ]
    table.caption = "\n".join(lines)
    return table


def _configs() -> Table:
    from rimrl.experiments.config_files import shipped_configs, shipped_transfers  # noqa: PLC0415
    from rimrl.sequence.config_files import shipped_presets  # noqa: PLC0415

    table = _table("config", "what it is")
    for name, file in (shipped_configs() | shipped_transfers() | shipped_presets()).items():
        comments = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        table.add_row(name, " ".join(comments[1:]).strip())
    return table


def _suites() -> Table:
    from rimrl.envs.suites import listed_suites  # noqa: PLC0415

    table = _table("suite", "split", "", "what it is")
    for suite in listed_suites():
        table.add_row(suite.name, "", "", suite.description)
        if suite.memoryless is not None:
            note = f"Hardly asks for memory: a feed-forward policy reaches {suite.memoryless:.2f} on train."
            table.add_row("", "", "", note)
        for split in suite.splits:
            table.add_row("", split.name, "held out" if split.held_out else "trained on", split.description)
    return table


def _envs() -> Table:
    import gymnasium  # noqa: PLC0415

    table = _table("environment", "entry point")
    for env_id, spec in sorted(gymnasium.registry.items()):
        if env_id.startswith("rimrl/"):
            table.add_row(env_id, str(spec.entry_point))
    return table


def _tasks() -> Table:
    from rimrl.sequence.registry import TASKS  # noqa: PLC0415

    table = _table("task", "what it is (rimrl sequence TASK)")
    for name, entry in TASKS.items():
        table.add_row(name, entry.summary)
    return table


def _pretrained() -> Table:
    from rimrl.agents.saved.card import read_card  # noqa: PLC0415
    from rimrl.agents.saved.names import WEIGHTS  # noqa: PLC0415
    from rimrl.agents.saved.shipped import PREFIX, shipped_agents  # noqa: PLC0415

    table = _table("agent", "trained steps", "success on train", "return on train", "kB")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, folder in shipped_agents().items():
        card = read_card(folder)
        scores = card["evaluation"]["splits"]["train"]
        success = "-" if scores["success_rate"] is None else f"{scores['success_rate']:.2f}"
        size = (folder / WEIGHTS).stat().st_size / 1000
        steps, mean = f"{card['agent']['num_timesteps']:,}", f"{scores['return_mean']:.2f}"
        table.add_row(f"{PREFIX}{name}", steps, success, mean, f"{size:.0f}")
    table.caption = 'rimrl.pretrained("NAME") loads one, and every command that plays a run takes pretrained:NAME'
    return table
