"""A policy's step as an ONNX file, and what the file takes and gives."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from rimrl.agents.graph.check import Answers, Graph, Observation, PolicyComparison
from rimrl.agents.graph.step import PolicyStep, quiet, traced
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.rollout import map_parts
from rimrl.errors import cannot, not_installed, one_line, trying

OPSET = 18
_OBSERVATION = "observation"
_START = "episode_start"
_ROWS = "batch"


def require_onnx() -> None:
    """Refuse early what cannot be written here.

    Raises:
        UsageError: If the extra is not installed; says how to install it.
    """
    for package in ("onnx", "onnxscript"):
        _imported(package)


def write_onnx(policy: RecurrentCorePolicy, file: Path) -> dict[str, Any]:
    """Write one step of a policy as an ONNX graph, and check the file against the policy.

    The check runs in onnxruntime where that is installed, otherwise on the graph of torch that the file was made from.

    Args:
        policy: The policy, which stays as it is.
        file: Where to write.

    Returns:
        What a card says of it: ``opset``, ``inputs`` and ``outputs`` with names, dtypes and shapes, ``checked``.

    Raises:
        UsageError: If the extra is missing, the policy has no graph, or the graph is not the policy; no file then.
    """
    require_onnx()
    step = PolicyStep(policy)
    program = traced(step)
    model = _converted(step, program)
    content: bytes = model.SerializeToString()
    runtime = _runtime()
    if runtime is None:
        by, agreement = f"torch {th.__version__}", PolicyComparison(step).check(_torch_graph(program))
    else:
        by = f"onnxruntime {runtime.__version__}"
        agreement = PolicyComparison(step).check(_onnx_graph(runtime, content))
    with trying("write", file):
        file.write_bytes(content)
    return {
        "file": file.name,
        "opset": OPSET,
        "inputs": [_described(each) for each in model.graph.input],
        "outputs": [_described(each) for each in model.graph.output],
        "checked": {"by": by, **agreement._asdict()},
    }


def named_inputs(
    observation: Observation, state: tuple[NDArray[Any], ...], starts: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """What a runtime is fed with, by name: parts of a Dict are ``observation.<key>``.

    Args:
        observation: ``[B, *observation shape]``, or a dict of such.
        state: ``h``, ``c``, and for a critic's core of its own ``critic_h``, ``critic_c``.
        starts: ``[B]`` bool.
    """
    parts = (
        {f"{_OBSERVATION}.{key}": part for key, part in observation.items()}
        if isinstance(observation, dict)
        else {_OBSERVATION: observation}
    )
    return parts | dict(zip(("h", "c", "critic_h", "critic_c"), state, strict=False)) | {_START: starts}


def _converted(step: PolicyStep, program: th.export.ExportedProgram) -> Any:
    """The graph of torch as a checked ONNX model."""
    try:
        with quiet():
            made = th.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
        assert made is not None
        _rename(made.model.graph, _input_names(step), _output_names(program))
        model = made.model_proto
        _tidy(model)
        _imported("onnx.checker").check_model(model, full_check=True)
    except Exception as error:  # an operation without an ONNX form, in every way
        raise cannot("give an ONNX form to", "the policy", one_line(error)) from None
    return model


def _input_names(step: PolicyStep) -> list[str]:
    space = step.policy.observation_space
    keys = space.spaces if isinstance(space, spaces.Dict) else ()
    return [*(f"{_OBSERVATION}.{key}" for key in keys), *(() if keys else (_OBSERVATION,)), *step.state_names, _START]


def _output_names(program: th.export.ExportedProgram) -> list[str]:
    spec = program.call_spec.out_spec
    assert spec is not None
    numbers: dict[str, int] = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    return sorted(numbers, key=lambda name: numbers[name])


def _rename(graph: Any, inputs: list[str], outputs: list[str]) -> None:
    """Name what goes in and out; a value within that has such a name already, from torch's operation, gets another."""
    ends = dict(zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True))
    for node in graph.all_nodes():
        for value in node.outputs:
            if value not in ends and value.name in (*inputs, *outputs):
                value.name = f"{value.name}_within"
    for value, name in ends.items():
        value.name = name


def _tidy(model: Any) -> None:
    """Name the axis of rows, and leave out which lines of whose files each operation comes from."""
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:  # the one axis that `traced` leaves open
                axis.dim_param = _ROWS
    model.producer_name, model.producer_version = "rimrl", ""


def _described(value: Any) -> dict[str, Any]:
    kind = value.type.tensor_type
    dtype = _imported("onnx.helper").tensor_dtype_to_np_dtype(kind.elem_type)
    shape = [axis.dim_param or axis.dim_value for axis in kind.shape.dim]
    return {"name": value.name, "dtype": str(dtype), "shape": shape}


def _onnx_graph(runtime: Any, content: bytes) -> Graph:
    """An ONNX file in onnxruntime."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def answer(observation: Observation, state: tuple[NDArray[Any], ...], starts: NDArray[Any]) -> Answers:
        return dict(zip(names, session.run(None, named_inputs(observation, state, starts)), strict=True))

    return answer


def _torch_graph(program: th.export.ExportedProgram) -> Graph:
    """A graph of torch."""
    module = program.module()

    def answer(observation: Observation, state: tuple[NDArray[Any], ...], starts: NDArray[Any]) -> Answers:
        with th.no_grad():
            given = tuple(th.as_tensor(part) for part in state)
            found = module(map_parts(th.as_tensor, observation), given, th.as_tensor(starts))
        return {name: part.numpy() for name, part in found.items()}

    return answer


def _runtime() -> Any:
    try:
        return import_module("onnxruntime")
    except ImportError:
        return None


def _imported(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise not_installed("the graph", "ONNX", "rimrl[onnx]") from None
