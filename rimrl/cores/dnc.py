"""Differentiable Neural Computer (Graves et al., Nature 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rimrl.cores.external_memory import Access, ExternalMemory, Shape, content_weighting, erase_and_add

TIE = 1e-5
"""By how much more in use a slot has to be than the one after it to come later, when free slots are looked for.

Slots that nothing has told apart are equally in use but for rounding, and with rounding alone to decide, one call on a
sequence and a call for each step would write to different slots.
"""


class DNC(ExternalMemory):
    r"""An LSTM with a memory in which it finds free slots to write to and follows the order in which it wrote.

    One step, with the memory M ``[N, W]``, one write head and R read heads i. The paper's equations have no numbers; on
    the right are the sections of its Methods.

        hidden, cell = LSTM([x_t ; r_{t-1} ; hidden_{t-1}], cell_{t-1})                      Controller network
        xi           = Wi hidden + bi                                                        Interface parameters

        psi          = prod over i of (1 - f^i wr^i_{t-1})                                   Dynamic memory allocation
        u            = (u_{t-1} + ww_{t-1} - u_{t-1} * ww_{t-1}) * psi                       usage
        a(n)         = (1 - u(n)) * prod of u(m) over the m before n                         allocation weighting
        cw           = softmax over n of bw cos(kw, M_{t-1}(n))                              Content-based addressing
        ww           = gw (ga a + (1 - ga) cw)                                               write weighting
        M_t          = M_{t-1} * (1 - ww e^T) + ww v^T                                       Reading and writing

        L(n, m)      = (1 - ww(n) - ww(m)) L_{t-1}(n, m) + ww(n) p_{t-1}(m); L(n, n) = 0     Temporal memory linkage
        p            = (1 - sum over n of ww(n)) p_{t-1} + ww                                precedence weighting
        forward^i    = L wr^i_{t-1};   backward^i = L^T wr^i_{t-1}
        cr^i         = softmax over n of br^i cos(kr^i, M_t(n))                              Content-based addressing
        wr^i         = pi^i_1 backward^i + pi^i_2 cr^i + pi^i_3 forward^i                    read weighting
        r^i_t        = M_t^T wr^i                                                            Reading and writing
        y_t          = Wy [hidden ; r_t] + by                                                Controller network

    m is before n if u(m) + 1e-5 m < u(n) + 1e-5 n [R]: slots that are equally in use come in order. xi holds the keys k
    and the vector v as they are; the strengths b as oneplus(b) = 1 + log(1 + exp(b)); the erase vector e, the free
    gates f^i, the allocation gate ga and the write gate gw before a sigmoid; the read modes pi^i before a softmax over
    the three. Episodes start with everything at zero. The order of the slots is a constant: gradients flow through u,
    but not through who is before whom. [R] marks what is neither the paper's nor the authors' code's.

    Args:
        input_size: Width I of the input.
        hidden_size: Width F of the output. Default 256.
        num_slots: Slots N. Default 16, as in the authors' code. L makes the state grow with N^2.
        slot_size: Width W of a slot. Default 16, as in the authors' code.
        num_reads: Read heads R. Default 4, as in the authors' code.
        controller_size: Width C of the LSTM. Default ``hidden_size``.

    Parameters:
        * ``controller_input.weight [4 C, I]``, ``.bias [4 C]`` and ``controller_hidden.weight [4 C, C + R W]``, whose
          columns are those of hidden, then of the reads: gates input, forget, cell, output, as in `torch.nn.LSTM`.
        * ``interface.weight [R W + 3 W + 5 R + 3, C]`` Wi, ``.bias`` bi, in the paper's order: kr^i of all heads,
          their br^i, kw, bw, e, v, f^i of all heads, ga, gw, pi^i of all heads.
        * ``output.weight [F, C + R W]`` Wy, ``.bias [F]`` by.

    Raises:
        UsageError: If a size is not positive.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, F]``; state ``(h, c)``, each ``[L, B, F]``, with as many rows L (``num_layers``)
        as it takes: flat, one half in h and one in c, hidden ``[C]``, r ``[R, W]``, M ``[N, W]``, cell ``[C]``, ww
        ``[N]``, wr ``[R, N]``, u ``[N]``, p ``[N]`` and L ``[N, N]``; zeros fill the last rows.

        The trace has a unit per slot, always active. Its input attention is the write weighting: ww(n) to the input,
        1 - ww(n) to null. There is no communication.

    Example:
        >>> core = DNC(input_size=32, hidden_size=96, num_slots=10, slot_size=12)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 96), (3, 3, 96))

    Notes:
        * The LSTM's forget gates start with a bias of 1, as in the authors' code.
        * The paper's controller is a deep LSTM; this one has a single layer, as in the authors' code. Wy and by join
          the paper's two maps to the output, from the controller and from the reads.
        * The paper sorts the slots by usage. Comparing each with each gives the same allocation and costs N^2, as L
          does. Which of two slots of equal usage comes first the paper leaves open, and rounding would decide: all
          slots are alike until one is written to.
        * The authors' code blocks the gradient from u to ww_{t-1}, keeps u from 0 by 1e-6 and has softplus for oneplus;
          the paper and this core do not.
        * u is cut off at 0 and 1, which only rounding crosses.
        * The cosine divides by sqrt(k.k + 1e-6) sqrt(M(n).M(n) + 1e-6), nearly as in the authors' code, so that it
          exists for an empty slot.
    """

    @staticmethod
    def _layout(N: int, W: int, R: int) -> tuple[int, tuple[Shape, ...]]:
        return R * W + 3 * W + 5 * R + 3, ((N,), (R, N), (N,), (N,), (N, N))

    def _access(self, interface: Tensor, memory: Tensor, weightings: list[Tensor]) -> Access:
        W, R = self.slot_size, self.num_reads
        write, read, usage, precedence, link = weightings
        parts = torch.split(interface, [R * W, R, W, 1, W, W, R, 1, 1, 3 * R], dim=1)
        read_keys, read_strengths, write_key, write_strength, erase, add, free, allocate, gate, modes = parts
        free, allocate, gate, erase = (torch.sigmoid(part) for part in (free, allocate, gate, erase))

        retention = (1 - free.unsqueeze(2) * read).prod(dim=1)
        usage = ((usage + write - usage * write) * retention).clamp(0.0, 1.0)
        content = content_weighting(write_key.unsqueeze(1), _oneplus(write_strength).unsqueeze(1), memory).squeeze(1)
        write = gate * (allocate * allocation(usage) + (1 - allocate) * content)
        memory = erase_and_add(memory, write, erase, add)

        link = _linked(link, write, precedence)
        precedence = (1 - write.sum(dim=1, keepdim=True)) * precedence + write
        forward, backward = read @ link.transpose(1, 2), read @ link
        content = content_weighting(read_keys.reshape(-1, R, W), _oneplus(read_strengths).unsqueeze(2), memory)
        pi = modes.reshape(-1, R, 3).softmax(dim=2)
        read = pi[..., 0:1] * backward + pi[..., 1:2] * content + pi[..., 2:3] * forward
        return Access(memory, read @ memory, [write, read, usage, precedence, link])


def allocation(usage: Tensor) -> Tensor:
    """The allocation weighting: the least used slot gets what of it is free, the next one what is left, and so on.

    Args:
        usage: ``[B, N]``, each from 0 to 1.

    Returns:
        ``[B, N]``, not negative and with a sum of at most 1.
    """
    u, others = usage.unsqueeze(2), usage.unsqueeze(1)
    rank = TIE * torch.arange(usage.shape[1], dtype=usage.dtype, device=usage.device)
    before = others + rank < u + rank.unsqueeze(1)  # [B, n, m]
    return (1 - usage) * torch.where(before, others, 1.0).prod(dim=2)


def _linked(link: Tensor, write: Tensor, precedence: Tensor) -> Tensor:
    """L from that of the step before, ``[B, N, N]``, with the new ``write`` and the old ``precedence``, ``[B, N]``."""
    w = write.unsqueeze(2)
    link = (1 - w - w.transpose(1, 2)) * link + w * precedence.unsqueeze(1)
    return link * (1 - torch.eye(link.shape[1], dtype=link.dtype, device=link.device))


def _oneplus(x: Tensor) -> Tensor:
    return 1 + nn.functional.softplus(x)
