"""What a search may try: the words that say it, what is refused, and what comes with rimrl."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rimrl.agents.registry import ALGORITHMS
from rimrl.cli import parser
from rimrl.cli.parser import config_among, flags
from rimrl.cores.registry import CORES
from rimrl.errors import UsageError
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import changed, load_config, shipped_configs
from rimrl.experiments.tune_config import TuneConfig, ask, merged, read
from rimrl.experiments.tune_space import Choice, Range, check_space, own_values, parse_space, shipped_space, split_space
from rimrl.runs.settings import split_overrides
from tests.docs.test_site import ROOT, commands
from tests.shipped import shipped

RIM = load_config("distractors/rim", ["--env.n_envs=8"])


def parsed(*words: str, base: ExperimentConfig = RIM) -> dict[str, Choice | Range]:
    return parse_space(split_space(words), base)


@pytest.mark.parametrize(
    ("word", "dimension"),
    [
        ("core.num_active=2..5", Range(2, 5, log=False, whole=True)),
        ("agent.n_steps=16..256,log", Range(16, 256, log=True, whole=True)),
        ("agent.learning_rate=1e-4..1e-2", Range(1e-4, 1e-2, log=False, whole=False)),
        ("agent.learning_rate = 1e-4 .. 1e-2 , log", Range(1e-4, 1e-2, log=True, whole=False)),
        ("--agent.gamma=0..1", Range(0, 1, log=False, whole=False)),  # a key whose values are real
        ("agent.target_kl=0.01..0.1", Range(0.01, 0.1, log=False, whole=False)),
        ("core.input_key_size=32,64", Choice(("32", "64"))),
        ("agent.net_arch=[],[64],[64,64]", Choice(("[]", "[64]", "[64,64]"))),
        ("agent.sequence_length=null,16", Choice(("null", "16"))),
    ],
)
def test_words(word: str, dimension: Choice | Range) -> None:
    assert list(parsed(word).values()) == [dimension]


def test_a_float_range_may_have_integers_as_its_ends_and_all_is_written_as_the_command_line_has_it() -> None:
    (whole,) = parsed("core.num_active=2..5").values()
    (real,) = parsed("agent.learning_rate=1e-5..1,log").values()
    assert (whole.ends, real.ends) == (("2", "5"), ("1e-05", "1.0"))
    assert changed(RIM, ["--agent.learning_rate=1e-05"]).agent.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["agent.learnin_rate=1e-4..1e-2"], r"'agent\.learning_rate'\?"),
        (["learning_rate=1e-4..1e-2"], r"'agent\.learning_rate'\?"),
        (["core.num_slots=2,3"], r"'core\.num_slots'.*--space"),
        (["agent.learning_rate=1e-2..1e-4"], "lower.*upper"),
        (["agent.learning_rate=1e-2..1e-2"], "empty.*value"),
        (["agent.ent_coef=0..1e-2,log"], "logarithm.*0"),
        (["agent.ent_coef=-1e-2..1e-2,log"], "logarithm.*-1e-2"),
        (["agent.ent_coef=1e-2..x"], "number.*both sides"),
        (["agent.ent_coef=..1"], "number.*both sides"),
        (["agent.ent_coef=1..2..3"], "number.*both sides"),
        (["agent.ent_coef=0..inf"], "finite ends"),
        (["agent.ent_coef=0..nan"], "finite ends"),
        (["agent.ent_coef=0.1..0.2,0.3"], "mixes.*range"),
        (["agent.ent_coef=0.1,log"], "log.*range"),
        (["agent.n_epochs=4"], "single value"),
        (["agent.n_epochs=4,5,4"], "'4' twice"),
        (["agent.n_epochs=4,,5"], "empty value"),
        (["agent.n_epochs"], "must be KEY=VALUE,VALUE"),
        (["agent.n_epochs="], "must be KEY=VALUE,VALUE"),
        (["agent.n_epochs=4,5", "agent.n_epochs=6,7"], "twice"),
        (["train.total_timesteps=1000,2000"], "trials.*searched"),
        (["train.seed=0,1"], "seeds come from --seeds"),
        (["env.id=distractors,memory"], "search.*task"),
        (["env.kwargs.size=1,2"], "search.*task"),
        (["core.name=rim,lstm"], "searched.*itself"),
        (["agent.algorithm=ppo,a2c"], "algorithm.*searched"),
    ],
)
def test_what_is_no_space_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parsed(*words)
    assert re.search(said, str(refusal.value))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("agent.gamma=0.9..1.5", r"agent\.gamma must be between 0 and 1, got 1\.5 \(with --space agent\.gamma=1\.5"),
        ("agent.n_epochs=2..4.5", r"agent\.n_epochs.*integer"),
        ("core.num_active=4,9", r"\(with --space core\.num_active=9"),
        ("core.num_active=4..9", r"\(with --space core\.num_active=9"),
        ("agent.sequence_length=8,12", r"\(with --space agent\.sequence_length=12"),
        ("core.dynamics=lstm,rnn", r"\(with --space core\.dynamics=rnn"),
    ],
)
def test_values_that_the_configuration_would_refuse_are_refused_beforehand(word: str, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        check_space(parsed(word), RIM)
    assert re.search(said, str(refusal.value))


def test_where_the_configuration_itself_lies() -> None:
    space = parsed(
        "agent.learning_rate=1e-2..1e-1,log",
        "agent.gamma=0.9..0.99",
        "core.num_active=2..5",
        "agent.net_arch=[64], []",
        "agent.clip_range_vf=0.1..0.2",
        "agent.n_epochs=5,6",
    )
    assert own_values(space, RIM) == {"agent.gamma": 0.98, "core.num_active": 4, "agent.net_arch": "[]"}


@pytest.mark.parametrize("core", list(CORES))
def test_the_space_that_comes_with_a_core_can_be_trained(core: str) -> None:
    """What it has beyond the algorithm's, which is checked below."""
    base = load_config(f"distractors/{core}", ["--env.n_envs=8"])
    space = parse_space(shipped_space(core, "ppo"), base)
    of_core = {key: dimension for key, dimension in space.items() if key not in shipped_space("feedforward", "ppo")}
    assert of_core or core in ("feedforward", "gru")
    check_space(of_core, base)


@pytest.mark.parametrize(("algorithm", "config"), [("ppo", "multiroom/rim"), ("a2c", "multiroom/a2c_rim")])
def test_every_algorithm_of_ours_comes_with_a_space(algorithm: str, config: str) -> None:
    assert algorithm in ALGORITHMS
    base = load_config(config, ["--env.n_envs=8"])
    words = shipped_space("feedforward", algorithm)
    check_space(parse_space(words, base), base)
    assert {key.partition(".")[0] for key in words} == {"agent"}
    assert {key.partition(".")[0] for key in shipped_space("rim", algorithm)} == {"agent", "core"}


def test_every_shipped_configuration_has_as_many_units_as_its_space_may_want_active() -> None:
    checked = 0
    for name in shipped_configs():
        config = shipped(name)
        space = parse_space(shipped_space(config.core.name, config.agent.algorithm), config)
        active = space.get("core.num_active")
        if isinstance(active, Range):
            assert active.high <= config.core.options["num_units"], name
            checked += 1
    assert checked > 10


def test_an_algorithm_of_others_has_to_say_what_to_search() -> None:
    with pytest.raises(UsageError, match=r"'mine'.*--space"):
        shipped_space("rim", "mine")
    assert shipped_space("mine", "ppo").keys() == shipped_space("feedforward", "ppo").keys()


def test_searches_in_the_documentation_are_ones_that_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    asked = []
    for page in ("tuning.md", "how-do-i.md"):
        for words in (each for each in commands(ROOT / "docs" / page) if each[0] == "tune"):
            options, rest = parser().parse_known_args(words)
            config, overrides = config_among(rest)
            assert config is not None
            asked.append(ask(config, options.space, split_overrides([*overrides, *flags(options)]), options.seeds))
    assert [each.experiment.agent.learning_rate for each in asked] == [
        RIM.agent.learning_rate,
        1e-6,
        RIM.agent.learning_rate,
    ]


# -- what is asked for ----------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_read_back(tmp_path: Path) -> None:
    space = ["agent.learning_rate=1e-4..1e-2,log", "core.num_active=2,4"]
    asked = ask("distractors/rim", space, [("env.n_envs", "8")], "3..4", trials=7, sampler="random", pruning=False)
    (tmp_path / "tuning.yaml").write_text(asked.to_yaml())
    assert read(tmp_path) == asked
    assert ask(str(tmp_path), trials=9) == TuneConfig(**{**vars(asked), "trials": 9})
    assert ask(str(tmp_path), trials=2) == asked
    assert (asked.experiment.train.seed, asked.experiment.env.n_envs) == (3, 8)
    with pytest.raises(UsageError, match=r"^--space .*more --trials can be added"):
        ask(str(tmp_path), ["core.num_active=2,3"])
    with pytest.raises(UsageError, match=r"^--env.n_envs "):
        ask(str(tmp_path), (), [("env.n_envs", "16")])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"space": ["core.num_active=2,3"]}, r"core\.num_active '2,4'.*'2,3'"),
        ({"overrides": [("agent.gamma", "0.5")]}, r"agent\.gamma 0\.98.*0\.5"),
        ({"seeds": "0..1"}, "seeds '0'.*now.*'0,1'"),
        ({"sampler": "random"}, "sampler 'tpe'.*'random'"),
        ({"sampler_seed": 1}, "sampler_seed 0.*1"),
        ({"pruning": False}, "pruning True.*False"),
        ({"episodes": 7}, "episodes 100.*now.*7"),
        ({"config": "distractors/lstm", "space": ["agent.n_epochs=2,3"]}, "config 'distractors/rim'"),
    ],
)
def test_nothing_but_trials_is_added(words: dict[str, object], said: str, tmp_path: Path) -> None:
    given: dict[str, object] = {"config": "distractors/rim", "space": ["core.num_active=2,4"]}
    with pytest.raises(UsageError) as refusal:
        merged(ask(**given), ask(**{**given, **words}), tmp_path)  # type: ignore[arg-type]
    assert re.search(said, str(refusal.value))
    more = merged(ask(**given, trials=3), ask(**given, trials=5), tmp_path)  # type: ignore[arg-type]
    assert more.trials == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trials", 0),
        ("seeds", []),
        ("seeds", [1, 1]),
        ("sampler", "grid"),
        ("pruning", "yes"),
        ("space", ["agent.gamma"]),
        ("space", {"agent.gamma": 3}),
    ],
)
def test_a_damaged_file_is_one_line(key: str, value: object, tmp_path: Path) -> None:
    content = yaml.safe_load(ask("distractors/rim", ["core.num_active=2,4"]).to_yaml())
    (tmp_path / "tuning.yaml").write_text(yaml.safe_dump(content | {key: value}))
    with pytest.raises(UsageError, match=rf"tuning.yaml is damaged \(tuning.{key}"):
        read(tmp_path)
