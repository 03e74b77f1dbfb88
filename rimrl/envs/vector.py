"""Makes environments by name, one at a time or as a Stable-Baselines3 vector."""

from __future__ import annotations

import inspect
import multiprocessing
import re
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rimrl.envs.atari_presets import with_preset
from rimrl.envs.checks import check_at_least, is_number
from rimrl.envs.popgym_suites import is_popgym
from rimrl.envs.replay import Replayable, ReportCrash
from rimrl.envs.splits import Suite
from rimrl.envs.suites import get_suite, is_suite, listed_suites
from rimrl.errors import (
    UsageError,
    as_raised,
    cannot,
    conflict,
    damaged,
    mismatch,
    needs,
    shorten,
    unknown_name,
    wrong,
)
from rimrl.imports import import_modules, imported, module_in
from rimrl.reading import check_regular, parse_json
from rimrl.spaces import check_spaces, describe_space

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv, VecMonitor

    from rimrl.envs.native import Simulator

Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]
"""Puts a wrapper around an environment: a wrapper's class, or a partial call of it."""
Backend = Literal["dummy", "subproc", "native", "envpool"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

_LONGEST_LINE = 2**16
_ATARI_ID = re.compile(r"ALE/\w+-v5")
# Arguments of `rimrl.envs.atari`: what the games show, and what an agent learns from.
_ATARI_SCREEN = {"screen_size", "flicker", "flicker_burst"}
_ATARI_PREPARATION = {"frameskip", "noop_max", "frame_stack"} | _ATARI_SCREEN
_ATARI_SIGNAL = {"terminal_on_life_loss", "clip_rewards"}
# What every worker of "subproc" would import; their server imports it once. `__main__` is multiprocessing's default.
_PRELOADED = ["__main__", "rimrl.envs.vector", "rimrl.envs.replay", "stable_baselines3.common.vec_env", "minigrid"]
# What a game's switches are set to (`rimrl.envs.atari_games.Flavours`).
_ATARI_FLAVOUR = {"mode", "difficulty"}


def make_env(
    id_or_suite: str | Suite, split: str = "train", *, efference_copies: bool = False, **env_kwargs: Any
) -> gymnasium.Env[Any, Any]:
    """Make an environment of a suite, or any registered environment.

    MiniGrid and BabyAI environments come with prepared observations (`rimrl.envs.minigrid.MiniGridObservation`);
    `gymnasium.make` gives them as MiniGrid made them. ``ALE/*-v5`` games come as stacked frames
    (`rimrl.envs.atari.make_atari`), whole and with their true scores; ``popgym-*`` ids as vectors that hold the
    previous action (`rimrl.envs.popgym.make_popgym`).

    Args:
        id_or_suite: Name of a suite, such as ``"distractors"``, a suite (`rimrl.experiments.suite_files`), or a
            gymnasium id, such as ``"CartPole-v1"``.
        split: Split of the suite; a plain id has only ``"train"``.
        efference_copies: Show the previous action and reward, too (`rimrl.envs.efference.EfferenceCopies`). The reward
            is the environment's own, for ``ALE/*-v5`` games the score; `make_vec_env` shows what it is clipped to.
        **env_kwargs: Arguments for the environment, over those of the split. MiniGrid environments also take those
            of `MiniGridObservation`, ``ALE/*-v5`` games those of `make_atari` and ``preset``
            (`rimrl.envs.atari_presets`; ``"machado"`` by default); ``popgym-*`` ids those of `make_popgym` alone.

    Returns:
        The environment.

    Raises:
        UsageError: If there is no such suite, id, split, argument or preset; names the nearest one that exists. If
            POPGym is needed and not installed.

    Example:
        >>> env = make_env("distractors", split="novel_shapes", num_distractors=5)
        >>> env.observation_space["image"].shape
        (7, 7, 20)
    """
    env_id, kwargs = resolve(id_or_suite, split, **env_kwargs)
    if _is_atari(env_id):
        # What agents learn from is not a game's; asked for by name, it is refused like any argument it does not have.
        unasked = {"preset"} | _ATARI_SIGNAL - env_kwargs.keys()
        kwargs = {name: value for name, value in kwargs.items() if name not in unasked}
    env = _make(env_id, kwargs)
    if not efference_copies:
        return env
    from rimrl.envs.efference import EfferenceCopies  # noqa: PLC0415 (imports torch)

    return EfferenceCopies(env)


def check_splits(suite: str | Suite, wrappers: Sequence[Wrap] = (), **env_kwargs: Any) -> None:
    """Refuse a suite whose splits show or take different things.

    Args:
        suite: The suite, or its name.
        wrappers: As for `make_vec_env`.
        **env_kwargs: As for `make_env`.

    Raises:
        UsageError: Names the split, and the key of the observations where only one differs.
    """
    shown = {}
    suite = get_suite(suite)
    for split in suite.splits:
        env = _wrapped(make_env(suite, split.name, **env_kwargs), split.env_id, wrappers)
        shown[split.name] = {"observations": env.observation_space, "actions": env.action_space}
        env.close()
    for name, found in shown.items():
        for what, space in found.items():
            known = shown["train"][what]
            if space == known:
                continue
            if isinstance(space, spaces.Dict) and isinstance(known, spaces.Dict):
                keys = sorted(space.spaces.keys() | known.spaces.keys())
                differing = next(key for key in keys if space.spaces.get(key) != known.spaces.get(key))
                what = f"{what} {differing!r}"  # noqa: PLW2901
            raise mismatch(
                f"{what} of {name!r} in {suite.name!r}",
                f"those of 'train', {describe_space(known)}",
                describe_space(space),
            )


def resolve(id_or_suite: str | Suite, split: str = "train", **env_kwargs: Any) -> tuple[str, dict[str, Any]]:
    """Look up what stands behind a name: what must be stored with a result for it to be repeated.

    Args:
        id_or_suite: As for `make_env`.
        split: As for `make_env`.
        **env_kwargs: As for `make_vec_env`.

    Returns:
        The gymnasium id, and the arguments with those of the split and, for ``ALE/*-v5`` games, every value of the
        preset and the preset's name.

    Raises:
        UsageError: If there is no such suite, split or preset.

    Example:
        >>> env_id, kwargs = resolve("ALE/Pong-v5")
        >>> kwargs["preset"], kwargs["repeat_action_probability"]
        ('machado', 0.25)
    """
    env_id, split_kwargs = _find_split(id_or_suite, split)
    kwargs = {**split_kwargs, **env_kwargs}
    return env_id, with_preset(kwargs) if _is_atari(env_id) else kwargs


def _make(env_id: str, env_kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make the environment behind a name."""
    spec = _find_spec(env_id)
    shows_minigrid = _entry_is_minigrid(spec)
    valid = _popgym_arguments() if is_popgym(env_id) else _argument_names(spec)
    if valid is not None:
        if _is_atari(env_id):
            valid = (valid | _ATARI_PREPARATION | {"preset"}) - {"obs_type"}
        elif shows_minigrid:
            valid |= _preparation_arguments()
        _refuse_unknown(env_kwargs, valid, f"environment {env_id!r}")
    if _is_atari(env_id):
        from rimrl.envs.atari import make_atari  # noqa: PLC0415 (imports torch)

        return make_atari(env_id, **env_kwargs)
    if is_popgym(env_id):
        from rimrl.envs.popgym import make_popgym  # noqa: PLC0415 (of an extra)

        return make_popgym(env_id, **env_kwargs)
    make: Callable[..., gymnasium.Env[Any, Any]] = partial(gymnasium.make, env_id)
    if shows_minigrid:
        from rimrl.envs.minigrid import prepared  # noqa: PLC0415 (minigrid is slow to import)

        make = prepared(make)
    return make(**env_kwargs)


def make_vec_env(
    id_or_suite: str | Suite,
    split: str = "train",
    n_envs: int = 1,
    seed: int | None = None,
    backend: Backend = "dummy",
    monitor_dir: Path | None = None,
    append_monitor: bool = False,
    efference_copies: bool = False,
    replayable: bool = False,
    wrappers: Sequence[Wrap] = (),
    **env_kwargs: Any,
) -> VecEnv:
    """Make a vector of environments that records every episode.

    Args:
        id_or_suite: As for `make_env`.
        split: As for `make_env`.
        n_envs: Number of environments.
        seed: Environment i is seeded with `seed` + i; None leaves them unseeded.
        backend: ``"dummy"`` steps them one after the other in this process, ``"subproc"`` each in a process of its
            own. Two more step all of them at once in C++: ``"native"`` plays ``ALE/*-v5`` games with ale-py's own
            vector (`rimrl.envs.native_atari`), ``"envpool"`` plays MiniGrid and BabyAI ids and needs EnvPool
            (`rimrl.envs.native_minigrid`; ``pip install 'rimrl[fast]'``). Both draw levels and chance differently, so
            that a seed repeats a run only with the same backend, and take fewer arguments.
        monitor_dir: Folder that gets one ``monitor.csv`` for all environments, made if missing; None writes none.
        append_monitor: Continue an existing ``monitor.csv``, times included, as a resumed run must; by default it is
            overwritten.
        efference_copies: Show the previous action and reward, too (`rimrl.envs.efference.VecEfferenceCopies`): the
            reward that an agent learns from, clipped where it is clipped, and nothing after a lost life that ends an
            episode.
        replayable: Keep what brings other environments to where these are (`rimrl.envs.replay`), as checkpoints need;
            back ends ``"native"`` and ``"envpool"`` cannot.
        wrappers: Go around every single environment, the first one innermost; what the monitor counts is what the
            outermost pays. Back ends ``"native"`` and ``"envpool"``, which have no single environments, take none.
        **env_kwargs: As for `make_env`; for ``ALE/*-v5`` games also ``terminal_on_life_loss`` and ``clip_rewards``
            (`rimrl.envs.atari.LearningSignal`).

    Returns:
        The environments in a single `VecMonitor`. Episodes are recorded with ``is_success`` where the environment
        reports it. Around the monitor, which records whole games and true scores, ``ALE/*-v5`` games have a
        `LearningSignal`; efference copies are outermost.

    Raises:
        UsageError: As `make_env`, and if `n_envs` is not positive, there is no such backend, the backend does not
            have that environment or argument or takes no wrappers, a wrapper does not fit the environment, or no agent
            learns with the spaces of the environment (`rimrl.spaces`).
    """
    from stable_baselines3.common.vec_env import VecMonitor  # noqa: PLC0415 (imports torch)

    check_at_least("n_envs", n_envs, 1)
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    env_id, kwargs = resolve(id_or_suite, split, **env_kwargs)
    learning = {}
    if _is_atari(env_id):
        del kwargs["preset"]
        learning = {name: kwargs.pop(name) for name in _ATARI_SIGNAL}
    venv: VecEnv
    info_keywords: tuple[str, ...] = ()
    if backend in ("native", "envpool"):
        from rimrl.envs.native import NativeVecEnv  # noqa: PLC0415 (imports torch)

        venv = NativeVecEnv(_simulator(backend, env_id, n_envs, kwargs, wrappers))
        info_keywords = ("is_success",) if backend == "envpool" else ()
    else:
        around = (*wrappers, Replayable) if replayable else tuple(wrappers)
        make = partial(_make_wrapped, env_id, kwargs, around)
        info_keywords = _info_keywords(make, env_id)
        venv = _one_by_one(make, n_envs, backend)
    if efference_copies:
        _check_copies(venv)
    if seed is not None:
        venv.seed(seed)
    monitor = VecMonitor(venv, info_keywords=info_keywords)
    if monitor_dir is not None:
        _write_monitor(monitor, Path(monitor_dir) / "monitor.csv", env_id, append_monitor)
    venv = monitor
    if _is_atari(env_id):
        from rimrl.envs.atari import LearningSignal  # noqa: PLC0415 (imports torch)

        venv = LearningSignal(venv, **learning)
    if efference_copies:
        from rimrl.envs.efference import VecEfferenceCopies  # noqa: PLC0415 (imports torch)

        venv = VecEfferenceCopies(venv)
    return venv


def _one_by_one(make: Callable[[], gymnasium.Env[Any, Any]], n_envs: int, backend: Backend) -> VecEnv:
    """A vector that steps each environment by itself."""
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv  # noqa: PLC0415 (imports torch)

    if backend == "subproc":
        if "forkserver" in multiprocessing.get_all_start_methods():
            multiprocessing.set_forkserver_preload(_PRELOADED)
        return SubprocVecEnv([partial(_in_worker, make, imported())] * n_envs)
    return DummyVecEnv([make] * n_envs)


def _info_keywords(make: Callable[[], gymnasium.Env[Any, Any]], env_id: str) -> tuple[str, ...]:
    """What an environment reports of episodes; a first one that is made for this is looked at before all others are.

    Raises:
        UsageError: For a wrong argument, which from a worker process would arrive as a broken pipe, and for spaces that
            SB3's vectors cannot hold.
    """
    first = make()
    try:
        check_spaces(first.observation_space, first.action_space, env_id)
        return tuple(first.metadata.get("info_keywords", ()))
    finally:
        first.close()


def _check_copies(venv: VecEnv) -> None:
    """Refuse environments that can have no efference copies, before anything is written; they are closed then."""
    from rimrl.envs.efference import VecEfferenceCopies  # noqa: PLC0415 (imports torch)

    try:
        VecEfferenceCopies(venv)
    except UsageError:
        venv.close()
        raise


def _simulator(
    backend: Backend, env_id: str, n_envs: int, kwargs: Mapping[str, Any], wrappers: Sequence[Wrap]
) -> Simulator:
    """Make what steps all environments at once; the arguments it does not take are named."""
    if wrappers:
        raise conflict(f"backend {backend!r}", "wrappers around single environments", "use 'dummy' or 'subproc'")
    _find_spec(env_id)  # a misspelt name should not be blamed on the backend
    kind: Callable[..., Simulator]
    if backend == "native":
        if not _is_atari(env_id):
            raise needs("backend 'native'", "an ALE/*-v5 game", repr(env_id), "use 'dummy' or 'subproc'")
        from rimrl.envs.native_atari import NativeAtari  # noqa: PLC0415 (imports torch)

        for name in sorted(_ATARI_FLAVOUR & kwargs.keys()):
            raise conflict(name, "backend 'native', which keeps what the game starts with", "use 'dummy' or 'subproc'")
        kind = NativeAtari
        takes = set(inspect.signature(kind).parameters) | {"preset"}
    else:
        from rimrl.envs.native_minigrid import EnvPoolMiniGrid, check_id  # noqa: PLC0415 (imports torch)

        check_id(env_id)  # before its arguments: what is not MiniGrid takes others
        kind = EnvPoolMiniGrid
        takes = set(inspect.signature(kind).parameters) | _preparation_arguments()
    takes -= {"env_id", "num_envs", "preparation"}
    _refuse_unknown(kwargs, takes, f"backend {backend!r}")
    return kind(env_id, n_envs, **kwargs)


def _refuse_unknown(arguments: Iterable[str], valid: set[str], where: str) -> None:
    for name in arguments:
        if name in _ATARI_SCREEN - valid:
            raise wrong(name, f"is for the screens of ALE/*-v5 games; {where} takes no such argument", kind="name")
        if name not in valid:
            raise unknown_name("argument", name, valid, where=where)


def _in_worker(make: Callable[[], gymnasium.Env[Any, Any]], modules: tuple[str, ...]) -> gymnasium.Env[Any, Any]:
    """Make an environment in a process of its own, which a Ctrl-C meant for the main process must not end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import_modules(modules)
    return ReportCrash(make())


def _make_wrapped(env_id: str, kwargs: Mapping[str, Any], wrappers: Sequence[Wrap]) -> gymnasium.Env[Any, Any]:
    return _wrapped(_make(env_id, kwargs), env_id, wrappers)


def _wrapped(env: gymnasium.Env[Any, Any], env_id: str, wrappers: Sequence[Wrap]) -> gymnasium.Env[Any, Any]:
    """An environment with wrappers around it.

    Raises:
        UsageError: If a wrapper cannot be made, or is none; the environment is closed then.
    """
    for wrap in wrappers:
        inner = env
        try:
            env = wrap(inner)
            if not isinstance(env, gymnasium.Env):
                raise TypeError(f"it gave {type(env).__name__} instead of an environment")
        except Exception as error:  # a wrapper that does not suit an environment fails in every way
            inner.close()
            if isinstance(error, UsageError):
                raise
            name = getattr(getattr(wrap, "func", wrap), "__name__", "a wrapper")
            given = getattr(wrap, "keywords", {})
            how = f" with {shorten(given)}" if given else ""
            raise cannot(f"wrap {env_id}{how} in", name, as_raised(error)) from error
    return env


def _write_monitor(monitor: VecMonitor, path: Path, env_id: str, append: bool) -> None:
    """Let `monitor` write its episodes to `path`; VecMonitor itself can neither append nor name the environment."""
    from stable_baselines3.common.monitor import ResultsWriter  # noqa: PLC0415 (imports torch)

    append = append and path.exists()
    if append:
        monitor.t_start = _started(path)
    header: dict[str, float | str] = {"t_start": monitor.t_start, "env_id": env_id}
    monitor.results_writer = ResultsWriter(
        str(path), header, extra_keys=monitor.info_keywords, override_existing=not append
    )


def _started(path: Path) -> float:
    """When the training of a ``monitor.csv`` began, from its first line."""
    check_regular(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline(_LONGEST_LINE)
    header = parse_json(line.removeprefix("#"), str(path))
    started = header.get("t_start") if isinstance(header, dict) else None
    if not is_number(started):
        raise damaged(path, "its first line does not say when training began", "restore it from a copy")
    return float(started)


def _find_split(id_or_suite: str | Suite, split: str) -> tuple[str, dict[str, Any]]:
    """Return the id behind a name, with the arguments of its split."""
    if isinstance(id_or_suite, Suite) or is_suite(id_or_suite):
        chosen = get_suite(id_or_suite).split(split)
        return _without_module(chosen.env_id), dict(chosen.env_kwargs)
    if split != "train":
        _find_spec(_without_module(id_or_suite))  # a misspelt suite should not be blamed on the split
        raise wrong(
            repr(id_or_suite), f"is a single environment without split {split!r}", "leave the split out", "name"
        )
    return _without_module(id_or_suite), {}


def _without_module(env_id: str) -> str:
    """The id in ``module:Id-v0``, as in gymnasium; the module is imported, and has to register it."""
    modules, name = module_in(env_id), env_id.partition(":")[2]
    if not modules:
        return env_id
    import_modules(modules, env_id)
    if name not in gymnasium.registry:
        raise unknown_name("environment", name, gymnasium.registry, where=f"what module {modules[0]!r} registers")
    return name


def _is_atari(env_id: str) -> bool:
    """Tell whether an id is one of the ``ALE/*-v5`` games, the ones that come prepared."""
    return _ATARI_ID.fullmatch(env_id) is not None


def _find_spec(env_id: str) -> EnvSpec:
    if env_id not in gymnasium.registry and env_id.startswith("ALE/"):
        import ale_py  # noqa: PLC0415 (registers its ids)

        gymnasium.register_envs(ale_py)
    if is_popgym(env_id):
        from rimrl.envs.popgym import register  # noqa: PLC0415 (of an extra)

        register(env_id)
    if env_id not in gymnasium.registry:
        import minigrid  # noqa: F401, PLC0415 (registers its ids, and is slow to import)
    if env_id not in gymnasium.registry:
        suites = [suite.name for suite in listed_suites()]
        shown = f"suites: {', '.join(suites)}; 'rimrl list envs' lists environments"
        raise unknown_name("environment", env_id, [*suites, *gymnasium.registry], otherwise=shown)
    return gymnasium.registry[env_id]


def _creator(spec: EnvSpec) -> Callable[..., Any]:
    return load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point  # type: ignore[return-value]


def default_arguments(env_id: str) -> dict[str, Any]:
    """What a registered environment is made with where nothing is given: by its constructor, and by its id."""
    spec = _find_spec(env_id)
    parameters = inspect.signature(_creator(spec)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | spec.kwargs


def _entry_is_minigrid(spec: EnvSpec) -> bool:
    """Tell whether `spec` makes a MiniGrid environment as it is, observations unprepared."""
    creator = _creator(spec)
    return inspect.isclass(creator) and any(base.__module__ == "minigrid.minigrid_env" for base in creator.__mro__)


def _argument_names(spec: EnvSpec) -> set[str] | None:
    """Collect the arguments that `gymnasium.make` takes for `spec`; None when its signature does not tell."""
    names = {"max_episode_steps", "disable_env_checker", "render_mode"}
    creator = _creator(spec)
    # A class that takes **kwargs hands them to the class it extends.
    constructors = (
        [vars(base)["__init__"] for base in creator.__mro__ if "__init__" in vars(base)]
        if inspect.isclass(creator)
        else [creator]
    )
    for constructor in constructors:
        parameters = inspect.signature(constructor).parameters.values()
        names.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names - {"self"}
    return None


def _popgym_arguments() -> set[str]:
    """Those of POPGym's own constructors are left out: a difficulty is what its id says."""
    from rimrl.envs.popgym import make_popgym  # noqa: PLC0415 (of an extra)

    return set(inspect.signature(make_popgym).parameters) - {"env_id"}


def _preparation_arguments() -> set[str]:
    from rimrl.envs.minigrid import MiniGridObservation  # noqa: PLC0415 (minigrid is slow to import)

    return set(inspect.signature(MiniGridObservation).parameters) - {"env"}
