"""Names of the cores. A new core is one file in this folder and one entry here."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from rimrl.errors import UsageError, invalid_value, needs, shorten, unknown_name, wrong
from rimrl.imports import import_modules, is_module_name, require_imported

if TYPE_CHECKING:
    from rimrl.cores.base import RecurrentCore


BackendName = Literal["step", "torch", "native"]
"""The ways to run a core; see `rimrl.cores.backends`."""


@dataclass(frozen=True)
class CoreEntry:
    """Where a core lives and what it is.

    Attributes:
        path: ``"module:Class"``; imported on first use, so that listing cores does not wait for torch.
        summary: One line for ``rimrl list cores``.
        paper: Where it comes from.
        reconstruction: True where the paper gives no equations and its authors no code, so that ours are a reading.
        backends: ``"module:NAME"`` of the `rimrl.cores.backends.Backend`s that run it faster than its own step, the
            fastest first; None: there are none.
    """

    path: str
    summary: str
    paper: str
    reconstruction: bool = False
    backends: str | None = None


CORES: dict[str, CoreEntry] = {
    "rim": CoreEntry(
        "rimrl.cores.rim:RIM",
        "units that compete for the input and communicate by attention",
        "Goyal et al., ICLR 2021",
        backends="rimrl.cores.scan.rim_backends:BACKENDS",
    ),
    "rim_workspace": CoreEntry(
        "rimrl.cores.rim_workspace:WorkspaceRIM",
        "RIM whose units communicate through a shared workspace of slots",
        "Goyal et al., ICLR 2022",
    ),
    "riglstm": CoreEntry(
        "rimrl.cores.riglstm:RigLSTM",
        "Grid LSTM whose units select views of the input and each other, updated softly",
        "Wang et al., 2023 (arXiv 2311.02123)",
        reconstruction=True,
        backends="rimrl.cores.scan.riglstm_backends:BACKENDS",
    ),
    "brims": CoreEntry(
        "rimrl.cores.brims:BRIMs",
        "layers of RIM units, attending bottom-up and top-down",
        "Mittal et al., ICML 2020",
        backends="rimrl.cores.scan.brims_backends:BACKENDS",
    ),
    "scoff": CoreEntry(
        "rimrl.cores.scoff:SCOFF",
        "slots that compete as RIM's units do and choose among shared recurrent cells",
        "Goyal et al., 2020 (arXiv 2006.16225)",
    ),
    "grid_lstm": CoreEntry(
        "rimrl.cores.grid_lstm:GridLSTM",
        "LSTMs whose gates all see every unit's hidden vector",
        "Kalchbrenner et al., 2015",
    ),
    "rmc": CoreEntry(
        "rimrl.cores.rmc:RMC",
        "memory slots that attend to each other and the input, gated",
        "Santoro et al., NeurIPS 2018",
        backends="rimrl.cores.scan.rmc_backends:BACKENDS",
    ),
    "entnet": CoreEntry(
        "rimrl.cores.entnet:EntNet",
        "memory slots with keys, each deciding by itself what to take in",
        "Henaff et al., ICLR 2017",
    ),
    "ntm": CoreEntry(
        "rimrl.cores.ntm:NTM",
        "an LSTM with a memory addressed by content and by shifts",
        "Graves et al., 2014",
    ),
    "dnc": CoreEntry(
        "rimrl.cores.dnc:DNC",
        "an LSTM with a memory that finds free slots and keeps the order of writes",
        "Graves et al., Nature 2016",
    ),
    "gtrxl": CoreEntry(
        "rimrl.cores.gtrxl:GTrXL",
        "gated Transformer-XL: attention over the last steps of the episode",
        "Parisotto et al., ICML 2020",
    ),
    "lstm": CoreEntry(
        "rimrl.cores.lstm:LSTM",
        "torch's LSTM",
        "Hochreiter & Schmidhuber, 1997",
        backends="rimrl.cores.scan.lstm_backends:LSTM_BACKENDS",
    ),
    "gru": CoreEntry(
        "rimrl.cores.lstm:GRU",
        "torch's GRU",
        "Chung et al., 2014",
        backends="rimrl.cores.scan.lstm_backends:GRU_BACKENDS",
    ),
    "rnn": CoreEntry("rimrl.cores.rnn:RNN", "torch's RNN without gates", "Elman, 1990"),
    "indrnn": CoreEntry(
        "rimrl.cores.indrnn:IndRNN",
        "neurons that each see only their own past, in layers",
        "Li et al., CVPR 2018",
    ),
    "feedforward": CoreEntry("rimrl.cores.feedforward:FeedForward", "no memory: the control", "-"),
}


_SHIPPED = frozenset(CORES)
# Classes that were registered as such; those of others come from their paths.
_CLASSES: dict[str, type[RecurrentCore]] = {}


def register_core(name: str, core: type[RecurrentCore] | str, summary: str = "a core of your own") -> None:
    """Make a core of your own known by a name: to configurations, to policies and to saved files.

    Files hold the name, and who loads one must have registered it, too. `rimrl.check_core` tells whether the core keeps
    the contract.

    Args:
        name: Its name in configurations, ``core.name``.
        core: A subclass of `rimrl.RecurrentCore`, or ``"module:Class"``, which is imported on first use.
        summary: One line for ``rimrl list cores``.

    Raises:
        UsageError: If the name is taken by another core, or `core` is none.
    """
    if not isinstance(name, str) or not name:
        raise invalid_value("the name of a core", "text", name)
    if isinstance(core, str):
        module, _, attribute = core.partition(":")
        if not is_module_name(module) or not attribute.isidentifier():
            raise invalid_value(f"core {name!r}", "a class or 'module:Class'", core)
        path = core
    else:
        _require_core(name, core)
        path = f"{core.__module__}:{core.__qualname__}"
    # A class that a notebook defines again is the same.
    if name in _SHIPPED or (name in CORES and CORES[name].path != path):
        raise wrong(f"the core name {name!r}", f"is taken by {CORES[name].path}", "choose another one", "conflict")
    CORES[name] = CoreEntry(path, summary, "-")
    _CLASSES.pop(name, None)
    if not isinstance(core, str):
        _CLASSES[name] = core


def adopt_core(name: str, where: str) -> bool:
    """Make a core known by ``module:Class``, if that is what a name says; the module has to be imported already.

    Args:
        name: What stands for a core.
        where: Where it was found, for the refusal.

    Returns:
        Whether there is a core of that name now.

    Raises:
        UsageError: If the module is not imported, or holds no such core.
    """
    module, colon, attribute = name.partition(":")
    if name in CORES or not colon:
        return name in CORES
    require_imported([module], where)
    from rimrl.cores.base import RecurrentCore  # noqa: PLC0415 (imports torch)

    found = vars(sys.modules[module]).get(attribute)
    if not (inspect.isclass(found) and issubclass(found, RecurrentCore)):
        raise wrong(
            f"core {shorten(name)} in {where}", f"is no subclass of rimrl.RecurrentCore in {module!r}", kind="name"
        )
    register_core(name, found)
    return True


def _require_core(name: str, core: object) -> None:
    from rimrl.cores.base import RecurrentCore  # noqa: PLC0415 (imports torch)

    if not (inspect.isclass(core) and issubclass(core, RecurrentCore)):
        raise invalid_value(f"core {name!r}", "a subclass of rimrl.RecurrentCore", core)
    if "input_size" not in inspect.signature(core).parameters:
        raise needs(f"core {name!r}", "an argument input_size, the width of its input")


def core_class(name: str) -> type[RecurrentCore]:
    """The class behind a core's name.

    Raises:
        UsageError: If there is no such core; names the nearest one.
    """
    if not adopt_core(name, f"core {shorten(name)}"):
        raise unknown_name("core", name, CORES)
    if name in _CLASSES:
        return _CLASSES[name]
    module, _, attribute = CORES[name].path.partition(":")
    if name not in _SHIPPED:
        import_modules([module], f"core {name!r}")
    found: Any = getattr(import_module(module), attribute, None)
    if name not in _SHIPPED:
        _require_core(name, found)
    return found  # type: ignore[no-any-return]


def core_options(core: str | type[RecurrentCore]) -> dict[str, inspect.Parameter]:
    """The options of a core by name, with their annotations and defaults; ``input_size`` is not one of them."""
    cls = core_class(core) if isinstance(core, str) else core
    parameters = dict(inspect.signature(cls).parameters)
    parameters.pop("input_size", None)
    return parameters


LEGACY_OPTION_VALUES: Mapping[str, object] = MappingProxyType(
    {"initialization": "xavier", "forget_bias": None, "chrono": None}
)
"""Options that configurations may be older than, with the values that stand for how cores were before."""
_CORES_BEFORE_THEM = frozenset({"rim", "riglstm", "brims", "grid_lstm", "lstm", "gru"})


def with_legacy_options(core: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a configuration that an earlier version wrote.

    A run's configuration holds every option of its core. One that lacks nothing but `LEGACY_OPTION_VALUES` is older
    than they are and gets their values, so that it still says what was trained; any other is left to the defaults, as
    are cores that have always had these options.

    Args:
        core: A registered name.
        options: The core's options in a configuration.
    """
    missing = core_options(core).keys() - options.keys()
    if core not in _CORES_BEFORE_THEM or not missing <= LEGACY_OPTION_VALUES.keys():
        return dict(options)
    return {**options, **{option: LEGACY_OPTION_VALUES[option] for option in missing}}


def make_core(core: str | type[RecurrentCore], input_size: int, **options: Any) -> RecurrentCore:
    """Build a recurrent core.

    Args:
        core: A registered name (``rimrl list cores``) or a `RecurrentCore` subclass of your own.
        input_size: Width I of the input.
        **options: The core's own options; every one has a default. RIM: ``num_units``, ``num_active``,
            ``unit_size``, ``dynamics``, ``competition``, ``communication`` and more; LSTM and GRU: ``hidden_size``.

    Returns:
        The core, a `torch.nn.Module`.

    Raises:
        UsageError: For an unknown core or option (names the nearest), or options that do not fit together.

    Example:
        >>> make_core("rim", input_size=32, num_units=4, num_active=2, unit_size=16).hidden_size
        64
    """
    from rimrl.cores.options import plain  # noqa: PLC0415 (imports torch)

    cls = core_class(core) if isinstance(core, str) else core
    known = core_options(cls)
    label = core if isinstance(core, str) else cls.__name__
    for option in options:
        if option not in known:
            raise unknown_name(f"option of core {label!r}", option, known)
    try:
        return cls(plain(input_size), **plain(options))
    except UsageError as error:
        raise error.within(f"core {label!r}: ") from None
