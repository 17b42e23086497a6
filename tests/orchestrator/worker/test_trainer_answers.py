"""Whatever a trainer does or returns, its trial ends with a sentence and nothing else does."""

import asyncio
import math
import sys

import numpy
import pytest

from meanflow_core.errors import TrainingDiverged
from orchestrator.engine.start import start_sweep
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.spec.settings import Resources
from orchestrator.worker.process import Work, run_on_this_worker
from orchestrator.worker.trainer_answers import as_metrics, as_rows, check_state
from tests.orchestrator import toy
from tests.orchestrator.worker.test_trial_loop import assignment


class Odd(toy.Curve):
    """Does what the test wants."""

    does = staticmethod(lambda: None)
    state = 0.0

    def train(self, steps):
        Odd.does()
        return super().train(steps)

    def state_dict(self):
        return {**super().state_dict(), "more": {"here": [Odd.state]}}


def odd_trial(tmp_path, does=lambda: None, state=0.0):
    Odd.does, Odd.state = staticmethod(does), state
    spec = toy.spec(toy.sweep(run_cap=1, trainer=f"{__name__}:Odd"))
    engine = start_sweep(Home(tmp_path), spec)
    with engine.ledger:
        run_inline(engine)
    [trial] = engine.ledger.trials()
    return trial


def interrupted():
    raise KeyboardInterrupt


def cancelled():
    raise asyncio.CancelledError("too late")


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (lambda: sys.exit(0), "sys.exit(0)"),
        (lambda: sys.exit("no"), "sys.exit('no')"),
        (interrupted, "the trainer raised KeyboardInterrupt"),
        (cancelled, "the trainer raised CancelledError: too late"),
    ],
)
def test_a_trainer_that_leaves_is_a_bug_of_its_trial_and_ends_nothing_else(tmp_path, does, said):
    trial = odd_trial(tmp_path, does)
    assert (trial.state.value, trial.failure.kind, len(trial.attempts)) == ("failed", "bug", 1)
    assert said in trial.failure.reason


def test_an_interrupt_that_a_trainer_raises_on_a_worker_is_an_error_of_the_trial(tmp_path):
    Odd.does, Odd.state = staticmethod(interrupted), 0.0
    work = assignment(tmp_path)
    config = {"x": 0.5, "seed": 0, "trainer": {"steps": 4}}
    work = type(work)(**{**vars(work), "trainer": f"{__name__}:Odd", "config": config})
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        list(run_on_this_worker(Work(work, Resources(cpu=1), str(tmp_path))))


def test_a_state_that_cannot_be_saved_is_refused_before_anything_is_trained(tmp_path):
    trained = []
    trial = odd_trial(tmp_path, lambda: trained.append(1), numpy.zeros(2))
    assert trained == []
    assert trial.failure.kind == "bug"
    assert "state_dict()['more']['here'][0] is a ndarray" in trial.failure.reason
    check_state({"a": [1, (2.0, None)], "b": {"c": True}, 3: "x"})


class Refusing:
    def __float__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "evaluate() must return a dict of numbers by name; it returned None"),
        ([1.0], r"it returned a list ([1.0])"),
        ({"fid": 1.0, "all": {"a": 1}}, "evaluate(): `all` must be a number; it is a dict"),
        ({"fid": [1.0, 2.0]}, "evaluate(): `fid` must be a number; it is a list"),
        ({"fid": "1.0"}, "evaluate(): `fid` must be a number; it is a str ('1.0')"),
        ({"fid": None}, "evaluate(): `fid` must be a number; it is None"),
        ({"fid": 10**400}, "evaluate(): `fid` must be a number; it is a int (1000"),
        ({"fid": 1 + 2j}, "evaluate(): `fid` must be a number; it is a complex"),
        ({"fid": Refusing()}, "evaluate(): `fid` must be a number; it is a Refusing"),
    ],
)
def test_an_evaluation_that_is_no_dict_of_numbers_names_the_key(answer, said):
    with pytest.raises(TypeError) as caught:
        as_metrics(answer, 3, [], ["fid"])
    assert said in str(caught.value)


@pytest.mark.parametrize("method", ["state_dict", "sample_grid"])
def test_leaving_while_something_is_kept_ends_nothing_else_either(tmp_path, monkeypatch, method):
    calls = []

    def leave(self):
        calls.append(method)
        if len(calls) > 1 or method == "sample_grid":  # a state is also asked for before the training
            sys.exit(0)
        return toy.Curve.state_dict(self)

    monkeypatch.setattr(Odd, method, leave, raising=False)
    trial = odd_trial(tmp_path)
    assert trial.state.value == {"state_dict": "failed", "sample_grid": "finished"}[method]
    assert calls


@pytest.mark.parametrize(
    "answer", [3, "text", [(math.inf, {})], [1, 2], [(1, "x")], {"loss": "low"}, [(1, {"loss": None})]]
)
def test_what_train_returns_is_checked_too(answer):
    with pytest.raises(TypeError, match=r"train\(\)"):
        as_rows(answer, 3)


def test_only_a_metric_of_the_sweep_that_is_not_finite_ends_a_trial():
    values = as_metrics({"fid": 1.0, "other": math.nan}, 3, [], ["fid"])
    assert math.isnan(values["other"])
    for wanted in (["fid"], ["other", "fid"], []):
        with pytest.raises(TrainingDiverged, match="fid is inf"):
            as_metrics({"fid": math.inf}, 3, [(2, {"loss": 1.5})], wanted)
