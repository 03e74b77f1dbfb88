"""What an ONNX graph takes and gives, for people: a section of the README of an export."""

from __future__ import annotations

from typing import Any

_PROGRAM = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
outputs = [each.name for each in session.get_outputs()]
state = {{{state}}}


def act(observation, episode_start):
    # Every array has an axis of environments in front, here of 1.
    global state
    given = {{{observation}, "episode_start": episode_start, **state}}
    found = dict(zip(outputs, session.run(outputs, given)))
    state = {{name: found["next_" + name] for name in state}}
    return found["action"]
"""


def section(graph: dict[str, Any]) -> str:
    """The section.

    Args:
        graph: What `rimrl.agents.graph.onnx_file.write_onnx` says of the graph.
    """
    inputs, outputs, checked = graph["inputs"], graph["outputs"], graph["checked"]
    rows = [
        f"| {way} | `{each['name']}` | {each['dtype']} | `[{', '.join(map(str, each['shape']))}]` |"
        for way, ends in (("in", inputs), ("out", outputs))
        for each in ends
    ]
    new = {each["name"] for each in outputs}
    state = [
        f'"{each["name"]}": np.zeros({tuple(1 if size == "batch" else size for size in each["shape"])}, np.float32)'
        for each in inputs
        if f"next_{each['name']}" in new
    ]
    parts = [each["name"] for each in inputs if each["name"].partition(".")[0] == "observation"]
    observation = [_fed(name, name.partition(".")[2]) for name in parts]
    program = _PROGRAM.format(file=graph["file"], state=", ".join(state), observation=", ".join(observation))
    table = "\n".join(["| | name | dtype | shape |", "| --- | --- | --- | --- |", *rows])
    return (
        f"## ONNX\n\n`{graph['file']}` (opset {graph['opset']}) is one step for a batch of environments.\n\n{table}\n\n"
        "Where `episode_start` is true, the state is reset before the step. Images have their channels where the shape "
        f"says.\n\n```python\n{program}```\n\n{checked['by']} gave the agent's answers to {checked['answers']} random "
        f"observations; the largest difference was {checked['largest_difference']:.1e}.\n"
    )


def _fed(name: str, key: str) -> str:
    return f"{name!r}: observation[{key!r}]" if key else f"{name!r}: observation"
