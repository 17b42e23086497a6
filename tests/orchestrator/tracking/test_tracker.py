"""What a sweep shows: the same in memory and in MLflow, through kills and resumes, without holding the sweep up."""

import dataclasses
import json
import logging
import math
import signal
import subprocess
import sys
import time
from urllib.parse import parse_qs

import pytest

from orchestrator.engine.start import start_sweep
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.tracking.event_tracker import SWEEP, EventTracker
from orchestrator.tracking.mlflow_store import Sent, Store, connect
from orchestrator.tracking.mlflow_sync import check, sync
from orchestrator.tracking.mlflow_views import VIEW_TAG
from orchestrator.tracking.tracker import MemoryTracker, MlflowTracker, link_to_runs, run_ids
from orchestrator.trials.trial import Failure, TrialState
from tests import ROOT
from tests.orchestrator import toy
from tests.orchestrator.engine.test_pbt import SHORT
from tests.orchestrator.engine.test_pbt import content as population
from tests.orchestrator.example_sweep import METRIC, record, spec
from tests.orchestrator.mlflow_stores import events_of, picture, read_back, sqlite_store

VALUES = {"objective.time.law": "uniform", "optimizer.lr": 0.000123456789, "objective.guidance.kappa": 0.5}
INFO = {"environment": {"code": "abc123", "data": "digits:0123456789abcdef"}, "plan": {"trials": 24}}


def trial(key, value=None, state="running", **more):
    return record(key, value, state=TrialState(state), values=VALUES, **more)


def start(tracker, key, **more):
    tracker.trial_started(trial(key, **more), spec().config_for(VALUES, seed=0))


def steps(first, last):
    return [(step, {"train/loss": 1 / step}) for step in range(first, last + 1, 100)]


class TrackerContract:
    """A subclass gives `tracker`, and `runs()`: what the tracker shows now, as `MemoryRun` by key."""

    def test_a_whole_sweep_reads_back(self, tracker, runs, tmp_path):
        tracker.sweep_started(spec(), INFO)
        start(tracker, "7")
        for step in (500, 1000):
            images = {"samples/1nfe": picture(tmp_path / f"{step}.png")}
            tracker.report("7", step, {METRIC: 9000 / step}, steps(step - 400, step), images)
        tracker.trial_ended(trial("7", 9.0, "finished", steps=1000, reports={500: {METRIC: 18.0}, 1000: {METRIC: 9.0}}))
        tracker.sweep_ended("finished", {"trials": 1})
        found = runs()
        assert set(found) == {"sweep", "7"}
        sweep, seventh = found["sweep"], found["7"]
        assert (sweep.name, sweep.experiment, sweep.parent) == ("digits-guidance", "digits-guidance", None)
        assert (seventh.name, seventh.experiment, seventh.parent) == ("trial 7 · seed 0", "digits-guidance", "sweep")
        assert (sweep.status, seventh.status) == ("FINISHED", "FINISHED")
        assert seventh.params == {
            "objective.time.law": "uniform",
            "optimizer.lr": "0.000123457",
            "objective.guidance.kappa": "0.5",
            "seed": "0",
        }
        assert seventh.metrics[METRIC] == {500: 18.0, 1000: 9.0}
        assert seventh.metrics["train/loss"] == {step: 1 / step for step in range(100, 1001, 100)}
        assert sorted(seventh.images["samples/1nfe"]) == [500, 1000]
        assert seventh.datasets == ["digits"]
        assert "objective:" in seventh.files["config.yaml"]
        assert {"sweep.yaml", "plan.json", "environment.json", "summary.json"} <= set(sweep.files)
        assert sweep.metrics[f"best/{METRIC}"] == {1: 9.0}
        assert sweep.tags["meansweep.best_trial"] == "7"
        assert "lowest `eval/fid_1nfe`" in sweep.tags["mlflow.note.content"]
        assert sweep.tags["mlflow.note.content"].startswith("**Result:** Trial 7 is best, with eval/fid_1nfe 9;")
        assert seventh.tags["meansweep.rank"] == "1"
        assert "meansweep best digits-guidance --trial 7 -o best.yaml" in seventh.tags["mlflow.note.content"]
        assert seventh.tags["meansweep.code"] == "abc123"

    def test_every_end_of_a_trial_shows(self, tracker, runs):
        tracker.sweep_started(spec(), INFO)
        failure = Failure("oom", "CUDA out of memory", traceback="Traceback ...")
        ends = {
            "1": trial("1", 5.0, "finished"),
            "2": trial("2", 50.0, "pruned", reason="asha: worse than rung 500"),
            "3": trial("3", None, "failed", failure=failure, reason="oom: CUDA out of memory"),
            "4": trial("4", None, "failed", failure=Failure("diverged", "the loss is nan"), reason="diverged"),
        }
        for key, ended in ends.items():
            start(tracker, key)
            tracker.trial_ended(ended)
        start(tracker, "5")
        tracker.sweep_ended("interrupted", {})
        found = runs()
        assert {key: found[key].status for key in "12345"} == {
            "1": "FINISHED", "2": "KILLED", "3": "FAILED", "4": "FAILED", "5": "KILLED",
        }  # fmt: skip
        assert [found[key].tags["meansweep.state"] for key in "12345"] == [
            "finished", "pruned", "failed", "failed", "interrupted",
        ]  # fmt: skip
        assert found["2"].tags["meansweep.reason"] == "asha: worse than rung 500"
        assert (found["3"].tags["meansweep.failure"], found["4"].tags["meansweep.failure"]) == ("oom", "diverged")
        assert found["3"].files["traceback.txt"] == "Traceback ..."
        assert found["sweep"].status == "KILLED"
        assert found["sweep"].metrics[f"best/{METRIC}"] == {1: 5.0, 2: 5.0}

    def test_saying_everything_twice_changes_nothing(self, tracker, runs, tmp_path):
        image = {"samples": picture(tmp_path / "a.png")}
        for _ in range(2):
            tracker.sweep_started(spec(), INFO)
            start(tracker, "7")
            tracker.report("7", 500, {METRIC: 18.0}, steps(100, 500), image)
            tracker.trial_ended(trial("7", 18.0, "finished", steps=500))
            tracker.sweep_ended("finished", {})
        seventh = runs()["7"]
        assert seventh.metrics[METRIC] == {500: 18.0}
        assert len(seventh.metrics["train/loss"]) == 5
        assert list(seventh.images["samples/grid"]) == [500]

    def test_values_that_are_no_numbers_are_shown(self, tracker, runs):
        tracker.sweep_started(spec(), INFO)
        start(tracker, "7")
        tracker.report("7", 100, {"eval/a@b": 1.0, METRIC: math.nan}, [(100, {"train/loss": math.inf})], {})
        metrics = runs()["7"].metrics
        assert math.isnan(metrics[METRIC][100])
        assert metrics["train/loss"][100] > 1e308
        assert metrics["eval/a_b"] == {100: 1.0}

    def test_the_best_so_far_follows_the_goal(self, tracker, runs):
        metric = dataclasses.replace(spec().metric, goal="maximize")
        tracker.sweep_started(spec(metrics=(metric,)), INFO)
        for key, value in (("0", 3.0), ("1", 5.0), ("2", math.nan), ("3", 4.0)):
            start(tracker, key)
            tracker.trial_ended(trial(key, value, "finished"))
        start(tracker, "1.1")
        tracker.trial_ended(trial("1.1", 9.0, "finished", seed=1))
        found = runs()
        assert found["sweep"].metrics[f"best/{METRIC}"] == {1: 3.0, 2: 5.0, 3: 5.0, 4: 5.0}
        assert found["1.1"].tags["meansweep.kind"] == "replicate"
        assert found["sweep"].tags["mlflow.note.content"].startswith("**Best so far:** 7 ± 25 (trial 1, 2 seeds).")

    def test_what_a_killed_driver_could_not_show_is_shown_on_resuming(self, tracker, runs):
        tracker.sweep_started(spec(), INFO)
        start(tracker, "1")
        start(tracker, "2")
        tracker.report("2", 500, {METRIC: 4.0}, steps(100, 500), {})
        ledger = [
            trial("0", 7.0, "finished", reports={500: {METRIC: 8.0}, 1000: {METRIC: 7.0}}, steps=1000),
            trial("1", 3.0, "finished", reports={500: {METRIC: 3.0}}, steps=500),
            trial("2", 4.0, "waiting", reports={500: {METRIC: 4.0}}, steps=500),
        ]
        tracker.sweep_started(spec(), {**INFO, "trials": ledger})
        found = runs()
        assert {key: found[key].status for key in "012"} == {"0": "FINISHED", "1": "FINISHED", "2": "RUNNING"}
        assert found["0"].metrics[METRIC] == {500: 8.0, 1000: 7.0}
        assert found["0"].params["optimizer.lr"] == "0.000123457"
        assert found["1"].metrics[METRIC] == {500: 3.0}
        assert found["sweep"].metrics[f"best/{METRIC}"] == {1: 7.0, 2: 3.0}

    def test_a_reused_trial_that_never_ran_here_is_shown(self, tracker, runs):
        tracker.sweep_started(spec(), INFO)
        reused = trial("3", 6.0, "finished", reports={4500: {METRIC: 6.0}}, labels={"reused": "older-sweep/4"})
        tracker.trial_ended(reused)
        third = runs()["3"]
        assert third.metrics[METRIC] == {4500: 6.0}
        assert third.tags["meansweep.reused"] == "older-sweep/4"
        assert third.status == "FINISHED"

    def test_a_small_last_checkpoint_is_kept_with_the_run(self, tracker, runs, tmp_path):
        checkpoint = tmp_path / "step-500"
        checkpoint.mkdir()
        (checkpoint / "weights").write_bytes(b"w" * 1000)
        tracker.sweep_started(spec(), INFO)
        start(tracker, "7")
        tracker.trial_ended(trial("7", 1.0, "finished", checkpoint=str(checkpoint)))
        assert "checkpoint" in runs()["7"].files


def test_every_seed_of_an_unstable_configuration_is_marked_when_the_sweep_ends():
    tracker = MemoryTracker()
    tracker.sweep_started(spec(), INFO)
    for key, value, seed in (("1", 2.0, 0), ("2", 3.0, 0), ("1.1", 80.0, 1)):
        start(tracker, key)
        tracker.trial_ended(trial(key, value, "finished", seed=seed))
    assert "meansweep.rank" not in tracker.runs["1"].tags
    tracker.sweep_ended("finished", {})
    tags = {key: tracker.runs[key].tags for key in ("1", "1.1", "2")}
    assert {key: tag["meansweep.rank"] for key, tag in tags.items()} == {"1": "2", "1.1": "2", "2": "1"}
    assert tags["1"]["meansweep.unstable"] == tags["1.1"]["meansweep.unstable"] == "seed 1 collapsed (80)"
    assert not tags["2"].get("meansweep.unstable")
    assert tracker.runs[SWEEP].tags["meansweep.best_trial"] == "2"


def test_every_metric_that_trials_report_has_a_curve_as_far_as_trials_go(monkeypatch):
    tracker, views = MemoryTracker(), []
    append = tracker._sink.append

    def spied(run, what, data):
        if what == "experiment":
            views.append(json.loads(data["tags"][VIEW_TAG])["compareRunCharts"])
        append(run, what, data)

    monkeypatch.setattr(tracker._sink, "append", spied)
    tracker.sweep_started(spec(), INFO)
    for key, value in (("1", 40.0), ("2", 3.0), ("3", 3.5)):
        start(tracker, key)
        reports = {4500: {METRIC: value, "eval/accuracy_1nfe": 0.9, "eval/raw/fid_1nfe": value + 1}}
        tracker.trial_ended(trial(key, value, "finished", reports=reports))
    names = [METRIC, "eval/accuracy_1nfe", "eval/raw/fid_1nfe"]
    shown = [[chart for chart in charts if chart["type"] == "LINE"] for charts in views]
    assert [[curve["metricKey"] for curve in curves] for curves in shown] == [[METRIC], names, names]
    assert [[curve["scaleType"] for curve in curves] for curves in shown[1:]] == [
        ["linear"] * 3,
        ["log"] + ["linear"] * 2,
    ]
    assert {json.dumps(curve["range"]) for curve in shown[-1]} == {'{"xMin": 0, "xMax": 4500}'}
    assert len({curve["uuid"] for curve in shown[-1]}) == 3


class TestMemoryTracker(TrackerContract):
    @pytest.fixture
    def tracker(self):
        return MemoryTracker()

    @pytest.fixture
    def runs(self, tracker):
        return lambda: tracker.runs


@pytest.mark.mlflow
class TestMlflowTracker(TrackerContract):
    @pytest.fixture
    def store(self, tmp_path):
        return sqlite_store(tmp_path / "store")

    @pytest.fixture
    def tracker(self, tmp_path, store):
        tracker = MlflowTracker(tmp_path / "outbox", store, interval=0.05, strict=True)
        yield tracker
        tracker.close(10)

    @pytest.fixture
    def runs(self, tracker, tmp_path, store):
        def settle():
            assert tracker.close(30) == 0
            assert check(tmp_path / "outbox", store).complete
            return read_back(tmp_path / "outbox", store)

        return settle


@pytest.mark.mlflow
def test_a_resumed_sweep_goes_on_with_the_same_runs(tmp_path):
    store, outbox = sqlite_store(tmp_path), tmp_path / "outbox"
    first = MlflowTracker(outbox, store, interval=0.05, strict=True)
    first.sweep_started(spec(), INFO)
    start(first, "7")
    first.report("7", 500, {METRIC: 18.0}, steps(100, 500), {})
    first.sweep_ended("interrupted", {})
    assert first.close(30) == 0
    before = read_back(outbox, store)
    assert before["7"].status == "KILLED"
    second = MlflowTracker(outbox, store, interval=0.05, strict=True)
    second.sweep_started(spec(), {**INFO, "trials": [trial("7", 18.0, "waiting", reports={500: {METRIC: 18.0}})]})
    start(second, "7")
    second.report("7", 1000, {METRIC: 9.0}, steps(300, 1000), {})  # its checkpoint was at step 200
    second.trial_ended(trial("7", 9.0, "finished", steps=1000))
    second.sweep_ended("finished", {})
    assert second.close(30) == 0
    after = read_back(outbox, store)
    assert set(after) == {"sweep", "7"}
    assert after["7"].status == after["sweep"].status == "FINISHED"
    assert list(after["7"].metrics["train/loss"]) == list(range(100, 1001, 100))
    experiment = connect(store).get_experiment_by_name("digits-guidance").experiment_id
    assert len(connect(store).search_runs([experiment])) == 2


@pytest.mark.mlflow
def test_a_driver_killed_in_mid_sweep_leaves_nothing_out_and_no_run_open(tmp_path):
    store, outbox = sqlite_store(tmp_path), tmp_path / "outbox"
    code = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "from tests.orchestrator.tracking.test_tracker import *\n"
        "root = Path(sys.argv[1]); store = Store(sys.argv[2], root / 'artifacts')\n"
        "tracker = MlflowTracker(root / 'outbox', store, interval=0.01, strict=True)\n"
        "tracker.sweep_started(spec(), INFO); start(tracker, '7')\n"
        "for step in range(500, 3_000_000, 500):\n"
        "    tracker.report('7', step, {METRIC: 1 / step}, steps(step - 400, step), {}); time.sleep(0.01)\n"
        "    if any(p.stat().st_size for p in (root / 'outbox').glob('sent-*.json')) and step > 5000:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), store.uri], check=False, timeout=180, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert sync(outbox, store) > 0
    report = check(outbox, store)
    assert report.complete, report
    found = read_back(outbox, store)
    assert (found["7"].status, found["sweep"].status) == ("KILLED", "KILLED")
    assert found["7"].tags["meansweep.state"] == "interrupted"


@pytest.mark.mlflow
def test_a_member_of_a_population_keeps_its_parameters_and_shows_its_new_values_as_metrics(tmp_path):
    store, outbox = sqlite_store(tmp_path), tmp_path / "outbox"
    tracker = MlflowTracker(outbox, store, interval=0.05, strict=True)
    engine = start_sweep(Home(tmp_path / "home"), toy.spec(population(**SHORT)), tracker=lambda _: tracker)
    with engine.ledger:
        run_inline(engine)
        trials = engine.ledger.trials()
    assert tracker.close(30) == 0
    report = check(outbox, store)
    assert report.complete, report  # and so nothing was refused: MLflow refuses to change a parameter
    runs = read_back(outbox, store)
    assert any("lineage" in trial.labels for trial in trials)
    for trial in trials:
        run, changes = runs[trial.id], trial.labels.get("lineage", [])
        shown = run.metrics.get("pbt/rate", {})
        assert {step: value for step, value in shown.items() if step} == {
            change["step"]: pytest.approx(change["values"]["rate"]) for change in changes
        }
        told = [f"step {change['step']}: from trial {change['donor']}" for change in changes]
        assert run.tags.get("meansweep.lineage", "") == "; ".join(told)
        assert float(run.params["rate"]) == pytest.approx(shown.get(0, trial.values["rate"]), rel=1e-5)


def test_a_trial_that_a_killed_driver_left_open_is_closed_with_the_sweep_though_nobody_took_it_up():
    killed = MemoryTracker()
    killed.sweep_started(spec(), INFO)
    start(killed, "2")
    after = EventTracker(killed._sink, strict=True)
    after.sweep_started(spec(), {**INFO, "trials": [trial("2", 4.0, "waiting", reports={500: {METRIC: 4.0}})]})
    assert killed.runs["2"].status == "RUNNING"
    after.sweep_ended("stopped", {})
    assert (killed.runs["2"].status, killed.runs["2"].tags["meansweep.state"]) == ("KILLED", "interrupted")


def test_errors_of_tracking_stay_out_of_the_sweep(caplog):
    class Broken:
        def append_once(self, *_):
            raise RuntimeError("no")

    with caplog.at_level(logging.ERROR):
        EventTracker(Broken()).sweep_started(spec(), {})
    assert "could not be tracked" in caplog.text
    with pytest.raises(RuntimeError):
        EventTracker(Broken(), strict=True).sweep_started(spec(), {})


def test_starting_to_track_loads_no_mlflow_in_the_driver(tmp_path):
    code = (
        "import sys; from orchestrator.tracking.tracker import MemoryTracker\n"
        "heavy = {'mlflow', 'torch', 'ray', 'optuna', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.mlflow
def test_what_the_store_refused_is_counted_at_the_end(tmp_path):
    tracker = MlflowTracker(tmp_path / "outbox", sqlite_store(tmp_path), interval=0.05, strict=True)
    tracker.sweep_started(spec(), INFO)
    start(tracker, "7")
    tracker.report("7", 500, {METRIC: 18.0}, [], {"samples": str(tmp_path / "gone.png")})
    assert tracker.close(30) == 0
    assert tracker.refused == 1


def test_a_large_checkpoint_stays_where_it_is(tmp_path):
    (tmp_path / "weights").write_bytes(b"w" * 2000)
    tracker = MemoryTracker(checkpoint_limit=1000)
    tracker.sweep_started(spec(), INFO)
    start(tracker, "7")
    tracker.trial_ended(trial("7", 1.0, "finished", checkpoint=str(tmp_path)))
    assert "checkpoint" not in tracker.runs["7"].files


def test_a_missing_store_never_holds_up_the_sweep(tmp_path):
    tracker = MlflowTracker(tmp_path / "outbox", Store("http://127.0.0.1:9"), interval=0.05, strict=True)
    slowest = 0.0
    for key in map(str, range(20)):
        begin = time.perf_counter()
        if key == "0":
            tracker.sweep_started(spec(), INFO)
        start(tracker, key)
        tracker.report(key, 500, {METRIC: 1.0}, steps(100, 500), {})
        tracker.trial_ended(trial(key, 1.0, "finished", steps=500))
        slowest = max(slowest, time.perf_counter() - begin)
    begin = time.perf_counter()
    left = tracker.close(timeout=0.5)
    assert time.perf_counter() - begin < 1.0
    assert left == len(events_of(tmp_path / "outbox"))
    assert slowest < 1.0


@pytest.mark.mlflow
def test_run_ids_are_those_of_the_store_in_use(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path)
    sqlite_store(tmp_path)
    paths = home.sweep("digits-guidance")
    assert run_ids(paths) == {}
    tracker = MlflowTracker(paths.outbox, Store.of(home), interval=0.05, strict=True)
    tracker.sweep_started(spec(), INFO)
    start(tracker, "7")
    assert tracker.close(30) == 0
    ids = run_ids(paths)
    assert set(ids) == {"sweep", "7"}
    assert connect(Store.of(home)).get_run(ids["7"]).data.tags["meansweep.trial"] == "7"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run_ids(paths) == {}


def test_a_comparison_names_the_page_of_its_runs_with_the_metric_first(tmp_path):
    home = Home(tmp_path)
    paths, store = home.sweep("s"), Store.of(home)
    assert link_to_runs(paths, spec(), [1, 2]) is None
    paths.outbox.mkdir(parents=True)
    sent = Sent.load(paths.outbox, store)
    sent.runs, sent.experiments = {"sweep": "p", "1": "a", "1.1": "b", "2": "c", "10": "d"}, {"s": "7"}
    sent.save()
    page, _, facets = link_to_runs(paths, spec(), [1, 2]).partition("?")
    assert page == "http://127.0.0.1:5000/#/experiments/7/runs"
    told = {key: value for key, (value,) in parse_qs(facets).items()}
    assert told["searchFilter"] == "attributes.run_id IN ('a', 'b', 'c')"
    assert (told["orderByKey"], told["orderByAsc"]) == (f"metrics.`{METRIC}`", "true")
