"""What fails on a real local Ray: in the trainer, in its process, in the engine, each with its class."""

from __future__ import annotations

import pytest
import ray

from orchestrator.runners import ray_session, ray_tune
from orchestrator.trials.protocol import Assignment
from tests.orchestrator.runners.ray_trials import run, trial

pytestmark = pytest.mark.ray
IMPATIENT = "tests.orchestrator.impatient_trainer:Impatient"


@pytest.fixture(autouse=True)
def _no_node_dies(monkeypatch):
    """Do not wait after each death of a process for that of its node."""
    monkeypatch.setattr(ray_tune, "PROCESS_PATIENCE", 0.2)


def test_a_trials_own_failure_is_told_by_its_class_and_its_worker_is_not_used_again(local_ray, tmp_path):
    kinds = {"diverged": "diverged", "nan": "diverged", "oom": "oom", "bug": "bug", "disk": "infrastructure"}
    bad = [trial(tmp_path, fault, "Witness", fault=fault, fault_step=3) for fault in kinds]
    good = [trial(tmp_path, f"good{n}", "Witness") for n in range(3)]
    engine, _ = run(tmp_path, [*bad, *good], retry=())
    for fault, kind in kinds.items():
        [outcome] = engine.outcomes[fault]
        assert (outcome.kind, outcome.last_step) == (kind, 2)
        assert "Traceback" in outcome.traceback
    assert all(engine.reports[t.trial][-1].step == 4 for t in good)

    def pid(name):
        return engine.reports[name][0].metrics["pid"]

    for fault in ("oom", "bug", "disk"):
        later = engine.events[engine.events.index((kinds[fault], fault)) :]
        assert pid(fault) not in {pid(name) for what, name in later if what == "report 2"}


def test_a_trainers_own_ways_end_its_trial_alone_with_a_sentence(local_ray, tmp_path):
    said = {
        "leaves": ("bug", "sys.exit(0)"),
        "leaves with a text": ("bug", "sys.exit('no')"),
        "interrupts": ("bug", "KeyboardInterrupt"),
        "trains text": ("bug", "train()"),
        "None": ("bug", "evaluate() must return a dict of numbers by name; it returned None"),
        "a list": ("bug", "it returned a list"),
        "a dict inside": ("bug", "`more` must be a number; it is a dict"),
        "a text inside": ("bug", "`note` must be a number; it is a str"),
        "its own is NaN": ("diverged", "eval/score is nan"),
        "numpy state": ("bug", "state_dict()['numpy'] is a ndarray"),
    }
    good = ("another is NaN", "behaves")
    trials = [trial(tmp_path, str(n), "Wayward", way=way) for n, way in enumerate([*said, *good])]
    trials = [Assignment(**{**vars(each), "metrics": ["eval/score"]}) for each in trials]
    engine, summary = run(tmp_path, trials, retry=())
    assert summary == {"state": None}
    for number, (way, (kind, text)) in enumerate(said.items()):
        [outcome] = engine.outcomes[str(number)]
        assert (way, outcome.kind) == (way, kind)
        assert text in outcome.reason, way
    assert [engine.reports.get(str(n), []) for n in range(len(said))] == [[]] * len(said)
    for number in range(len(said), len(trials)):
        assert engine.kinds(str(number)) == ["stopped"]  # by the engine, at its last step
        assert [report.step for report in engine.reports[str(number)]] == [2, 4]


def test_a_killed_worker_process_is_an_infrastructure_failure_and_the_trial_goes_on_from_its_checkpoint(
    local_ray, tmp_path
):
    once = tmp_path / "happened"
    engine, _ = run(tmp_path, [trial(tmp_path, "0", fault="kill", fault_step=3, once=once), trial(tmp_path, "1")])
    assert engine.kinds("0") == ["infrastructure", "stopped"]
    assert engine.given["0"].start == 2
    assert [report.step for report in engine.reports["0"]] == [2, 4]
    whole = engine.reports["1"][-1].metrics
    assert engine.reports["0"][-1].metrics == whole  # as if nothing had happened


def test_a_killed_process_of_the_shared_data_is_started_again_and_no_trial_hears_of_it(local_ray, tmp_path):
    count = tmp_path / "count"
    data = {"count": str(count), "offset": 1.0, "kills": 2}
    trials = [trial(tmp_path, str(n), "Sharing", data=data) for n in range(4)]
    engine, _ = run(tmp_path, trials)
    assert all(engine.kinds(each.trial) == ["stopped"] for each in trials)
    assert len(count.read_text().split()) >= 3
    assert "the process that loads the data of all trials was lost" in (tmp_path / "trials/0/log.txt").read_text()


def test_a_process_of_the_shared_data_that_is_always_killed_is_a_fault_of_the_machine(local_ray, tmp_path):
    data = {"count": str(tmp_path / "count"), "offset": 1.0, "kills": 10**9}
    engine, summary = run(tmp_path, [trial(tmp_path, "0", IMPATIENT, data=data)], retry=())
    [outcome] = engine.outcomes["0"]
    assert (outcome.kind, summary) == ("infrastructure", {"state": None})
    assert outcome.reason.startswith("SharedDataLost: the process that loads the data of all trials was lost")


def test_a_silent_trial_is_given_up_and_goes_on_from_its_checkpoint_and_a_slow_one_is_left_alone(local_ray, tmp_path):
    once = tmp_path / "happened"
    hung = trial(tmp_path, "hung", steps=(1, 2), fault="hang", fault_step=2, once=once)
    slow = trial(tmp_path, "slow", steps=(1, 2, 3, 4), seconds=1.2)  # longer than the limit in all, not in a stretch
    engine, _ = run(tmp_path, [hung, slow], report_timeout=4.0)
    assert engine.kinds("hung") == ["infrastructure", "stopped"]
    assert engine.outcomes["hung"][0].reason == "it reported nothing for 4 s (report_timeout)"
    assert engine.given["hung"].start == 1
    assert engine.kinds("slow") == ["stopped"]


def test_an_error_of_the_engine_itself_ends_the_run_as_it_is(local_ray, tmp_path):
    def full_disk(name, report):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, [trial(tmp_path, "0")], decision=full_disk)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ray.exceptions.OutOfMemoryError("the memory monitor"), "oom"),
        (RuntimeError("Failure # 1\nTask was killed due to the node running low on memory.\n"), "oom"),
        (ray.exceptions.RayActorError(None, "SIGKILL by OOM killer due to high memory usage"), "infrastructure"),
        (ray.exceptions.RayActorError(None, "The actor died because its node has died."), "lost"),
        (ray.exceptions.ActorUnavailableError("the connection broke", None), "infrastructure"),
        (None, "infrastructure"),
    ],
)  # fmt: skip
def test_the_loss_of_a_worker_has_a_class(error, kind):
    assert ray_session.outcome_of_loss(error).kind == kind
