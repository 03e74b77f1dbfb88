"""Neural Turing Machine (Graves, Wayne & Danihelka, 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rimrl.cores.base import State
from rimrl.cores.external_memory import Access, ExternalMemory, Shape, content_weighting, erase_and_add

_EMPTY = 1e-6


class NTM(ExternalMemory):
    r"""An LSTM with a memory that it addresses by content and by shifting from where it was.

    One step, with the memory M ``[N, W]``, one write head and R read heads (arXiv 1410.5401):

        hidden, cell = LSTM([x_t ; reads_{t-1} ; hidden_{t-1}], cell_{t-1})
        xi           = Wi hidden + bi         k ``[W]``, beta, g, s ``[3]``, gamma of every head; e and a ``[W]``

        the weighting w ``[N]`` of a head, from its w_{t-1}:
        wc(i)        = softmax over i of beta cos(k, M(i))                       beta through softplus      (Eq. 5, 6)
        wg           = g wc + (1 - g) w_{t-1}                                    g through a sigmoid        (Eq. 7)
        ws(i)        = s(-1) wg(i+1) + s(0) wg(i) + s(1) wg(i-1)                 s through softmax, i mod N (Eq. 8)
        w(i)         = ws(i)^gamma / sum over j of ws(j)^gamma                   gamma: 1 + softplus        (Eq. 9)

        M_t(i)       = M_{t-1}(i) * (1 - w(i) e) + w(i) a                        w on M_{t-1}, e: sigmoid   (Eq. 3, 4)
        reads_t      = sum over i of w(i) M_t(i)                                 each read head, w on M_t   (Eq. 2)
        y_t          = Wy [hidden ; reads_t] + by

    Episodes start with every entry of M at 1e-6: Collier & Beel (2018) report that an NTM learns fastest from small
    constants. Each head starts in a weighting that is learned, softmax(omega). [R] marks what is neither the paper's
    nor theirs.

    Args:
        input_size: Width I of the input.
        hidden_size: Width F of the output. Default 256.
        num_slots: Slots N. Default 16 [R]; the paper has 128.
        slot_size: Width W of a slot. Default 16 [R]; the paper has 20.
        num_reads: Read heads R. Default 1.
        controller_size: Width C of the LSTM. Default ``hidden_size``; the paper has 100.

    Parameters:
        * ``controller_input.weight [4 C, I]``, ``.bias [4 C]`` and ``controller_hidden.weight [4 C, C + R W]``, whose
          columns are those of hidden, then of the reads: gates input, forget, cell, output, as in `torch.nn.LSTM`.
        * ``interface.weight [(1 + R) (W + 6) + 2 W, C]`` Wi, ``.bias`` bi: the write head's k, beta, g, s(-1), s(0),
          s(1), gamma, then each read head's, then e, then a.
        * ``output.weight [F, C + R W]`` Wy, ``.bias [F]`` by.
        * ``initial_focus [1 + R, N]`` omega, the write head first.

    Raises:
        UsageError: If a size is not positive.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, F]``; state ``(h, c)``, each ``[L, B, F]``, with as many rows L (``num_layers``)
        as it takes: flat, one half in h and one in c, hidden ``[C]``, the reads ``[R, W]``, M ``[N, W]``, cell ``[C]``
        and the weightings ``[1 + R, N]``, the write head's first; zeros fill the last rows.

        The trace has a unit per slot, always active. Its input attention is the write weighting: w(i) to the input,
        1 - w(i) to null. There is no communication.

    Example:
        >>> core = NTM(input_size=32, hidden_size=96, num_slots=20, slot_size=12)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 96), (3, 3, 96))

    Notes:
        * The LSTM's forget gates start with a bias of 1, as in Collier & Beel's code.
        * The paper does not say in which memory a head looks up its key. Here the write head does so in M_{t-1}, and
          the read heads in M_t, which they read (Eq. 2); in Collier & Beel's code all heads look up and read M_{t-1}.
        * It leaves open how parameters are brought into their ranges. Softplus, sigmoid and softmax are as in Collier &
          Beel's code, where k and a also go through tanh and no parameter exceeds 20; here k and a are as they come.
        * The cosine divides by sqrt(k.k + 1e-6) sqrt(M(i).M(i) + 1e-6), so that it exists for an empty slot [R].
        * Eq. 9 is computed as softmax(gamma log ws), with ws of at least the smallest normal number of its dtype.
        * Collier & Beel's code learns what is read before the first step, and lets the start of the memory learn from
          its constant on. Here both stay: nothing is read before the first step, and M starts at the constant [R].
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 256,
        num_slots: int = 16,
        slot_size: int = 16,
        num_reads: int = 1,
        controller_size: int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_slots, slot_size, num_reads, controller_size)
        self.initial_focus = nn.Parameter(torch.randn(1 + num_reads, num_slots))

    @staticmethod
    def _layout(N: int, W: int, R: int) -> tuple[int, tuple[Shape, ...]]:
        return (1 + R) * (W + 6) + 2 * W, ((1, N), (R, N))

    def initial_state(self, batch_size: int) -> State:
        """A memory of small constants and learned weightings; see `RecurrentCore.initial_state`."""
        like = self._like()
        hidden = cell = like.new_zeros(batch_size, self.controller_size)
        reads = like.new_zeros(batch_size, self.num_reads, self.slot_size)
        memory = like.new_full((batch_size, self.num_slots, self.slot_size), _EMPTY)
        weightings = self.initial_focus.softmax(dim=1).expand(batch_size, -1, -1)
        return self._pack([hidden, reads, memory, cell, weightings])

    def _access(self, interface: Tensor, memory: Tensor, weightings: list[Tensor]) -> Access:
        W, heads = self.slot_size, 1 + self.num_reads
        parameters, erase, add = torch.split(interface, [heads * (W + 6), W, W], dim=1)
        to_write, to_read = torch.split(parameters.reshape(-1, heads, W + 6), [1, self.num_reads], dim=1)

        write = _address(to_write, memory, weightings[0])
        memory = erase_and_add(memory, write.squeeze(1), torch.sigmoid(erase), add)  # Eq. 3, 4
        read = _address(to_read, memory, weightings[1])
        return Access(memory, read @ memory, [write, read])  # Eq. 2


def _address(parameters: Tensor, memory: Tensor, previous: Tensor) -> Tensor:
    """New weightings ``[B, H, N]`` of heads with ``parameters [B, H, W + 6]`` and ``previous [B, H, N]`` ones."""
    W = memory.shape[2]
    key, strength, gate, shift, sharpness = torch.split(parameters, [W, 1, 1, 3, 1], dim=2)
    softplus = nn.functional.softplus
    w = content_weighting(key, softplus(strength), memory)  # Eq. 5, 6
    gate = torch.sigmoid(gate)
    w = gate * w + (1 - gate) * previous  # Eq. 7
    back, stay, ahead = shift.softmax(dim=2).chunk(3, dim=2)
    w = back * w.roll(-1, dims=2) + stay * w + ahead * w.roll(1, dims=2)  # Eq. 8
    smallest = torch.finfo(w.dtype).tiny
    return ((1 + softplus(sharpness)) * w.clamp(min=smallest).log()).softmax(dim=2)  # Eq. 9
