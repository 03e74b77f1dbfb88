"""The device that a configuration asks for."""

from __future__ import annotations

import torch as th

from rimrl.errors import unknown_name, wrong


def check_device(device: str) -> None:
    """Refuse a device that torch does not have here; Stable-Baselines3 would take the CPU without a word."""
    if device == "auto":
        return
    try:
        kind = th.device(device)
    except RuntimeError:
        raise unknown_name("device", device, ("auto", "cpu", "cuda"), where="train.device") from None
    try:
        th.zeros(1, device=kind).cpu()
    except (RuntimeError, AssertionError):
        raise wrong(f"train.device {device!r}", "is not available on this machine", "use 'auto' or 'cpu'") from None
