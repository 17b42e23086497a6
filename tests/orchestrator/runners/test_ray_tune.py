"""The Ray runner on a real local Ray, with trainers and programs of a few lines."""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
import torch

from orchestrator.engine import control, dispatch
from orchestrator.engine.start import start_sweep
from orchestrator.paths import Home, TrialPaths
from orchestrator.runners import ray_session, ray_tune
from orchestrator.runners.inline import run_inline
from orchestrator.runners.ray_nodes import available_on_cluster, capacity, resource_bundle
from orchestrator.runners.ray_session import Session
from orchestrator.runners.ray_tune import run_ray
from orchestrator.spec import DEFAULT_TRAINER
from orchestrator.spec.settings import Resources
from orchestrator.spec.sweep import read_spec
from orchestrator.trials.protocol import Decision
from orchestrator.trials.trial import TrialState
from orchestrator.worker.process import SharedData, Work, wait_for_gpu_memory
from orchestrator.worker.trial_loop import make_shared
from tests import ROOT
from tests.cluster.local_cluster import command_of
from tests.orchestrator.contract import Ran, RunnerContract
from tests.orchestrator.engine.test_pbt import SHORT, essence
from tests.orchestrator.engine.test_pbt import content as population_sweep
from tests.orchestrator.runners.program import written
from tests.orchestrator.runners.ray_trials import TOYS, run, trial
from tests.orchestrator.scripted_engine import ScriptedEngine
from tests.orchestrator.simulation import open_engine

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def engine(local_ray, tmp_path_factory):
    """What came of trials of many kinds on two workers, which take one after the other."""
    root = tmp_path_factory.mktemp("sweep")
    data = {"count": str(root / "count")}
    trials = [
        *(trial(root, f"whole {n}", "Witness", x=n / 10) for n in range(8)),
        *(trial(root, f"cut {n}", "Witness", steps=(1, 2, 3)) for n in range(4)),
        *(
            trial(root, f"sharing {offset} {n}", "Sharing", data={**data, "offset": offset}, x=0.0)
            for n in range(3)
            for offset in (0.0, 100.0)
        ),
        trial(root, "slow", steps=(1, 600), seconds=0.05),
        trial(root, "beside it"),
    ]

    def stop(engine):
        if "slow" in engine.reports:
            engine.to_stop.add("slow")

    def decide(name, report):
        return Decision.STOP if (name[:3], report.step) == ("cut", 2) else Decision.CONTINUE

    engine, summary = run(root, trials, on_event=stop, decision=decide)
    assert summary == {"state": None}
    return engine


def of(engine, kind):
    """The reports of the trials of a kind, by their names."""
    return {name: reports for name, reports in engine.reports.items() if name.startswith(kind)}


def test_trials_run_to_their_ends_each_in_one_of_two_reused_workers(engine):
    whole = of(engine, "whole")
    assert {name: [r.step for r in reports] for name, reports in whole.items()} == {
        f"whole {n}": [2, 4] for n in range(8)
    }
    assert engine.events[:2] == [("given", "whole 0"), ("given", "whole 1")]  # and no third before one of them ended
    assert engine.events[2][0] != "given"
    pids = {reports[0].metrics["pid"] for reports in whole.values()}
    assert len(pids) <= 2
    assert os.getpid() not in pids
    for reports in whole.values():
        assert reports[0].metrics["omp_threads"] == 1
        assert reports[0].metrics["passive"] == 1
        assert reports[0].metrics["torch"] == 0  # which takes a second and a half that this trainer has no use for
        assert Path(reports[-1].checkpoint, "state.json").exists()


def test_a_stop_ends_a_trial_and_its_worker_goes_on_with_the_next(engine):
    cut = of(engine, "cut")
    assert {name: [r.step for r in reports] for name, reports in cut.items()} == {f"cut {n}": [1, 2] for n in range(4)}
    assert all(engine.kinds(name) == ["stopped"] for name in cut)
    workers = {reports[0].metrics["pid"] for reports in of(engine, "whole").values()}
    assert {reports[0].metrics["pid"] for reports in cut.values()} <= workers


def test_shared_data_are_made_once_for_all_workers_and_for_each_kind_of_data(engine):
    assert len((engine.paths.root / "count").read_text().split()) == 2
    sharing = of(engine, "sharing")
    assert len(sharing) == 6
    for name, reports in sharing.items():
        assert reports[0].metrics["eval/score"] - float(name.split()[1]) == pytest.approx(0.81)


def test_a_running_trial_can_be_stopped_without_waiting_for_its_report(engine):
    assert engine.kinds("slow") == ["stopped"]
    assert [report.step for report in engine.reports["slow"]] == [1]  # the next one would have come 30 seconds later
    assert engine.reports["beside it"][-1].step == 4


def test_what_a_trial_carried_is_let_go_when_it_has_ended(local_ray, tmp_path, monkeypatch):
    trials = [trial(tmp_path, str(n), "Witness", steps=(1,), fault="bug" if n == 15 else None) for n in range(16)]
    there, carried = [], []
    made = Work.__init__

    def init(work, *args, **options):
        made(work, *args, **options)
        there.append(weakref.ref(work))

    def setstate(work, state):  # a copy
        work.__dict__.update(state)
        there.append(weakref.ref(work))

    def count(engine):
        carried.append(sum(each() is not None for each in there))

    monkeypatch.setattr(Work, "__init__", init)
    monkeypatch.setattr(Work, "__setstate__", setstate, raising=False)

    run(tmp_path, trials, on_event=count, retry=())
    assert len(there) >= 16
    assert max(carried) <= 6  # those that run, those that wait for their workers, copies on the way
    assert carried[-1] <= 2


def test_tensors_of_the_meanflow_trainer_are_read_where_they_lie_and_any_other_trainer_may_write_into_its_own(
    local_ray, tmp_path
):
    config = {"data": {"name": "toy2d", "law": "moons"}}
    actor = SharedData.remote(Work(trial(tmp_path, "0"), Resources(cpu=1), str(ROOT)))

    def read(trainer, config):
        [reference] = ray.get(actor.get.remote(trainer, config))
        return ray.get(reference), ray.get(reference)

    mine, other = read(f"{TOYS}:Tensors", {})
    mine += 1
    assert (mine.tolist(), other.tolist()) == ([1, 1, 1], [0, 0, 0])

    (one, held), (again, _) = (
        (found.dataset._x, found.dataset.held_out()[0]) for found in read(DEFAULT_TRAINER, config)
    )
    assert one.data_ptr() == again.data_ptr()
    assert torch.equal(held, make_shared(DEFAULT_TRAINER, config).dataset.held_out()[0])
    ray.kill(actor)


def test_a_trials_output_goes_to_its_own_log_in_a_reused_worker_too(local_ray, tmp_path, capfd):
    trials = [trial(tmp_path, str(n), "Talkative", steps=(1, 2)) for n in range(4)]
    engine, _ = run(tmp_path, trials, max_concurrent=1)
    for name in engine.reports:
        log = TrialPaths(tmp_path / "trials" / name).log.read_text()
        for said in ("to stdout", "to stderr", "to the log", "to the descriptor"):
            assert log.count(said) == 2, log
    assert capfd.readouterr() == ("", "")


def test_the_engine_is_polled_while_nothing_is_reported_in_any_thread(local_ray, tmp_path):
    with ThreadPoolExecutor(1) as elsewhere:  # no signals there
        engine, _ = elsewhere.submit(run, tmp_path, [trial(tmp_path, "0", steps=(20,), seconds=0.1)]).result()
    assert engine.polls > 10


def test_a_signal_interrupts_cleanly_and_fast(local_ray, tmp_path):
    slow = trial(tmp_path, "0", steps=(1, 1000), seconds=0.05)
    began, before = [], signal.getsignal(signal.SIGINT)

    def interrupt(engine):
        if "0" in engine.reports and not began:
            began.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    engine, summary = run(tmp_path, [slow], on_event=interrupt)
    assert summary == {"state": "interrupted by a signal"}
    assert time.monotonic() - began[0] < 10
    assert engine.running == {"0"}  # the engine records it as waiting; here it only remembers
    assert signal.getsignal(signal.SIGINT) is before


def shown(tmp_path, resources, count):
    """Which GPUs each of some trials is shown, and which the process was that loaded their data."""
    trials = [trial(tmp_path, str(n), "Beholder", steps=(1,), data={"offset": 0.0}) for n in range(count)]
    for each in trials:
        each.config["trainer"]["device"] = "cpu"  # torch is asked for no GPU, since these are not there
    engine, _ = run(tmp_path, trials, resources=resources)
    facts = [reports[0].facts for reports in engine.reports.values()]
    return sorted(fact["device"] for fact in facts), {fact["fingerprint"] for fact in facts}


def test_every_trial_sees_one_gpu_and_the_process_of_shared_data_none(local_ray, tmp_path):
    devices, of_the_data = shown(tmp_path, Resources(gpu=1.0), 3)
    assert len(devices) == 3  # a worker that ends early takes the next trial, on the same GPU
    assert set(devices) <= {"0", "1", "2"}
    assert of_the_data == {"none"}


def test_trials_without_a_grant_see_no_gpu(local_ray, tmp_path):
    assert shown(tmp_path, Resources(gpu=0.0), 2) == (["none", "none"], {"none"})


def test_what_the_cluster_has_is_counted(local_ray):
    there = available_on_cluster()
    assert (there["cpu"], there["gpu"], there["slot"]) == (2.0, 3.0, 2.0)


def test_custom_resources_limit_what_runs_together(local_ray, tmp_path):
    trials = [trial(tmp_path, str(n), "Witness", steps=(1,), seconds=0.2) for n in range(3)]
    engine, _ = run(tmp_path, trials, resources=Resources(cpu=0.5, custom={"slot": 2.0}))
    assert [what for what, _ in engine.events] == ["given", "report 1", "stopped"] * 3


def test_what_fits_on_no_node_is_refused_with_what_there_is(local_ray, tmp_path):
    with pytest.raises(ValueError, match=r"one trial needs CPU=1 GPU=4, and no node has that .*CPU=2"):
        run(tmp_path, [], resources=Resources(cpu=1, gpu=4))


class TestRay(RunnerContract):
    # The engine's own decisions are the same code on every runner; starting workers for each of them takes minutes.
    test_replicates_are_seeds_of_the_best_and_the_search_does_not_see_them = None
    test_a_bug_of_one_trial_leaves_the_others_alone_and_is_retried_when_it_is_gone = None
    test_a_misnamed_metric_ends_the_sweep_with_the_names_there_are = None
    test_going_on_with_a_finished_sweep_runs_nothing_again = None
    test_what_is_reported_is_what_the_trainer_gives_when_run_alone = None
    test_out_of_memory_is_told_from_a_bug = None  # above, through Ray, with every other class

    @pytest.fixture
    def run_sweep(self, local_ray, home, monkeypatch):
        monkeypatch.setattr(ray_tune, "PROCESS_PATIENCE", 0.2)  # no node dies here

        def run(content):
            engine = open_engine(home, content)
            with engine.ledger:
                return Ran(run_ray(engine), engine.paths)

        return run


def test_population_based_training_on_two_workers_decides_as_in_one_process(local_ray, tmp_path):
    found = []
    for place, runner in (("inline", run_inline), ("ray", run_ray)):
        engine = open_engine(Home(tmp_path / place), population_sweep(**SHORT))
        with engine.ledger:
            runner(engine)
            found.append([essence(trial) for trial in engine.ledger.trials()])
    assert found[0] == found[1]


def test_a_program_is_ended_by_a_rule_and_by_hand(local_ray, tmp_path):
    rule = {"type": "hyperband", "min_iter": 3, "eta": 2}
    changes = {"early_terminate": rule, "trainer": {"steps": 9}, "set": {"nap": 0.2}}
    engine = start_sweep(Home(tmp_path / "home"), read_spec(written(tmp_path, **changes, max_concurrent=2)))
    asked = False

    def stop_one(engine):
        nonlocal asked
        if not asked and "1" in engine.live and engine.ledger.trial("1").steps >= 1:
            control.mailbox.post(engine.paths, control.stop_trial("1"))
            asked = True

    with engine.ledger:
        run_ray(engine, on_event=stop_one)
        found = engine.ledger.trials()
    assert found[0].state is TrialState.FINISHED
    assert sorted(found[0].reports) == list(range(1, 10))
    assert {trial.state for trial in found[1:]} == {TrialState.PRUNED}


HANGING = """
import os, signal, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = Path(__file__).with_name("hangs")
file.with_suffix(".new").write_text(str(os.getpid()))
file.with_suffix(".new").rename(file)
while True:
    time.sleep(60)
"""


def test_a_program_that_hangs_is_ended_by_a_stop(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "GRACE", 1.0)
    engine = start_sweep(Home(tmp_path / "home"), read_spec(written(tmp_path, HANGING, max_concurrent=1)))
    asked = False

    def stop(engine):
        nonlocal asked
        if not asked and (tmp_path / "hangs").exists():
            control.mailbox.post(engine.paths, control.stop())
            asked = True

    with engine.ledger:
        assert run_ray(engine, on_event=stop).state == "stopped"
        [trial] = engine.ledger.trials()
    assert (trial.state, trial.attempts) == (TrialState.WAITING, ())
    pid = int((tmp_path / "hangs").read_text())
    while command_of(pid):  # SIGKILL comes after its ten seconds
        time.sleep(0.1)


def node(alive=True, **resources):
    return {"Alive": alive, "Resources": resources}


def test_capacity_counts_whole_trials_on_each_living_node():
    there = [node(CPU=4.0, GPU=2.0), node(CPU=3.0), node(CPU=8.0, GPU=8.0, alive=False)]
    assert capacity(there, Resources(cpu=1)) == 7
    assert capacity(there, Resources(cpu=2)) == 3
    assert capacity(there, Resources(cpu=1, gpu=1)) == 2
    assert capacity(there, Resources(cpu=0.5, gpu=0.25)) == 8
    assert capacity(there, Resources(cpu=1, gpu=0.6)) == 2  # a share does not cross GPUs
    assert capacity(there, Resources(cpu=1, workers=2)) == 3
    assert capacity(there, Resources(cpu=1, custom={"tpu": 1.0})) == 0


def test_an_edit_of_the_resources_changes_nothing_for_the_workers_that_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_session, "nodes", lambda: [{**node(CPU=4.0), "NodeID": "a"}])
    engine = ScriptedEngine(tmp_path, [], resources=Resources(cpu=2))
    session = Session(engine, None, threading.Event())
    session._shared = "made already"
    engine.spec.resources = Resources(cpu=1, workers=2)
    assert session.limit() == 2
    assert session._work(trial(tmp_path, "0")).resources == Resources(cpu=2)
    engine.spec.max_concurrent = 1
    assert session.limit() == 1


def test_a_bundle_names_what_ray_counts():
    assert resource_bundle(Resources(cpu=2, gpu=0.5, custom={"a100": 1.0})) == {"CPU": 2.0, "GPU": 0.5, "a100": 1.0}
    assert resource_bundle(Resources(cpu=1, gpu=0)) == {"CPU": 1.0}


def test_a_new_worker_waits_until_its_share_of_the_gpu_is_free():
    memory = iter([(10, 100), (20, 100), (50, 100)])
    slept = []
    assert wait_for_gpu_memory(0.5, free_and_total=lambda: next(memory), sleep=slept.append)
    assert len(slept) == 2
    assert not wait_for_gpu_memory(0.5, free_and_total=lambda: (10, 100), timeout=2, sleep=slept.append)
    assert wait_for_gpu_memory(0, free_and_total=lambda: pytest.fail("a trial on CPU looks at no GPU"))
