"""``rimrl export``: a run's agent as a folder that can be handed to others.

model.safetensors  the weights
card.json          what rebuilds the agent, what it was trained on and how, what it scores
README.md          the same for people, with the front matter of the Hugging Face Hub
policy.onnx        one step of the agent for other programs, on request
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rimrl import __version__
from rimrl.agents.graph.card import section
from rimrl.agents.graph.onnx_file import require_onnx, write_onnx
from rimrl.agents.saved.card import read_card
from rimrl.agents.saved.exported import write_exported
from rimrl.agents.saved.names import CARD, GRAPH, WEIGHTS
from rimrl.errors import UsageError, conflict, damaged, quoted, trying, wrong
from rimrl.experiments.loading import load_agent
from rimrl.experiments.run import Run
from rimrl.files import check_writable, replacing
from rimrl.reading import MissingError
from rimrl.runs.environment import run_facts
from rimrl.runs.evaluations import read_evaluation, wilson_interval

README = "README.md"
# Evaluations of another agent must not stay beside a new one.
_NAMES = (WEIGHTS, CARD, README, GRAPH, "evaluation.json")
_FACTS = ("rimrl_version", "name", "environment", "model", "evaluation", "training", "config")
_TRAINING = ("status", "num_timesteps", "time", "versions", "python", "commit")
_SCORES = (
    "held_out",
    "episodes",
    "return_mean",
    "return_std",
    "length_mean",
    "success_rate",
    "random_return_mean",
    "random_success_rate",
)


def export(
    run: Run, folder: Path, best: bool = False, trust: bool = False, onnx: bool = False, half: bool = False
) -> Path:
    """Write a run's agent as weights and a card, neither of which can hold code.

    Args:
        run: A run that has been trained; or an export, of which this makes another with an ONNX graph.
        folder: Where to write; new, empty, or an earlier export, which is replaced.
        best: Export ``best_model.zip`` instead of ``model.zip``.
        trust: Run code that the file of the agent brings along (`rimrl.load`). Default False.
        onnx: Also write one step as an ONNX graph, checked against the agent. Default False.
        half: Round weights to float16 (`write_exported`). The scores are those of the run, not of what is rounded.
            Default False.

    Returns:
        The folder.

    Raises:
        UsageError: If the folder holds something else or cannot be written, the run has no agent or is an export and no
            graph is asked for, the agent has weights that are not finite, or an ONNX graph is asked for that cannot be
            made here or would not be the agent, as that of an agent with masks.
    """
    _refuse_taken(folder)
    exported = (run.path / CARD).is_file()
    if exported and not onnx:
        raise wrong(run.path, "is an export already", "copy it, or add a graph with --onnx", "state")
    if onnx:
        require_onnx()
    file = run.agent_file(best)
    check_writable(folder / CARD)
    agent = load_agent(run, best, trust, device="cpu")
    if onnx and agent.use_masking:
        raise conflict("--onnx", f"agent.use_masking of {file}: a graph has no input for masks", "leave it out")
    facts = _facts_of_export(run.path) if exported else _facts(run, file.name)
    with replacing(folder, _NAMES) as partial:
        if onnx:
            facts["onnx"] = write_onnx(agent.policy, partial / GRAPH)
        write_exported(agent, partial, facts, half)
        with trying("write", folder):
            (partial / README).write_text(model_card(read_card(partial)), encoding="utf-8")
    return folder


def _facts(run: Run, model: str) -> dict[str, Any]:
    """What a card says of a run beside its agent."""
    config, found = run.config, run_facts(run.path)
    return {
        "rimrl_version": __version__,
        "name": config.name,
        "environment": {
            "id": config.env.id,
            "kwargs": dict(config.env.kwargs),
            "efference_copies": config.env.efference_copies,
        },
        "model": model,
        "evaluation": _evaluation(run, model),
        # How the training ended, and with which versions.
        "training": {key: found[key] for key in _TRAINING if key in found},
        "config": {"name": config.name, **config.above(), **config.groups()},
    }


def _facts_of_export(folder: Path) -> dict[str, Any]:
    card = read_card(folder)
    return {name: card[name] for name in _FACTS if name in card}


def model_card(card: dict[str, Any]) -> str:
    """The card for people, with the Hub's front matter and its ``model-index``."""
    env, agent, evaluation = card["environment"], card["agent"], card["evaluation"]
    core = agent["policy_kwargs"].get("core", "rim")
    front: dict[str, Any] = {
        "library_name": "rimrl",
        "tags": ["reinforcement-learning", "deep-reinforcement-learning", "stable-baselines3", "rimrl", str(core)],
    }
    rows = []
    if evaluation is not None:
        results = []
        for split, scores in evaluation["splits"].items():
            dataset = {"name": f"{evaluation['suite']} ({split})", "type": evaluation["suite"]}
            figure = {"type": "mean_reward", "name": "mean_reward"}
            value = f"{scores['return_mean']:.2f} +/- {scores['return_std']:.2f}"
            task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
            results.append({"task": task, "dataset": dataset, "metrics": [{**figure, "value": value}]})
            success = scores.get("success_rate")
            cells = (split, "held out" if scores["held_out"] else "trained on", str(scores["episodes"]), value)
            low, high = scores.get("success_interval", (None, None))
            rate = "-" if success is None else f"{success:.2f} [{low:.2f}, {high:.2f}]"
            rows.append(f"| {' | '.join([*cells, rate])} |")
        front["model-index"] = [{"name": card["name"], "results": results}]
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {card['name']}\n",
        f"A {agent['algorithm']} agent with the recurrent core `{core}`, trained on `{env['id']}` for "
        f"{agent['num_timesteps']:,} steps with rimrl {card['rimrl_version']}.\n",
    ]
    masks = ", action_masks=env.action_masks()" if agent.get("use_masking", False) else ""
    if rows:
        head = "| split | | episodes | return | success |\n| --- | --- | --- | --- | --- |"
        note = "Behind a success rate stands its 95 % interval over episodes (Wilson)."
        lines.append("## Scores\n\n" + "\n".join([head, *rows]) + f"\n\n{note}\n")
    lines.append(
        "## Use\n\n"
        "```python\nimport rimrl\n\n"
        'agent = rimrl.load("THIS_FOLDER")\n'
        f"action, state = agent.predict(observation, state, episode_start{masks})\n```\n\n"
        "`rimrl evaluate`, `rimrl inspect` and `rimrl watch` take the folder like a run. "
        "`card.json` and `model.safetensors` are all that is read, and neither can hold code.\n"
    )
    if "onnx" in card:
        lines.append(section(card["onnx"]))
    return "\n".join(lines)


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise wrong(folder, "is a file", "rimrl export needs a folder", "state")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            read_card(folder)
        except UsageError:
            raise wrong(
                folder, "holds other files than an export", "choose another folder, or empty it", "state"
            ) from None


def _evaluation(run: Run, model: str) -> dict[str, Any] | None:
    """The scores of this very agent on its own suite, without the log of every episode."""
    file = run.path / "evaluation.json"
    try:
        found = read_evaluation(file)
        if found["model"] != model:
            return None
        splits = {
            name: {key: result[key] for key in _SCORES if key in result} for name, result in found["splits"].items()
        }
        for result in splits.values():
            if not all(isinstance(result[key], int | float) for key in ("return_mean", "return_std")):
                raise TypeError
            if result.get("success_rate") is not None:
                result["success_interval"] = list(wilson_interval(result["success_rate"], result["episodes"]))
        return {key: found[key] for key in ("suite", "num_timesteps", "deterministic", "seed")} | {"splits": splits}
    except MissingError:
        return None
    except (UsageError, KeyError, TypeError) as error:
        raise (error if isinstance(error, UsageError) else damaged(file, error)).within(
            after=f"; run again: rimrl evaluate {quoted(run.path)}"
        ) from None
