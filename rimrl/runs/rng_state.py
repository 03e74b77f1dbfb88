"""The state of everything that draws at random in a process, as tensors and JSON; and back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from torch import Tensor

from rimrl.errors import one_line
from rimrl.runs.validated import DamagedError, Fields


def random_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """States of torch's, NumPy's and Python's own generators.

    Returns:
        What goes into JSON, and what goes beside it as tensors.
    """
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    tensors = {
        "random.torch": th.get_rng_state(),
        "random.numpy": th.as_tensor(numpy_state["state"]["key"].astype(np.int64)),
        "random.python": th.tensor(words, dtype=th.int64),
    }
    if th.cuda.is_available() and th.cuda.is_initialized():  # type: ignore[no-untyped-call]
        tensors["random.cuda"] = th.cuda.get_rng_state()
    state = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
    }
    return state, tensors


def restore_rng_state(state: Fields, tensors: Mapping[str, Tensor]) -> None:
    """Bring the generators to where `random_state` found them.

    Raises:
        DamagedError: If something is missing or does not fit.
    """
    python, of_numpy = state.nested("python"), state.nested("numpy")
    try:
        gauss = python.number("gauss") if "gauss" in python else None
        random.setstate((python.integer("version"), tuple(tensors["random.python"].tolist()), gauss))
        key = tensors["random.numpy"].numpy().astype(np.uint32)
        np.random.set_state(
            ("MT19937", key, of_numpy.integer("pos", 0, 624), of_numpy.integer("has_gauss"), of_numpy.number("gauss"))
        )
        th.set_rng_state(tensors["random.torch"])
        if "random.cuda" in tensors and th.cuda.is_available():
            th.cuda.set_rng_state(tensors["random.cuda"])
    except DamagedError:
        raise
    except (KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise DamagedError(f"a random state does not fit ({one_line(error)})") from None
