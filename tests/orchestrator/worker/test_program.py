"""A trial that is an own program: its process, what it reports, how it ends, and what the next run finds."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meanflow_core.errors import TrainingDiverged
from orchestrator.paths import TrialPaths
from orchestrator.spec.program import Program
from orchestrator.trials.protocol import Assignment
from orchestrator.worker import program_process
from orchestrator.worker.checkpoints import read_kept
from orchestrator.worker.failure_kinds import classify
from orchestrator.worker.program import ProgramFailed
from orchestrator.worker.program_reports import Collected, last_object, parse
from orchestrator.worker.trial_loop import run_trial
from tests import ROOT

REPORTING = """
import os, sys
from orchestrator import report
for step in range(1, 4):
    report(step, loss=1 / step, other=7.0)
"""
RESUMING = """
import os, signal, sys, time
from pathlib import Path
from orchestrator.reporting import checkpoint_folder, report
state = checkpoint_folder() / "step"
step = int(state.read_text()) if state.exists() else 0
while step < 6:
    step += 1
    state.with_suffix(".new").write_text(str(step))
    state.with_suffix(".new").replace(state)
    report(step, loss=10.0 - step)
    if len(sys.argv) > 1 and step == int(sys.argv[1].partition("=")[2]):
        time.sleep(60)
"""


@pytest.fixture
def made(tmp_path):
    """Return an assignment of a program with this text."""

    def make(text, *, name="train.py", start=0, command=None, metrics="report", config=None, **more):
        folder = tmp_path / "code"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        words = command or ("${interpreter}", "${program}", "${args}")
        program = Program(command=tuple(words), program=name, metrics=metrics, root=str(folder), **more)
        return Assignment(
            trial="7", sweep="s", config=config or {}, trainer=name, steps=[], start=start, attempt=bool(start),
            folder=str(tmp_path / "trials" / "7"), metric="loss", metrics=["loss"], program=program.to_dict(),
        )  # fmt: skip

    return make


def points(reports):
    return [(report.step, report.metrics["loss"]) for report in reports]


def gone(pid):
    """Whether a process has ended, or is only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may also end between the opening and the reading
        return True


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------ reports


def test_a_program_reports_each_step_by_two_lines(made):
    reports = list(run_trial(made(REPORTING)))
    assert points(reports) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert reports[0].metrics["other"] == 7.0
    assert Path(reports[-1].checkpoint).is_dir()


def test_a_program_in_another_language_appends_a_line_of_json(made):
    text = """echo "{\\"step\\": 2, \\"loss\\": 0.25}" >> "$MEANSWEEP_REPORTS"; echo "$@" """
    work = made(text, name="train.sh", command=("sh", "${program}", "${args_no_hyphens}"), config={"lr": 0.1})
    assert points(run_trial(work)) == [(2, 0.25)]
    assert "lr=0.1\n" in TrialPaths(Path(work.folder)).log.read_text()


def test_lines_of_json_on_its_output_are_reports_among_others(made):
    text = """
import sys
print("hello", '{"step": 9}', "{broken")
for step in (10, 20):
    print('\\r 10%|#  |', end="", file=sys.stderr)
    print('{"step": %d, "loss": %d.5, "inner": {"accuracy": 0.5}, "stage": "a"}' % (step, step))
"""
    work = made(text, metrics="stdout-json")
    reports = list(run_trial(work))
    assert points(reports) == [(10, 10.5), (20, 20.5)]
    assert reports[0].metrics["inner.accuracy"] == 0.5
    assert "hello" in TrialPaths(Path(work.folder)).log.read_text()


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ('print(json.dumps({"loss": 0.5, "epochs": 3}))', [(1, 0.5)]),  # judged at its end
        ('print(json.dumps({"loss": 0.5, "epochs": 3}, indent=2))', [(1, 0.5)]),
        ('print(json.dumps({"step": 40, "loss": 0.5}, indent=2))', [(40, 0.5)]),
        ('[print(json.dumps({"loss": x})) for x in (0.5, 0.25)]', [(1, 0.5), (2, 0.25)]),
        ('[print(json.dumps({"step": x, "loss": x + 1})) for x in (0, 1)]', [(1, 2.0)]),  # 0: before any training
        ('print(json.dumps({"step": 0, "loss": 0.75}))', [(1, 0.75)]),  # nothing else to judge it by
    ],
)
def test_a_result_without_steps_counts(made, printed, expected):
    assert points(run_trial(made(f"import json\n{printed}\n", metrics="stdout-json"))) == expected


def test_what_lacks_the_metric_is_a_row_beside_the_curve():
    found = Collected(["loss", "size"], 0)
    for step, metrics in [
        (1, {"lr": 0.1}),
        (2, {"loss": 1.0}),
        (2, {"size": 3.0}),
        (2, {"late": 1.0}),
        (4, {"lr": 0.2}),
    ]:
        found.add(step, metrics)
    assert found.next() == (2, {"loss": 1.0, "size": 3.0})
    assert found.next() is None
    assert found.take_rows() == [(1, {"lr": 0.1})]


def test_a_line_is_read_as_json_or_not_at_all():
    assert parse('{"step": 3.0, "loss": 1, "ok": true, "name": "x"}') == (3, {"loss": 1.0, "ok": 1.0})
    assert parse("[1, 2]") is parse('{"step": 3}') is parse('{"step": 3, "lo') is None
    assert parse('{"step": -1, "loss": 2}') == (None, {"loss": 2.0})
    assert str(parse('{"step": 1, "loss": null}')) == "(1, {'loss': nan})"
    assert last_object('a {"loss": 1}\n{\n "loss": 2}\n{"x') == (None, {"loss": 2.0})


def test_report_outside_of_a_sweep_prints_and_imports_nothing_heavy():
    script = (
        "import sys; from orchestrator import report; report(3, loss=0.5)\n"
        "print(sorted({'torch', 'ray', 'optuna', 'mlflow', 'numpy', 'yaml'} & set(sys.modules)))\n"
        "import orchestrator.report\nfrom orchestrator import report as again\nagain(4, loss=0.25)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == '{"step": 3, "loss": 0.5}\n[]\n{"step": 4, "loss": 0.25}\n'


def test_what_is_no_number_is_an_error_in_the_program_itself(made):
    with pytest.raises(ProgramFailed, match=r"exit code 1: TypeError: report: 'loss' must be a number; it is 'low'"):
        list(run_trial(made("from orchestrator import report\nreport(1, loss='low')\n")))


# --------------------------------------------------------------------------------------- what it is told


def test_parameters_come_as_arguments_and_as_a_file(made):
    text = """
import json, os, sys
from orchestrator.reporting import parameters, report
assert sys.argv[1:] == ["--lr=0.1", "--net.width=8"], sys.argv
assert parameters() == {"lr": 0.1, "net": {"width": 8}}
assert os.environ["MEANSWEEP_SEED"] == "5" and os.environ["MEANSWEEP_TRIAL"] == "7"
assert os.getcwd() == os.path.dirname(os.path.abspath(__file__))
report(1, loss=0.5)
"""
    config = {"lr": 0.1, "net": {"width": 8}, "seed": 5}
    assert points(run_trial(made(text, config=config))) == [(1, 0.5)]
    with pytest.raises(ProgramFailed, match="--seed=5"):
        list(run_trial(made(text, config=config, seeded=True)))


# --------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("raise ValueError('a bad width')", "bug", "train.py ended with exit code 1: ValueError: a bad width"),
        ("import sys; print('no such data'); sys.exit(3)", "bug", "train.py ended with exit code 3: no such data"),
        ("raise RuntimeError('CUDA out of memory. Tried')", "oom", "exit code 1: RuntimeError: CUDA out of memory"),
        ("raise MemoryError", "oom", "exit code 1: MemoryError"),
        ("import os; os.kill(os.getpid(), 9)", "infrastructure", "train.py was killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", "bug", "train.py was killed by SIGSEGV"),
        ("import os; os.kill(os.getppid(), 9); import time; time.sleep(9)", "infrastructure", "SIGKILL"),
    ],
)
def test_a_failure_is_classed_and_says_the_last_line_of_its_log(made, text, kind, said):
    with pytest.raises(ProgramFailed) as failed:
        list(run_trial(made(text)))
    outcome = classify(failed.value)
    assert outcome.kind == kind
    assert said in outcome.reason.splitlines()[0]
    if kind == "bug" and "raise" in text:
        assert 'train.py", line 1' in outcome.traceback


def test_a_program_that_cannot_be_started_says_so(made):
    with pytest.raises(ProgramFailed, match=r"could not be started: .*no-such-program"):
        list(run_trial(made("", command=("no-such-program",))))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pass", "without having reported 'loss': it reported nothing; `from orchestrator import report; report"),
        ("from orchestrator import report\nreport(1, los=2)", r"it reported los \(did you mean 'los'\?\)"),
    ],
)
def test_a_program_without_a_result_says_what_it_should_do(made, text, said):
    with pytest.raises(ProgramFailed, match=said):
        list(run_trial(made(text)))


def test_a_number_that_is_not_finite_ends_the_program_and_is_put_away(made, tmp_path):
    text = REPORTING.replace("1 / step", "1.0 if step < 2 else float('nan')") + "import time; time.sleep(60)\n"
    began, reports = time.monotonic(), run_trial(made(text))
    assert next(reports).step == 1
    with pytest.raises(TrainingDiverged, match="loss is nan"):
        next(reports)
    assert time.monotonic() - began < 30
    assert points(run_trial(made(REPORTING))) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert (tmp_path / "trials/7/diverged-reports.jsonl").exists()


def test_a_program_that_is_stopped_may_write_a_checkpoint(made):
    text = """
import signal, sys, time
from orchestrator.reporting import checkpoint_folder, report
def leave(*_):
    (checkpoint_folder() / "last").write_text("written")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
report(1, loss=1.0)
time.sleep(60)
"""
    reports = run_trial(made(text))
    last = Path(next(reports).checkpoint) / "last"
    reports.close()
    assert last.read_text() == "written"
    assert read_kept(last.parents[2] / "checkpoints.json")["step-00000000"]["bytes"] == 7


STUBBORN = """
import os, signal, subprocess, sys, time
from orchestrator import report
signal.signal(signal.SIGTERM, signal.SIG_IGN)
nap = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", nap])
report(1, loss=1.0, own=os.getpid(), child=child.pid)
time.sleep(60)
"""


def test_one_that_does_not_obey_is_killed_with_all_that_it_has_started(made, monkeypatch):
    monkeypatch.setitem(program_process.ProgramProcess.__init__.__kwdefaults__, "grace", 0.3)
    reports = run_trial(made(STUBBORN))
    found = next(reports).metrics
    pids = int(found["own"]), int(found["child"])
    assert not any(map(gone, pids))
    reports.close()
    until(lambda: all(map(gone, pids)))


def test_what_a_program_leaves_running_ends_with_it(made):
    text = "import os, subprocess, sys\nfrom orchestrator import report\n" + (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\nreport(1, loss=child.pid)\n"
    )
    [report] = run_trial(made(text))
    until(lambda: gone(int(report.metrics["loss"])))


def test_a_program_ends_with_its_worker(made, tmp_path):
    work = made(STUBBORN)
    (tmp_path / "work.json").write_text(json.dumps(work.to_dict()))
    script = (
        "import json, sys; from orchestrator.trials import Assignment; from orchestrator.worker import run_trial\n"
        "from orchestrator.worker import program_process\n"
        "program_process.ProgramProcess.__init__.__kwdefaults__['grace'] = 0.3\n"
        "for report in run_trial(Assignment.from_dict(json.load(open(sys.argv[1])))): print(report.metrics, flush=True)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "work.json")]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    found = eval(worker.stdout.readline())
    worker.kill()
    worker.wait()
    until(lambda: gone(int(found["own"])) and gone(int(found["child"])))


# -------------------------------------------------------------------------------------------- going on


def test_a_program_goes_on_from_its_checkpoints_and_each_step_counts_once(made):
    reports = run_trial(made(RESUMING, config={"hang": 3}))
    assert points(next(reports) for _ in range(3)) == [(1, 9.0), (2, 8.0), (3, 7.0)]
    reports.close()
    assert points(run_trial(made(RESUMING, start=3))) == [(4, 6.0), (5, 5.0), (6, 4.0)]
    assert (Path(made(RESUMING).folder) / "reports.jsonl").read_text().count("\n") == 6  # it has repeated nothing


def test_what_was_written_and_not_recorded_is_passed_on_by_the_next_run(made):
    work = made(RESUMING, config={"hang": 5})
    reports = run_trial(work)
    assert next(reports).step == 1
    until(lambda: (Path(work.folder) / "reports.jsonl").read_text().count("\n") == 5)
    reports.close()  # only step 1 was recorded, and its checkpoint is that of step 5
    with (Path(work.folder) / "reports.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # torn
    assert points(run_trial(made(RESUMING, start=1))) == [(2, 8.0), (3, 7.0), (4, 6.0), (5, 5.0), (6, 4.0)]


def test_what_a_program_without_checkpoints_repeats_is_not_counted_twice(made):
    assert points(run_trial(made(REPORTING, start=2))) == [(3, 1 / 3)]
    assert points(run_trial(made(REPORTING, start=3))) == []  # it has come to its end before


def test_checkpoints_follow_the_trial_to_another_node(made, tmp_path, monkeypatch):
    monkeypatch.setenv("MEANSWEEP_STORAGE", f"file://{tmp_path}/bucket")
    reports = run_trial(made(RESUMING, config={"hang": 3}))
    place = [next(reports) for _ in range(3)][-1].checkpoint
    reports.close()
    assert place == f"file://{tmp_path}/bucket/s/7/step-00000000"
    (Path(made(RESUMING).folder) / "reports.jsonl").unlink()
    assert points(run_trial(made(RESUMING, start=3))) == [(4, 6.0), (5, 5.0), (6, 4.0)]


def test_its_folder_is_found_where_the_code_was_sent(made, tmp_path, monkeypatch):
    there = tmp_path / "there"
    (there / "sent").mkdir(parents=True)
    (there / "sent/train.py").touch()
    monkeypatch.chdir(there)
    away = Program(command=("x",), program="train.py", root=str(tmp_path / "gone"), folder="sent")
    assert away.place() == there / "sent"
    (tmp_path / "gone").mkdir()
    assert away.place() == there / "sent"  # a folder that is there, and not it
    (tmp_path / "gone" / "train.py").touch()
    assert away.place() == tmp_path / "gone"
