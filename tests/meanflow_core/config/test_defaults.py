"""Defaults change, and what was meant by the old ones does not."""

import json
from pathlib import Path

import pytest

from meanflow_core.config import TrainConfig, load_config, with_values
from meanflow_core.config import defaults as table
from meanflow_core.config.defaults import Changed, difference
from meanflow_core.config.objective_presets import PRESETS
from meanflow_core.errors import ConfigError

FIRST = json.loads((Path(__file__).parents[1] / "data" / "defaults-1.json").read_text())


@pytest.fixture
def later(monkeypatch):
    """The defaults of two versions on: some of today's are what version 2 or 3 made of others."""
    changes = [
        Changed(since=3, key="optimizer.lr", was=5e-4),
        Changed(since=2, key="optimizer.lr", was=7e-4),
        Changed(since=2, key="model.dropout", was=0.4, of="mlp"),
        Changed(since=3, key="model.name", was="mlp"),
        Changed(since=2, key="objective.time.ratio", was=0.75),
    ]
    monkeypatch.setattr(table, "CHANGED", changes)
    for module in ("defaults", "load", "train_config"):
        monkeypatch.setattr(f"meanflow_core.config.{module}.VERSION", 3)
    monkeypatch.setattr(TrainConfig.__init__, "__kwdefaults__", {**TrainConfig.__init__.__kwdefaults__, "defaults": 3})


@pytest.mark.parametrize("kind", [key for key in FIRST if key not in ("", "kinds")])
def test_a_default_that_changes_is_in_the_table_of_changes(kind):
    section = kind.partition(".")[0]
    config = load_config({**FIRST[""], section: FIRST[kind]})
    usual = FIRST["kinds"][section] == FIRST[kind]["name"]
    expected = {} if usual else {f"{section}.name": FIRST[kind]["name"]}
    assert difference(config) == expected, "changed defaults belong into meanflow_core/config/defaults.py"


def test_a_hash_says_what_it_is_measured_from_and_is_the_same_in_every_release():
    """Pinned: a hash that comes out differently makes every sweep of earlier releases another one."""
    assert load_config({}).hash() == "1-44136fa355b3678a"
    swept = {"objective.time.law": "uniform", "optimizer.lr": 3e-4, "model.name": "mlp", "model.width": 64}
    assert load_config(swept).hash() == "1-e0efee08a3089c03"


def test_a_value_that_is_the_default_is_the_same_training_as_leaving_it_out():
    assert load_config({"optimizer.lr": 1e-4, "model": {"name": "dit", "depth": 12}}).hash() == load_config({}).hash()
    assert load_config({"model.name": "mlp"}).hash() != load_config({}).hash()
    assert load_config({"model": {"name": "mlp", "width": 768}}).hash() != load_config({"model.name": "mlp"}).hash()


@pytest.mark.parametrize("name", PRESETS)
def test_what_follows_the_name_of_the_objective_is_the_same_training_as_when_it_is_said(name):
    config = load_config({"objective.name": name})
    said = load_config({"objective": config.to_dict()["objective"]})
    assert said.objective.followed != config.objective.followed
    assert said.hash() == config.hash()
    assert difference(config) == ({} if name == "meanflow" else {"objective.name": name})


def test_a_stored_configuration_means_what_it_meant_when_it_was_written(later):
    old = load_config({"seed": 4}, defaults=1)
    assert (old.optimizer.lr, old.objective.time.ratio, old.defaults) == (7e-4, 0.75, 1)
    assert (old.model.name, old.model.dropout) == ("mlp", 0.4)
    middle = load_config({"seed": 4, "defaults": 2, "model": {"width": 16}})
    assert (middle.optimizer.lr, middle.objective.time.ratio, middle.model.name) == (5e-4, 0.25, "mlp")
    assert middle.model.dropout == 0.0
    now = load_config({"seed": 4})
    assert (now.optimizer.lr, now.objective.time.ratio, now.model.name, now.defaults) == (1e-4, 0.25, "dit", 3)
    assert load_config(old.to_dict()) == old
    assert with_values(with_values(old, {"model.name": "unet"}), {"model.name": "mlp"}).model == old.model
    winner = load_config({"evidence": {"trial": "7"}})
    assert winner.optimizer.lr == 7e-4


def test_one_training_has_one_hash_whatever_the_version_it_was_written_for(later):
    old = load_config({"seed": 4}, defaults=1)
    said = {"optimizer.lr": 7e-4, "objective.time.ratio": 0.75, "model.name": "mlp", "model.dropout": 0.4}
    assert load_config({"seed": 4, **said}).hash() == old.hash()
    assert load_config({"seed": 4}).hash() != old.hash()


@pytest.mark.parametrize("version", [0, 2, -1])
def test_a_version_of_the_defaults_that_is_not_known_is_refused(version):
    with pytest.raises(ConfigError, match="version of the defaults"):
        load_config({"defaults": version})
