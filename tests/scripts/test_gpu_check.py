"""What `make gpu-check` can prove without a GPU, and that it goes on after a check that fails, hangs or dies."""

import json
import os
import time

import pytest

from scripts.gpu_check.check import Check, NotRun, Setting, demand, run_check
from scripts.gpu_check.numberless import DIT, KINDS, MODELS, operations

HERE = Setting("cpu")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_mixes_no_devices_and_asks_a_device_for_no_number(model, kind):
    assert operations(MODELS[model], 64, **KINDS[kind]) > 0


def test_a_step_that_waits_for_the_device_is_found(monkeypatch):
    from meanflow_core.training.meters import Meter

    add = Meter.add
    monkeypatch.setattr(Meter, "add", lambda self, step, loss, *rest: add(self, step, loss * float(loss), *rest))
    with pytest.raises(RuntimeError, match="meta"):
        operations(MODELS["mlp"], 64)


def test_the_arithmetic_of_a_step_is_what_the_documentation_says():
    base, dual, guided = (operations({**DIT, "depth": 2}, 64, **KINDS[kind]) for kind in KINDS)
    assert 1.06 < dual / base < 1.11
    assert 1.43 < guided / base < 1.48


def hangs(setting):
    time.sleep(60)


def dies(setting):
    os._exit(7)


def refuses(setting):
    raise NotRun("ray is not installed")


def finds(setting):
    return demand({"size": 0.5}, it_is_small=False)


def passes(setting):
    return {"figure": 1.5}


@pytest.mark.parametrize(
    ("run", "ok", "said"),
    [
        (passes, True, None),
        (finds, False, "does not hold: it is small"),
        (dies, False, "the process ended with exit code 7"),
        (hangs, False, "not done after 1 s"),
        (refuses, None, "not run: ray is not installed"),
        (lambda setting: 1 / 0, False, "ZeroDivisionError"),
    ],
)
def test_whatever_a_check_does_it_is_one_line(run, ok, said):
    began = time.monotonic()
    line = json.loads(json.dumps(run_check(Check("name", "this", run, limit=1 if run is hangs else 30), HERE)))
    assert line["ok"] is ok
    assert said is None or said in str(line["error"])
    assert (line.get("figure") == 1.5) == (run is passes)
    assert time.monotonic() - began < 20


def test_figures_of_a_check_that_fails_are_reported():
    line = run_check(Check("name", "this", finds), HERE)
    assert (line["ok"], line["size"]) == (False, 0.5)
