"""GTrXL, the gated Transformer-XL (Parisotto et al., 2020), with Transformer-XL's attention (Dai et al., 2019)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rimrl.cores.attention import split_heads
from rimrl.cores.base import CoreTrace, RecurrentCore, State, require_positive
from rimrl.cores.options import require_divisible, require_finite
from rimrl.cores.tracing import is_traced


class GTrXL(RecurrentCore):
    r"""Layers of attention over the last steps of the episode, each behind a gate that starts near the identity.

    One step, with ``E^0_t = We x_t + be`` and, for layer l = 1 .. L, ``Z_j = LayerNorm(E^(l-1)_j)`` of the steps j that
    can be seen: t itself and up to M before it, none of them before the start of the episode:

        q_t   = Z_t Wq;   k_j = Z_j Wk;   v_j = Z_j Wv;   p_d = R_d Wp              per head
        a_tj  = softmax over j of ((q_t + b) k_j + (q_t + b') p_(t-j)) / sqrt(dh)   (Dai et al., Sec. 3.3)
        Y     = g_l(E^(l-1)_t, relu(concat over heads of sum_j a_tj v_j Wo))
        E^l_t = g'_l(Y, relu(W2 relu(W1 LayerNorm(Y) + b1) + b2))
        y_t   = E^L_t

    R_d encodes how many steps ago something was, ``[sin(d w_i), cos(d w_i)]`` with ``w_i = 10000^(-2i/F)``. LayerNorm
    acts on what attention and MLP read, and not on the way past them ("identity map reordering"). There g, a gate as in
    a GRU, lets in what they add:

        r = sigmoid(Wr y + Ur x);   z = sigmoid(Wz y + Uz x - bg)
        g(x, y) = (1 - z) * x + z * tanh(Wg y + Ug (r * x))

    With bg above zero a fresh layer passes on most of its input.

    Args:
        input_size: Width I of the input.
        hidden_size: Width F of every layer and of the output. Default 256 (the paper's).
        num_layers: Layers L. Default 3 [R]; the paper has 12.
        num_heads: Attention heads H. Default 4 [R]; the paper has 8.
        head_size: Width dh of queries, keys and values of a head. Default ``hidden_size / num_heads`` [R], which must
            then divide; the paper has 64.
        memory_length: How many steps M before the present one are seen. Default 64 [R]; the paper has 512.
        mlp_size: Width of the layer inside the MLP. Default ``4 * hidden_size`` [R].
        gate_bias: bg at the start; it is learned, one for every entry. Default 2.

    Parameters:
        * ``embed.weight [F, I]`` We, ``embed.bias [F]``.
        * ``layers.l.attention``: ``query.weight [H dh, F]`` Wq, ``key_value.weight [2 H dh, F]`` Wk over Wv,
          ``position.weight [H dh, F]`` Wp, ``project.weight [F, H dh]`` Wo, ``content_bias [H, dh]`` b,
          ``position_bias [H, dh]`` b'.
        * ``layers.l.norm_attention``, ``layers.l.norm_mlp``: ``.weight``, ``.bias [F]``.
        * ``layers.l.mlp.0.weight [mlp_size, F]`` W1, ``.bias``; ``layers.l.mlp.2.weight [F, mlp_size]`` W2, ``.bias``.
        * ``layers.l.gate_attention``, ``layers.l.gate_mlp``: ``new.weight [3 F, F]`` Wr, Wz, Wg,
          ``old.weight [2 F, F]`` Ur, Uz, ``reset.weight [F, F]`` Ug, ``bias [F]`` bg.

    Raises:
        UsageError: If an option does not exist or sizes do not fit together.

    Attributes:
        hidden_size: Width of the state, ``(memory_length * F + 1) / 2``, rounded up; the option of that name is
            ``output_size``.
        memory_length: M.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, F]``; state ``(h, c)``, each ``[L, B, hidden_size]``. h and c side by side hold
        the layer's last M inputs, the newest first, then how many of them belong to the episode, then nothing. Inputs
        beyond that number are zero. The trace has one unit, always active.

    Example:
        >>> core = GTrXL(input_size=32, hidden_size=48, memory_length=10)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 48), (3, 3, 241))

    Notes:
        * *It cannot count equal inputs.* Attention is a weighted mean, and weights alone depend on distances. While all
          inputs of an episode are equal, so are all outputs.
        * The papers' texts were not at hand, so that no equation is numbered; the equations are well known, and [R]
          marks sizes and choices of ours.
        * A call runs all its steps at once. One call equals a call for each step, which see the rest as memory.
        * *Gradients.* Transformer-XL stops the gradient at the memory. Here it flows into the state that a call gets,
          as in every core: it ends where a caller detaches the state. Recurrent PPO and A2C do, between the sequences
          that they learn from, which so are Transformer-XL's segments.
        * The first map, ``embed``, stands for the paper's encoder, whose width is F. [R]
        * LayerNorm after the last layer, which some implementations have, is not in the equations and not here.
        * Every layer's ``position_bias`` and ``content_bias`` are its own; they start at zero. [R]
    """

    absent = frozenset({"num_active"})
    fixed = RecurrentCore.fixed | {"memory_length"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 256,
        num_layers: int = 3,
        num_heads: int = 4,
        head_size: int | None = None,
        memory_length: int = 64,
        mlp_size: int | None = None,
        gate_bias: float = 2.0,
    ) -> None:
        require_positive(hidden_size=hidden_size, num_heads=num_heads, memory_length=memory_length)
        require_finite(gate_bias=gate_bias)
        if head_size is None:
            require_divisible("hidden_size", hidden_size, "num_heads", num_heads)
            head_size = hidden_size // num_heads
        mlp_size = 4 * hidden_size if mlp_size is None else mlp_size
        require_positive(head_size=head_size, mlp_size=mlp_size)
        super().__init__(input_size, memory_length * hidden_size // 2 + 1, num_layers=num_layers)
        self.output_size = hidden_size
        self.memory_length = memory_length
        self.embed = nn.Linear(input_size, hidden_size)
        self.layers = nn.ModuleList(
            _Layer(hidden_size, num_heads, head_size, mlp_size, float(gate_bias)) for _ in range(num_layers)
        )

    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if episode_starts is None:
            episode_starts = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        else:  # attention of zero does not hide what is not finite, so rows that start afresh forget it
            fresh = episode_starts[0].bool().view(1, -1, 1)
            state = state[0].masked_fill(fresh, 0), state[1].masked_fill(fresh, 0)
        memory, count = self._unpack(state)
        if not is_traced() and memory.device.type == "cpu":  # rows that nobody sees cost as much as others
            memory = memory[:, :, : int(count.nan_to_num(self.memory_length).max())]
        seen = _what_is_seen(count, episode_starts, memory.shape[2], self.memory_length)
        reach = min(self.memory_length, memory.shape[2] + len(x) - 1)
        positions = _positions(reach, self.output_size, memory)

        E = self.embed(x).transpose(0, 1).to(memory.dtype)  # E^0, [B, T, F]
        inputs = []
        for layer, past, visible in zip(self.layers, memory.unbind(0), seen.visible.unbind(0), strict=True):
            inputs.append(torch.cat([E.flip(1), past], dim=1)[:, : self.memory_length])
            E = layer(E, past, positions, seen.distance, visible)

        trace = CoreTrace.of_one_unit(x) if return_trace else None
        return E.transpose(0, 1), self._pack(torch.stack(inputs), seen.kept), trace

    def _unpack(self, state: State) -> tuple[Tensor, Tensor]:
        """The memory ``[L, B, M, F]``, the newest step first, and how many steps of it are valid, ``[L, B]``."""
        flat = torch.cat(state, dim=-1)
        entries = self.memory_length * self.output_size
        memory = flat[..., :entries].reshape(*flat.shape[:2], self.memory_length, self.output_size)
        return memory, flat[..., entries].detach().round().clamp(0, self.memory_length)

    def _pack(self, memory: Tensor, count: Tensor) -> State:
        """The state that `_unpack` takes apart, from at most M rows; what is not valid becomes zero."""
        index = torch.arange(self.memory_length, device=memory.device)
        memory = nn.functional.pad(memory, (0, 0, 0, self.memory_length - memory.shape[2]))
        memory = memory.masked_fill((index >= count.unsqueeze(-1)).unsqueeze(-1), 0.0)
        flat = torch.cat([memory.flatten(2), count.unsqueeze(-1).to(memory.dtype)], dim=-1)
        flat = nn.functional.pad(flat, (0, 2 * self.hidden_size - flat.shape[-1]))
        h, c = flat.chunk(2, dim=-1)
        return h, c


class _Seen(NamedTuple):
    """Which rows, R of the memory and then the T of a call, every step sees.

    Attributes:
        distance: ``[T, R + T]``, how many steps a row lies before a step; what is further than M, or later, is limited
            to 0 to M.
        visible: ``[L, B, T, R + T]``, whether it is seen.
        kept: ``[L, B]``, how many rows of the next memory belong to the episode.
    """

    distance: Tensor
    visible: Tensor
    kept: Tensor


def _what_is_seen(count: Tensor, episode_starts: Tensor, rows: int, memory_length: int) -> _Seen:
    """From the valid ones of R rows of the memory, ``[L, B]``, and episode starts ``[T, B]``."""
    M, T = memory_length, len(episode_starts)
    past, now = (torch.arange(n, device=count.device) for n in (rows, T))
    distance = now.unsqueeze(1) - torch.cat([-1 - past, now])
    # Episodes are numbered from 0, the one that goes on; a row of the memory that is not valid belongs to none.
    number = episode_starts.t().cumsum(dim=1).expand(len(count), -1, -1)  # [L, B, T]
    valid = past < count.unsqueeze(-1)
    of_row = torch.cat([valid.to(number.dtype) - 1, number], dim=-1)  # [L, B, R + T]
    within = (distance >= 0) & (distance <= M)
    visible = within & (of_row.unsqueeze(-2) == number.unsqueeze(-1))
    kept = (of_row == number[..., -1:]).sum(dim=-1).clamp(max=M)
    return _Seen(distance.clamp(0, M), visible, kept)


def _positions(memory_length: int, width: int, like: Tensor) -> Tensor:
    """R_d ``[M + 1, F]`` for distances d of 0 to M steps."""
    distance = torch.arange(memory_length + 1, device=like.device, dtype=like.dtype)
    i = torch.arange((width + 1) // 2, device=like.device, dtype=like.dtype)
    angles = distance.unsqueeze(1) * torch.exp(i * (-2.0 * math.log(10_000.0) / width))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :width]


class _Layer(nn.Module):
    """Attention and MLP, each with LayerNorm before it and a gate behind it."""

    def __init__(self, hidden_size: int, heads: int, head_size: int, mlp_size: int, gate_bias: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(hidden_size)
        self.attention = _RelativeAttention(hidden_size, heads, head_size)
        self.gate_attention = _GRUGate(hidden_size, gate_bias)
        self.norm_mlp = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, mlp_size), nn.ReLU(), nn.Linear(mlp_size, hidden_size))
        self.gate_mlp = _GRUGate(hidden_size, gate_bias)

    def forward(self, E: Tensor, past: Tensor, positions: Tensor, distance: Tensor, visible: Tensor) -> Tensor:
        """E^l ``[B, T, F]`` from E^(l-1), its memory ``[B, R, F]``, positions and what `_Seen` says."""
        rows = self.norm_attention(torch.cat([past, E], dim=1))
        read = self.attention(rows[:, past.shape[1] :], rows, positions, distance, visible)
        Y = self.gate_attention(E, torch.relu(read)).to(E.dtype)
        return self.gate_mlp(Y, torch.relu(self.mlp(self.norm_mlp(Y)))).to(E.dtype)  # type: ignore[no-any-return]


class _RelativeAttention(nn.Module):
    """Multi-head attention whose scores depend on content and on how long ago it was (Dai et al., 2019, Sec. 3.3)."""

    def __init__(self, hidden_size: int, heads: int, head_size: int) -> None:
        super().__init__()
        width = heads * head_size
        self.heads = heads
        self.query = nn.Linear(hidden_size, width, bias=False)
        self.key_value = nn.Linear(hidden_size, 2 * width, bias=False)
        self.position = nn.Linear(hidden_size, width, bias=False)
        self.project = nn.Linear(width, hidden_size, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, head_size))
        self.position_bias = nn.Parameter(torch.zeros(heads, head_size))

    def forward(self, now: Tensor, rows: Tensor, positions: Tensor, distance: Tensor, visible: Tensor) -> Tensor:
        """What steps ``now [B, T, F]`` read of ``rows [B, R + T, F]``, ``[B, T, F]``."""
        q = split_heads(self.query(now), self.heads)  # [B, T, H, dh]
        k, v = (split_heads(part, self.heads).transpose(1, 2) for part in self.key_value(rows).chunk(2, dim=-1))
        p = split_heads(self.position(positions), self.heads).transpose(0, 1)  # [H, D, dh]
        by_content = (q + self.content_bias).transpose(1, 2) @ k.transpose(-1, -2)  # [B, H, T, R + T]
        by_distance = (q + self.position_bias).transpose(1, 2) @ p.transpose(-1, -2)  # [B, H, T, D]
        by_position = by_distance.gather(-1, distance.expand_as(by_content))
        scores = (by_content + by_position) / math.sqrt(q.shape[-1])
        attention = scores.masked_fill(~visible.unsqueeze(1), float("-inf")).softmax(dim=-1)
        return self.project((attention @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _GRUGate(nn.Module):
    """A GRU's step from x on input y, biased to leave x as it is (Parisotto et al., Sec. 3.2)."""

    def __init__(self, hidden_size: int, bias: float) -> None:
        super().__init__()
        self.new = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.old = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.reset = nn.Linear(hidden_size, hidden_size, bias=False)
        self.bias = nn.Parameter(torch.full((hidden_size,), bias))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """g(x, y), of the shape of both."""
        r_y, z_y, g_y = self.new(y).chunk(3, dim=-1)
        r_x, z_x = self.old(x).chunk(2, dim=-1)
        r, z = torch.sigmoid(r_y + r_x), torch.sigmoid(z_y + z_x - self.bias)
        return (1.0 - z) * x + z * torch.tanh(g_y + self.reset(r * x))
