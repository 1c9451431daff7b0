"""Configurations of a comparison: rows, files, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from thetabox.compare import Config, read_config
from thetabox.errors import InputError


def test_rows_take_what_they_have() -> None:
    config = Config(
        "digits",
        methods=("standard", "weight-attack", "weight-attack+forward-noise"),
        set={"steps": 2, "noise": 0.1},
        only={"weight-attack": {"zeta": 0.2, "epochs": 3}},
        fit={"lr": 0.01, "epochs": 7},
    )
    plain, attacked, both = config.variants()
    assert dict(plain.set) == {}
    assert dict(attacked.set) == {"steps": 2, "zeta": 0.2}
    assert dict(both.set) == {"steps": 2, "noise": 0.1}
    assert dict(attacked.fit) == {"lr": 0.01, "epochs": 3}
    assert dict(plain.fit) == {"lr": 0.01, "epochs": 7}


def test_sweep_over_a_hyper_parameter_and_a_rate() -> None:
    config = Config("digits", methods=("standard", "weight-attack"), sweep={"beta_rob": (0.1, 0.5), "lr": (1e-3, 1e-2)})
    rows = config.variants()
    assert [row.label for row in rows] == [
        "standard lr=0.001",
        "standard lr=0.01",
        "weight-attack beta_rob=0.1 lr=0.001",
        "weight-attack beta_rob=0.1 lr=0.01",
        "weight-attack beta_rob=0.5 lr=0.001",
        "weight-attack beta_rob=0.5 lr=0.01",
    ]
    assert dict(rows[3].set) == {"beta_rob": 0.1}
    assert dict(rows[3].fit) == {"lr": 1e-2}
    assert rows[3].folder == "weight-attack-beta_rob=0.1-lr=0.01"


def test_sweep_of_one_part_of_a_combination() -> None:
    config = Config("digits", methods=("weight-attack+forward-noise",), sweep={"forward-noise.noise": (0.1, 0.3)})
    assert [dict(row.set) for row in config.variants()] == [{"forward-noise.noise": 0.1}, {"forward-noise.noise": 0.3}]


def test_file_and_back(tmp_path: Path) -> None:
    config = Config(
        'C:\\own "data".npz',
        methods=("weight-attack",),
        seeds=3,
        fit={"schedule": "cosine", "epochs": 2},
        set={"steps": 3},
        only={"weight-attack": {"zeta": 0.05}},
        sweep={"beta_rob": (0.1, 0.2)},
        level=(0.0, 0.3),
        directions=0,
        yield_sigma=(0.0, 0.1),
        yield_delta=0.05,
        model="mlp",
        model_set={"sizes": [4, 8, 3]},
    )
    (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    assert read_config(tmp_path / "config.toml") == config


def test_arguments_stand_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('task = "digits"\nseeds = 4\nmethods = ["standard"]\n')
    config = read_config(tmp_path / "c.toml", task="vowels", seeds=None)
    assert (config.task, config.seeds, config.methods) == ("vowels", 4, ("standard",))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no task"),
        ("task = ", "not a TOML file"),
        ('task = "digits"\ncolour = 1', "unknown key 'colour'"),
        ('task = "digits"\nmethods = ["magic"]', "unknown training method 'magic'"),
        ('task = "digits"\nmethods = []', "no training method"),
        ('task = "digits"\nmethods = "standard"', "methods must be a list"),
        ('task = "digits"\nmethods = ["standard", "standard"]', "same name"),
        ('task = "digits"\nseeds = 0', "seeds is 0"),
        ('task = "digits"\ndraws = 2.5', "draws is 2.5"),
        ('task = "digits"\nepsilon = [-1.0]', "epsilon must be"),
        ('task = "digits"\nlevel = [nan]', "level must be"),
        ('task = "digits"\nepsilon = []', "epsilon must be"),
        ('task = "digits"\npcm_draws = true', "pcm_draws is True"),
        ('task = "digits"\npcm_times = [-1.0]', "pcm_times must be"),
        ('task = "digits"\nshared_steps = 0', "shared_steps is 0"),
        ('task = "digits"\nyield_sigma = [-0.1]', "yield_sigma must be a list of finite numbers"),
        ('task = "digits"\nyield_sigma = ["0.1"]', "yield_sigma must be a list of finite numbers"),
        ('task = "digits"\nyield_sigma = 0.1', "yield_sigma must be a list"),
        ('task = "digits"\nyield_delta = 1', "yield_delta is 1"),
        ('task = "digits"\nyield_delta = nan', "yield_delta is nan"),
        ('task = "digits"\nyield_delta = "few"', "yield_delta is 'few'"),
        ('task = "digits"\nmodel = "magic"', "model is 'magic'; choose one of"),
        ('task = "digits"\nmodel = 3', "model is 3"),
        ('task = "digits"\nmodel_set = 3', "model_set must be a table"),
        ('task = "digits"\nmethods = ["yield"]\n[set]\n"yield.bound" = "magic"', "bound='magic' is unknown"),
        ('task = "digits"\n[fit]\nmagic = 1', "fit has no argument 'magic'"),
        ('task = "digits"\nmethods = ["weight-attack"]\n[only.weight-attack]\nmagic = 1', "hyper-parameter 'magic'"),
        ('task = "digits"\nmethods = ["weight-attack"]\n[set]\nsteps = -1', "steps=-1"),
        ('task = "digits"\n[sweep]\nmagic = [1]', "hyper-parameter 'magic'"),
        ('task = "digits"\n[sweep]\nbeta_rob = 1', "sweep.beta_rob must be a list"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError, match=complaint) as caught:
        read_config(tmp_path / "c.toml")
    assert "\n" not in str(caught.value)


def test_yield_alone_and_after_other_methods() -> None:
    """Every method takes its own of what is set, one part of a joined one too."""
    after = "weight-attack+forward-noise+yield"
    own = {"yield.sigma": 0.2, "yield.after": True}
    config = Config(
        "digits", methods=("forward-noise", "yield", after), set={**own, "noise": 0.1}, only={after: {"epochs": 3}}
    )
    assert [dict(row.set) for row in config.variants()] == [{"noise": 0.1}, own, {**own, "noise": 0.1}]
    assert config.variants()[2].folder == after


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_config(tmp_path / "none.toml")


def test_a_row_of_another_name_is_another_row() -> None:
    options: dict[str, Any] = {"methods": ("weight-attack",)}
    assert Config("digits", **options).variants() != Config("digits", **options, set={"steps": 3}).variants()


def test_tables_may_serve_other_methods_but_slips_are_refused() -> None:
    Config(
        "digits", methods=("standard",), set={"noise": 0.1, "l1.strength": 0.2}, only={"weight-attack": {"zeta": 0.1}}
    )
    for given, message in (
        ({"set": {"nois": 0.1}}, "'nois'; did you mean 'noise'"),
        ({"set": {"a": {"a": 1}}}, "no training method has the hyper-parameter 'a'"),
        ({"set": {"standard.noise": 0.1}}, "no training method has"),
        ({"only": {"weight-atack": {"zeta": 0.1}}}, "weight-atack"),
    ):
        with pytest.raises(InputError, match=message):
            Config("digits", methods=("standard",), **given)


@pytest.mark.parametrize("limit", [2_000, 1_000_000])  # the second as some libraries set it
@pytest.mark.parametrize(
    "text", ["methods = " + "[" * 100_000, "[set]\n" + "a." * 3000 + "b = 1", "set = " + "{a=" * 50_000]
)
def test_a_file_that_nests_too_deeply_is_one_line(text: str, limit: int, tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text(f'task = "digits"\n{text}\n')
    before = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(limit)
        with pytest.raises(InputError) as told:
            read_config(tmp_path / "deep.toml")
        assert sys.getrecursionlimit() == limit
    finally:
        sys.setrecursionlimit(before)
    assert len(str(told.value).splitlines()) == 1
