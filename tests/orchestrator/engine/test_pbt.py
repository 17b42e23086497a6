"""Population based training: pure decisions, and whole sweeps on a trainer whose best value changes as it trains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meanflow_core.errors import ConfigError
from meanflow_core.training.checkpoint import load_checkpoint
from orchestrator.engine.engine import Engine
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.search.methods.pbt import explore
from orchestrator.trials.trial import TrialRecord, TrialState
from tests.orchestrator import toy
from tests.orchestrator.simulation import open_engine


class Climber:
    """Climbs by `rate` a step, and falls where the rate is too high for the height: the best rate sinks with time."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.rate = float(config["rate"])
        self.step, self.height = 0, 0.0

    def train(self, steps: int) -> dict[str, float]:
        for _ in range(steps):
            self.step += 1
            self.height += self.rate * (1 - self.rate * self.height)
        return {}

    def evaluate(self) -> dict[str, float]:
        return {"height": self.height}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "height": self.height}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.height = state["step"], state["height"]


def content(**changes: Any) -> dict[str, Any]:
    return toy.sweep(
        "herd",
        **{
            "trainer": "tests.orchestrator.engine.test_pbt:Climber",
            "base": {"trainer": {"steps": 60, "eval_every": 10}, "rate": 0.5, "seed": 0},
            "method": "pbt",
            "metric": {"name": "height", "goal": "maximize"},
            "run_cap": 8,
            "parameters": {"rate": {"min": 0.01, "max": 1.0}},
            **changes,
        },
    )


def sweep(home: Home, **changes: Any) -> list[TrialRecord]:
    engine = open_engine(home, content(**changes))
    with engine.ledger:
        run_inline(engine)
        return engine.ledger.trials()


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    return sweep(Home(tmp_path_factory.mktemp("herd")))


SHORT = {"run_cap": 4, "base": {"trainer": {"steps": 30, "eval_every": 10}, "rate": 0.5, "seed": 0}}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    return sweep(Home(tmp_path_factory.mktemp("short")), **SHORT)


def test_the_worst_go_on_from_copies_of_the_best_with_changed_values(herd: list[TrialRecord]) -> None:
    trials = herd
    assert [trial.state for trial in trials] == [TrialState.FINISHED] * 8
    assert all(list(trial.reports) == [10, 20, 30, 40, 50, 60] for trial in trials)
    changes = [change for trial in trials for change in trial.labels.get("lineage", [])]
    assert len(changes) == 2 * 5  # a quarter of eight, in each generation but the last
    by_id = {trial.id: trial for trial in trials}
    for change in changes:
        heights = sorted((trial.reports[change["step"]]["height"] for trial in trials), reverse=True)
        assert by_id[change["donor"]].reports[change["step"]]["height"] >= heights[1]
        assert by_id[change["trial"]].reports[change["step"]]["height"] <= heights[-2]
        assert 0.01 <= change["values"]["rate"] <= 1.0


def test_a_copied_member_continues_its_donors_curve(herd: list[TrialRecord]) -> None:
    trials = {trial.id: trial for trial in herd}
    changed = next(trial for trial in trials.values() if trial.labels.get("lineage"))
    change = changed.labels["lineage"][0]
    alone = Climber({"rate": change["values"]["rate"]})
    alone.height = trials[change["donor"]].reports[change["step"]]["height"]
    alone.train(10)
    assert changed.reports[change["step"] + 10]["height"] == pytest.approx(alone.height, rel=1e-12)
    assert changed.values == changed.labels["lineage"][-1]["values"]


def test_it_beats_the_same_draws_left_alone(herd: list[TrialRecord], tmp_path: Path) -> None:
    alone = sweep(Home(tmp_path), method="random")
    assert [t.seed for t in herd] == [t.seed for t in alone]
    assert max(t.metric or 0 for t in herd) > max(t.metric or 0 for t in alone)


def test_a_population_whose_values_have_moved_can_be_edited(tmp_path: Path) -> None:
    from orchestrator.engine import control

    home = Home(tmp_path)
    assert any("lineage" in trial.labels for trial in sweep(home, **SHORT))
    change = control.edit(toy.spec(content(**SHORT, retries=5)))
    assert control.request(home.sweep(content()["name"]), change).startswith("revision 1: retries: - -> 5")


class Killed(Exception):
    """Stands for SIGKILL: nothing of the engine's runs after it."""


@pytest.mark.parametrize("at", [3, 5, 6, 8, 11, 12])
def test_killed_anywhere_it_ends_as_if_it_had_not_been(
    short: list[TrialRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    ledger_writes(monkeypatch, iter(range(1, 10**6)), at)  # in a generation, or in its turn: lineage (5), end (6)
    engine = open_engine(Home(tmp_path), content(**SHORT))
    with pytest.raises(Killed), engine.ledger:
        drive(engine)
    monkeypatch.undo()
    assert [essence(trial) for trial in sweep(Home(tmp_path), **SHORT)] == [essence(trial) for trial in short]


def essence(trial: TrialRecord) -> tuple[Any, ...]:
    lineage = [{k: v for k, v in change.items() if k != "checkpoint"} for change in trial.labels.get("lineage", [])]
    return trial.id, trial.state, trial.values, trial.reports, lineage


def ledger_writes(monkeypatch: pytest.MonkeyPatch, writes: Iterator[int], at: int) -> None:
    """Die before the write number `at` of those that note a report, a lineage or a generation."""
    for name in ("label", "note", "add_report"):
        original = getattr(Ledger, name)

        def write(self: Ledger, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            if next(writes) == at:
                raise Killed
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Ledger, name, write)


def drive(engine: Engine) -> None:
    """Like the inline runner, but what kills the engine is not taken for the trainer's failure."""
    from orchestrator.trials.protocol import Assignment, Decision, Done, Outcome
    from orchestrator.worker.trial_loop import run_trial

    while not isinstance(work := engine.next(), Done):
        assert isinstance(work, Assignment)
        for report in run_trial(work):
            if engine.report(work.trial, report) is not Decision.CONTINUE:
                break
        engine.ended(work.trial, Outcome(kind="stopped"))


def test_a_generation_turns_only_when_all_members_stand_at_the_same_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    original = Ledger.note

    def note(self: Ledger, key: str, value: Any) -> None:
        original(self, key, value)
        if key == "generation":
            seen.append({trial.steps for trial in self.trials()})

    monkeypatch.setattr(Ledger, "note", note)
    engine = open_engine(Home(tmp_path), content(**SHORT))
    with engine.ledger:
        run_inline(engine)
    assert seen == [{10}, {20}]


def test_values_that_belong_to_the_weights_are_copied_and_never_moved() -> None:
    spec = toy.spec(
        content(
            base={"trainer": {"steps": 60, "eval_every": 10}, "model": {"width": 8}, "seed": 0},
            parameters={
                "model.width": {"values": [8, 16, 32]},
                "rate": {"min": 0.0, "max": 1.0},
                "kind": {"values": ["a", "b", "c"]},
            },
        )
    )
    chance = random.Random(1)
    values = {"model.width": 16, "rate": 0.5, "kind": "b"}
    found = [explore(spec.space, values, chance, always) for _ in range(200)]
    assert {each["model.width"] for each in found} == {16}
    assert {each["kind"] for each in found} == {"a", "b", "c"}
    moved = [each["rate"] for each in found]
    assert sum(abs(rate - 0.5) == pytest.approx(0.1) for rate in moved) > 100
    assert all(0 <= rate <= 1 for rate in moved)
    assert all(each != values for each in found[:5])


def always(values: dict[str, Any]) -> bool:
    return True


def test_a_value_at_its_bound_moves_inwards() -> None:
    spec = toy.spec(content())
    for bound, inside in ((0.01, 0.109), (1.0, 0.901)):
        found = {round(explore(spec.space, {"rate": bound}, random.Random(n), always)["rate"], 6) for n in range(40)}
        assert inside in found
        assert all(0.01 < rate < 1.0 for rate in found)


def test_conditions_and_forbidden_combinations_are_kept_to() -> None:
    spec = toy.spec(
        content(
            parameters={
                "rate": {"min": 0.0, "max": 1.0},
                "kind": {"values": ["a", "b"]},
                "extra": {"min": 0.0, "max": 1.0, "when": {"kind": "b"}},
            },
            forbid=[{"kind": "b", "rate": "> 0.6"}],
        )
    )
    chance = random.Random(2)
    for _ in range(200):
        found = explore(spec.space, {"rate": 0.55, "kind": "a"}, chance, always)
        assert spec.space.problems(found) == []


def test_an_adopted_checkpoint_is_the_donors_and_survives_its_deletion(tmp_path: Path) -> None:
    from meanflow_core.training.checkpoint import save_checkpoint
    from orchestrator.paths import TrialPaths
    from orchestrator.worker.checkpoints import CheckpointStore

    donor = tmp_path / "donor"
    save_checkpoint(donor, {"height": 3.0})
    store = CheckpointStore(TrialPaths(tmp_path / "member"))
    own = store.save(10, {"height": 1.0}, {})
    store.adopt(10, str(donor))
    for file in donor.iterdir():
        file.unlink()
    assert load_checkpoint(own) == {"height": 3.0}


def test_the_length_of_a_trial_cannot_be_varied() -> None:
    with pytest.raises(ConfigError, match=r"parameters\.trainer\.steps: must be the same in the whole population"):
        toy.spec(content(parameters={"rate": {"min": 0.1, "max": 1.0}, "trainer.steps": {"values": [10, 20]}}))
