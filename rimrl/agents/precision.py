"""Arithmetic in bfloat16 for the features extractor, where the device has it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeAlias, get_args

import torch as th

from rimrl.errors import invalid_value, needs

Autocast: TypeAlias = Literal["bf16"]
"""``"bf16"``: matrix products and convolutions of the extractor in bfloat16; its parameters stay float32."""


def check_autocast(autocast: Autocast | None, device: th.device | None = None) -> None:
    """Refuse an arithmetic that does not exist or, given a device, that the device does not have.

    Raises:
        UsageError: If so; says what would work.
    """
    if autocast is None:
        return
    if autocast not in get_args(Autocast):
        raise invalid_value("autocast", f"None or one of {', '.join(get_args(Autocast))}", autocast)
    if device is not None and not has_bf16(device):
        raise needs(
            f"autocast {autocast!r}", f"bfloat16 instructions, which this {device.type} lacks", advice="use None"
        )


def has_bf16(device: th.device) -> bool:
    """Whether the device computes in bfloat16 rather than imitating it."""
    if device.type == "cpu":
        return bool(th.backends.mkldnn.is_available() and th.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]
    return device.type == "cuda" and th.cuda.is_bf16_supported(including_emulation=False)


def autocasting(autocast: Autocast, device: th.device) -> AbstractContextManager[object]:
    """The context in which an extractor computes."""
    assert autocast == "bf16"
    return th.autocast(device.type, th.bfloat16)


def keeping_casts(autocast: Autocast | None, device: th.device) -> AbstractContextManager[object]:
    """A context around many `autocasting` ones between which no weight changes: each weight is cast once.

    It casts nothing itself, so environments and callbacks inside compute as they always do.
    """
    if autocast is None:
        return nullcontext()
    return th.autocast(device.type, th.bfloat16, enabled=False)
