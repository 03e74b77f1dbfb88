"""What Python and the kernels' loops over time hand to each other for a whole sequence, described once.

`Structure.as_ctypes` is Python's side. ``sequences.h`` is the kernels' side, written from the same description:

    python -m rimrl.cores.scan.layout

A test holds the file against the description.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_UNITS = 64
"""Most units, or views, that the kernels take."""
HEADER = Path(__file__).with_name("sequences.h")

_NUMBER, _PRODUCT, _FLAGS, _READ, _WRITTEN = "idx", "Gemm<R>", "const uint8_t*", "const R*", "R*"

Part = tuple[str, str, str]
"""Type in C, names, and what they are."""


def _ends(*states: str) -> tuple[Part, ...]:
    """What a sequence starts from, and what comes out of it, for states of these names."""
    return (
        (_FLAGS, "starts", "[T, B], or null: no episode starts"),
        (_READ, _each(states, "{}_start"), "[N, D]: at the start of an episode"),
        (_READ, _each(states, "{}_first"), "[B, N D]: before the first step"),
        (_WRITTEN, _each(states, "{}_last"), "[B, N D]: after the last step"),
        (_WRITTEN, "y", "[B, N D] of each step, which are `y_step` apart"),
        (_NUMBER, "y_step", "from step to step of y, and of dy"),
    )


def _gradients(*states: str) -> tuple[Part, ...]:
    return (
        (_READ, "dy", "as y; this and all below are for the backward pass"),
        (_READ, _each(states, "d{}_last"), "[B, N D]"),
        (_WRITTEN, _each(states, "d{}_first"), "[B, N D]"),
        (_WRITTEN, _each(states, "d{}_start"), "[N, D], added to"),
        (_WRITTEN, _each(states, "d{}"), "scratch: [N, B, D]"),
    )


def _each(states: tuple[str, ...], name: str) -> str:
    return " ".join(name.format(state) for state in states)


@dataclass(frozen=True)
class Structure:
    """A structure of the kernels, for numbers of type R. Every field takes eight bytes, so there are no gaps.

    Attributes:
        name: Its name in C.
        parts: Its fields in their order, those of one type and kind together.
    """

    name: str
    parts: tuple[Part, ...]

    def fields(self) -> Iterator[tuple[str, str]]:
        """Every field and its type in C."""
        for c_type, names, _ in self.parts:
            for name in names.split():
                yield name, c_type

    def as_ctypes(self) -> type[ctypes.Structure]:
        """The structure for Python; it has no other attributes than its fields."""
        fields = [(name, ctypes.c_int64 if c == _NUMBER else ctypes.c_void_p) for name, c in self.fields()]
        return type(self.name, (ctypes.Structure,), {"__slots__": (), "_fields_": fields})

    def as_c(self) -> str:
        """The structure in C++."""
        lines = []
        for c_type, names, meaning in self.parts:
            pointer = "*" if c_type.endswith("*") else ""
            declared = ", ".join(pointer + name for name in names.split())
            lines.append(f"    {c_type.removesuffix('*')} {declared};  // {meaning}\n")
        return f"template <typename R> struct {self.name} {{\n{''.join(lines)}}};\n"


_UNITS: tuple[Part, ...] = (
    (_NUMBER, "T B N D", "time steps, rows, units, width of a unit"),
    (_NUMBER, "G", "width of a unit's gates: 4 D for an LSTM, 3 D for a GRU"),
    (_NUMBER, "K keep", "active units; 0: all steps share one slot of what only the backward pass reads"),
    (_NUMBER, "chunk", "steps that enter a product together, where a step does not need it right away"),
    (_NUMBER, "over_units", "whether units share the input out, instead of taking their share from null"),
    (_NUMBER, "H dk dv", "communication: heads, width of a key and of a value; no heads: none"),
    (_NUMBER, "P", "width of what is made of messages: 2 D with a gate, D without, 0 without communication"),
    (_NUMBER, "num_read", "how many units each head of a unit reads"),
    (_NUMBER, "keeps_messages", "whether `qkv` and `received` are kept for the backward pass, or made anew there"),
    (_NUMBER, "is_joined", "whether values are projected before units read them: dv' is P then, else dv"),
    (_NUMBER, "is_packed", "whether `packed` holds the weights"),
    (_WRITTEN, "packed", "weights as the forward pass multiplies by them, for the next call; null: not kept"),
    *_ends("h", "c"),
    (_READ, "weight_hidden bias bias_hidden", "[N, D, G], twice [N, G]; the last of a GRU, else null"),
    (_READ, "query_key_value project project_bias", "[N, D, H (2 dk + dv)], [P, H dv], [P]"),
    (_READ, "message_scale", "dropout of messages, [T, N, B, D], or null"),
    (_WRITTEN, "h c", "before and after each step: [N, T + 1, B, D]"),
    (_WRITTEN, "gates mask", "[T, N, B, G], [T, N, B]"),
    (
        _WRITTEN,
        "tanh_c hidden",
        "[T, N, B, D], of a GRU what the state adds to the new gate; its scratch: [N, B, G]",
    ),
    (_WRITTEN, "h_new h_read", "[N, T, B, D]: candidates, and what communication reads; the same if it reads these"),
    (_WRITTEN, "attention output", "[T, B, H, N, N], [T, N B, P]"),
    (_WRITTEN, "qkv received", "[T, N, B, H (2 dk + dv')], [T, N B, H dv'], or scratch without T"),
    *_gradients("h", "c"),
    (_WRITTEN, "d_weight_hidden d_bias d_bias_hidden", "of the weights, which are added to"),
    (_WRITTEN, "d_query_key_value d_project d_project_bias", "the same"),
    (
        _WRITTEN,
        "d_gates d_hidden d_qkv",
        "scratch: twice [N, chunk, B, G], the second of a GRU; [N, chunk, B, H (2 dk + dv')]",
    ),
    (_WRITTEN, "d_output d_received dh_new d_h_read", "scratch: [N B, P], [N B, H dv'], twice [N, B, D]"),
)
"""What the structures of a RIM and of a layer of BRIMs have in common."""

RIM_SEQUENCE = Structure(
    "RIMSequence",
    (
        *_UNITS,
        (_NUMBER, "I key_size value_size", "widths of the input, and of its key and value"),
        (_NUMBER, "attends", "whether units compete for the input; if not, each reads all of it"),
        (_READ, "x key value", "[T, B, I], [I, key_size], [I, value_size]"),
        (_READ, "query weight_input", "[N, D, key_size], [N, value_size, G]"),
        (_READ, "read_scale", "dropout of what is read, [T, N, B], or null"),
        (_WRITTEN, "keys values", "[T, B, key_size], [T, B, value_size]; here T is `chunk` without `keep`"),
        (_WRITTEN, "unit_keys", "the keys, met by the units' queries: [N, T, B, D], as above"),
        (_WRITTEN, "share reads", "[T, N, B], scratch: [N, chunk, B, G]"),
        (_WRITTEN, "dx", "[T, B, I], or null"),
        (_WRITTEN, "d_key d_value d_query d_weight_input", "of the weights, which are added to"),
        (_WRITTEN, "d_keys d_values d_scores", "scratch: [chunk, B, key_size], [chunk, B, value_size], [chunk, N, B]"),
        (_WRITTEN, "d_input h_scaled", "scratch: [B, value_size], [chunk, B, D]"),
    ),
)
LSTM_SEQUENCE = Structure(
    "LSTMSequence",
    (
        (_NUMBER, "T B N D keep", "as above"),
        (_PRODUCT, "gemm", "the product of matrices of torch's BLAS; null: ours"),
        *_ends("h", "c"),
        (_READ, "input_gates weight_hidden ones", "[N, T, B, 4 D], [N, D, 4 D], [N, B]"),
        (_WRITTEN, "h c", "before and after each step: [N, T + 1, B, D]"),
        (_WRITTEN, "gates tanh_c", "[T, N, B, 4 D], [T, N, B, D]"),
        *_gradients("h", "c"),
        (_WRITTEN, "d_gates dh_new nothing", "[N, T, B, 4 D], [N, B, D], zeros [N, B, D]"),
    ),
)
RIGLSTM_SEQUENCE = Structure(
    "RigLSTMSequence",
    (
        (_NUMBER, "T B N D", "time steps, rows, units, width of a unit"),
        (
            _NUMBER,
            "V F dk dv",
            "views, their width, width of a query or key, width of what is read of a unit",
        ),
        (_NUMBER, "K views_kept units_kept", "active units, views that a unit reads, other units that it reads"),
        (_NUMBER, "keep chunk", "as above; steps whose weights' gradients are taken together"),
        (_NUMBER, "is_packed", "whether `packed` holds the weights"),
        (_WRITTEN, "packed", "weights as the forward pass multiplies by them, for the next call; null: not kept"),
        *_ends("h", "c"),
        (_READ, "views keys soft_input", "[T, B, V, F], [T, B, V, dk], [T, B, dk]"),
        (_READ, "query weight_input bias", "[N, D, dk], [N, F, 4 D], [N, 4 D]"),
        (_READ, "weight_own weight_others query_key_value", "[N, D, 4 D], [N, dv, 4 D], [N, D, 2 dk + dv]"),
        (_READ, "soft_matrix soft_key", "[2 D, dk], [D, dk]"),
        (_WRITTEN, "h c", "before and after each step: [N, T + 1, B, D]"),
        (_WRITTEN, "queries attention read priority", "[T, N, B, dk], [T, B, N, V], [T, B, N, F], scratch: [N, B]"),
        (_WRITTEN, "qkv unit_attention others", "[T, N, B, 2 dk + dv], [T, B, N, N], [N, T, B, dv]"),
        (_WRITTEN, "received", "scratch: [N, B, dv]"),
        (_WRITTEN, "gates tanh_c h_new mask share", "[T, N, B, 4 D], twice [T, N, B, D], twice [T, N, B]"),
        (_WRITTEN, "means soft_query direction", "[T, B, 2 D], [T, B, dk], [T, B, D]"),
        *_gradients("h", "c"),
        (_READ, "ones nothing", "[N, B], zeros [N, B, D]"),
        (_WRITTEN, "d_views d_keys d_soft_input", "[T, B, V, F], [T, B, V, dk], [T, B, dk]"),
        (_WRITTEN, "d_query d_weight_input d_bias", "as the weights; these and the next two rows are added to"),
        (_WRITTEN, "d_weight_own d_weight_others d_query_key_value", "the same"),
        (_WRITTEN, "d_soft_matrix d_soft_key", "the same; d_soft_key times sqrt(dk)"),
        (
            _WRITTEN,
            "d_gates d_queries d_qkv",
            "scratch: [N, chunk, B, 4 D], [.., dk], [.., 2 dk + dv]",
        ),
        (_WRITTEN, "d_direction d_means dh_new dc_past", "scratch: [chunk, B, D], [B, 2 D], twice [N, B, D]"),
        (_WRITTEN, "d_read d_others", "scratch: [N, B, F], [N, B, dv]"),
    ),
)
RMC_SEQUENCE = Structure(
    "RMCSequence",
    (
        (_NUMBER, "T B N D E", "time steps, rows, slots, their width F, elements of the input; R is N + E"),
        (_NUMBER, "H dk dv", "heads, width of a key and of a value; W is H (2 dk + dv)"),
        (_NUMBER, "blocks layers", "rounds K of attention, layers L of the perceptron"),
        (_NUMBER, "keep", "as above"),
        (_NUMBER, "is_packed", "whether `packed` holds the weights"),
        (_WRITTEN, "packed", "weights as the forward pass multiplies by them, for the next call; null: not kept"),
        *_ends("h"),
        (_READ, "rows gate_input", "[T, B, E, F], [T, B, 2 F] with the constants that are added to gates"),
        (_READ, "qkv_weight qkv_bias qkv_scale qkv_shift", "[K, W, F], thrice [K, W]"),
        (
            _READ,
            "first_scale first_shift second_scale second_shift",
            "[K, F]: of the norms in a block",
        ),
        (_READ, "mlp_weight mlp_bias gate_memory", "[L, F, F], [L, F], [2 F, F]"),
        (_WRITTEN, "h", "before and after each step: [N, T + 1, B, F]"),
        (_WRITTEN, "z", "what enters the blocks and what leaves the last: [T, K + 1, R, B, F]"),
        (_WRITTEN, "qkv_hat qkv attention", "[T, K, R, B, W], the same, [T, K, B, H, R, R]; hat: normalised"),
        (_WRITTEN, "first_hat between second_hat", "[T, K, R, B, F]"),
        (_WRITTEN, "hidden deviation", "[T, K, L - 1, R, B, F], [T, K, 3, R, B]: inverse standard deviations"),
        (_WRITTEN, "gates tanh_memory tanh_new", "[T, N, B, 2 F], twice [T, N, B, F]"),
        *_gradients("h"),
        (_WRITTEN, "d_rows d_gate_input", "[T, B, E, F], [T, B, 2 F]"),
        (
            _WRITTEN,
            "d_qkv_weight d_qkv_bias d_qkv_scale d_qkv_shift",
            "as the weights: added to, like all that follows",
        ),
        (_WRITTEN, "d_first_scale d_first_shift d_second_scale d_second_shift", "the same"),
        (_WRITTEN, "d_mlp_weight d_mlp_bias d_gate_memory", "the same"),
        (_WRITTEN, "dz d_first d_second d_qkv d_gates", "scratch: thrice [R, B, F], [R, B, W], [N, B, 2 F]"),
    ),
)
BRIMS_LAYER = Structure(
    "BRIMsLayer",
    (
        *_UNITS,
        (_NUMBER, "L", "layers, which lie one after the other; W is N D"),
        (
            _NUMBER,
            "heads key_size value_size",
            "input attention: heads, widths of a key and a value; U is heads value_size",
        ),
        (_NUMBER, "M I", "elements of the input, 0 but for the first layer, and their width"),
        (
            _NUMBER,
            "below above",
            "layers down and up to those that are elements, too, or 0; M' counts all, E is as below",
        ),
        (_READ, "x input_weight", "[T, B, M, I], [M, I, E]: keys of all heads, then values, E = heads key_size + U"),
        (_READ, "below_weight above_weight", "[W, E]; null where there is none"),
        (_READ, "query weight_input", "[N, D, heads key_size], [N, U, G]"),
        (_READ, "read_scale", "dropout of what is read, [T, N, B, heads, M'], or null"),
        (_WRITTEN, "rows outputs", "before and after a step: [T + 1, B, W], [T, B, W]; y, and dy, may be null"),
        (_WRITTEN, "elements queries", "[T, B, M', E], kept in any case; [T, N, B, heads key_size]"),
        (_WRITTEN, "weights read priority", "[T, N, B, heads, 1 + M'], [N, T, B, U], [T, N, B]"),
        (_WRITTEN, "dx d_rows d_read", "[T, B, M, I], or null; scratch: [B, W], [N, B, U]"),
        (_WRITTEN, "d_queries d_elements", "scratch: [N, chunk, B, heads key_size], [chunk, B, M', E]"),
        (_WRITTEN, "d_query d_weight_input", "of the weights, which are added to, as all that follows"),
        (_WRITTEN, "d_input_weight d_below_weight d_above_weight", "the same"),
    ),
)


STRUCTURES = (RIM_SEQUENCE, LSTM_SEQUENCE, RIGLSTM_SEQUENCE, RMC_SEQUENCE, BRIMS_LAYER)


def fingerprint() -> str:
    """What kernels say of themselves that were compiled for these structures."""
    return hashlib.sha256(_structures().encode()).hexdigest()[:16]


def _structures() -> str:
    return "\n".join(structure.as_c() for structure in STRUCTURES)


def header() -> str:
    """Content of ``sequences.h``."""
    return (
        "// Written by rimrl/cores/scan/layout.py, which describes what is here; change that, and run it.\n"
        "#pragma once\n"
        "#include <cstdint>\n\n"
        "typedef int64_t idx;\n"
        f"static const idx MAX_UNITS = {MAX_UNITS};\n\n"
        "template <typename R>\n"
        "using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const R*, const R*,\n"
        "                      const int*, const R*, const int*, const R*, R*, const int*);\n\n"
        f'#define LAYOUT "{fingerprint()}"\n\n'
        f"{_structures()}"
    )


if __name__ == "__main__":
    HEADER.write_text(header(), encoding="utf-8")
