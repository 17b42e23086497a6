"""Configurations that somebody asks for: first, whole or in part, and while a sweep runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.engine import control
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.spec.sweep import SweepSpec
from orchestrator.spec.try_first import completed
from tests.orchestrator import toy
from tests.orchestrator.simulation import drive, open_engine


def ran(home: Path, **changes: Any) -> Ledger:
    engine = open_engine(Home(home), toy.sweep(**changes))
    with engine.ledger:
        drive(engine)
        engine.finish()
    return Ledger.open(engine.paths)


def test_what_is_asked_for_comes_first_and_the_search_draws_as_without_it(tmp_path: Path) -> None:
    plain = [trial.values for trial in ran(tmp_path / "a", run_cap=4).trials()]
    known = ran(tmp_path / "b", run_cap=6, try_first=[{"x": 0.25, "y": 0.7}, {"x": 0.5}]).trials()
    assert known[0].values == {"x": 0.25, "y": 0.7}
    assert known[1].values["x"] == 0.5
    assert [trial.labels.get("asked") for trial in known] == ["try_first"] * 2 + [None] * 4
    assert [trial.values for trial in known[2:]] == plain


def test_one_is_tried_once_also_where_everything_is_run_again(tmp_path: Path) -> None:
    trials = ran(tmp_path, run_cap=3, on_duplicate="run", try_first=[{"x": 0.25, "y": 0.7}, {"x": 0.25, "y": 0.7}])
    assert [trial.values for trial in trials.trials()].count({"x": 0.25, "y": 0.7}) == 1
    grid = toy.grid(x=(0.1, 0.3, 0.5))
    engine = open_engine(Home(tmp_path / "grid"), {**grid, "try_first": [{"x": 0.5}]})
    with engine.ledger:
        drive(engine)
        assert [trial.values["x"] for trial in engine.ledger.trials()] == [0.5, 0.1, 0.3]


def test_a_part_is_completed_alike_and_within_the_space() -> None:
    spec = SweepSpec.from_source({"sweep": toy.sweep(forbid=[{"x": "< 0.5", "y": "< 0.3"}]), "base": {}})
    found = [completed(spec.space, {"x": 0.25}, seed) for seed in range(20)]
    assert found == [completed(spec.space, {"x": 0.25}, seed) for seed in range(20)]
    assert all(spec.space.problems(values) == [] and values["y"] > 0.3 for values in found)
    assert {values["y"] for values in found} == {0.4, 0.7}


@pytest.mark.parametrize(
    ("entry", "key", "said"),
    [
        ({"x": 3.0}, "try_first.1", "outside"),
        ({"z": 3.0}, "try_first.1.z", "is no parameter of this sweep"),
        ({}, "try_first.1", "must map parameters to values"),
        ("x", "try_first.1", "must be a mapping"),
    ],
)
def test_what_is_no_combination_is_said(entry: Any, key: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        SweepSpec.from_source({"sweep": toy.sweep(try_first=[{"x": 0.5}, entry]), "base": {}})
    assert any(problem.key == key and said in problem.rule for problem in error.value.problems), error.value.problems


def test_a_sweep_that_has_finished_tries_one_more_and_one_that_runs_takes_it_next(tmp_path: Path) -> None:
    ledger = ran(tmp_path, run_cap=2)
    said = control.request(ledger.paths, control.try_values({"x": 0.25, "y": 0.7}))
    assert "meansweep resume" in said
    engine = open_engine(Home(tmp_path), toy.sweep(run_cap=2))
    asked = False

    def ask(engine: Any) -> None:
        nonlocal asked
        if not asked:
            control.request(engine.paths, control.try_values({"x": 0.75}))
            asked = True

    with engine.ledger:
        run_inline(engine, on_event=ask)
        trials = engine.ledger.trials()
    assert [trial.values["x"] for trial in trials[2:]] == [0.25, 0.75]
    assert all(trial.labels == {"asked": "try_first"} for trial in trials[2:])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"x": 9.0}, "try x=9.0: x = 9.0 is outside of uniform 0 .. 1"),
        ({"x": 0.5, "z": 3}, "try z=3: is no parameter of this sweep: they are x, y"),
        ({"x": 0.5, "yy": 3}, "try yy=3: is no parameter of this sweep: they are x, y; did you mean 'y'?"),
        ({"x": 0.75, "y": 0.7}, "try x=0.75 y=0.7: the combination is forbidden"),
        ({"x": 0.25, "y": 0.7}, "try x=0.25 y=0.7: is what trial 0 has"),
        ({"x": 0.25, "y": 0.4}, "try x=0.25 y=0.4: has been asked for already, and waits for its turn"),
    ],
)
def test_what_cannot_be_tried_is_said_at_the_words_that_ask_for_it(tmp_path: Path, values: Any, said: str) -> None:
    forbidden = [{"x": "> 0.7", "y": "> 0.5"}]
    ledger = ran(tmp_path, run_cap=2, forbid=forbidden, try_first=[{"x": 0.25, "y": 0.7}])
    control.request(ledger.paths, control.try_values({"x": 0.25, "y": 0.4}))
    with pytest.raises(ConfigError) as error:
        control.request(ledger.paths, control.try_values(values))
    assert str(error.value).startswith(said)
    assert "try_first" not in str(error.value)


def test_a_rule_of_the_training_configuration_is_said_at_the_words_too(tmp_path: Path) -> None:
    content = {
        **{"name": "heads", "base": {"model": {"name": "dit", "width": 64, "heads": 4}, "data": {"name": "digits"}}},
        **{"method": "random", "run_cap": 2, "metric": {"name": "eval/fid_1nfe"}},
        "parameters": {"model.heads": {"min": 1, "max": 4}, "optimizer.lr": {"min": 0.1, "max": 0.2}},
    }
    engine = open_engine(Home(tmp_path), content)
    with (
        pytest.raises(ConfigError, match=r"^try model.heads=3: `model.width`: must be a multiple of `heads`"),
        engine.ledger,
    ):
        control.check(engine.ledger, control.try_values({"model.heads": 3}))
