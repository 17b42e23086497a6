"""Which configurations are the same training, also after the training configuration has grown."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.engine import control
from orchestrator.engine.start import resume_sweep, start_sweep
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.spec.sweep import SweepSpec, read_spec
from orchestrator.tracking.tracker import MemoryTracker
from tests import ROOT
from tests.orchestrator import toy

DATA = Path(__file__).parents[1] / "data"
FILE = DATA / "journal-2.yaml"


def finish(engine):
    with engine.ledger:
        assert run_inline(engine).state == "finished"
    return engine.ledger.trials()


@pytest.fixture
def same_code(monkeypatch):
    """The training code is the one of before: of the environment only what the test is about may differ."""
    monkeypatch.setattr("orchestrator.engine.environment_check.code_version", lambda trainer: "the same")
    monkeypatch.setattr("orchestrator.engine.environment_check.packages", lambda: "the same==1\n")


@pytest.fixture
def earlier(tmp_path):
    """A home with the sweep that the release before identity by difference ran to its end."""
    home = Home(tmp_path)
    home.sweep("earlier").root.mkdir(parents=True)
    text = (DATA / "journal-2.jsonl").read_text().replace("2acefe084416273b", "the same")
    home.sweep("earlier").journal.write_text(text)
    return home


def test_a_sweep_of_the_release_before_is_extended_edited_and_resumed(earlier, same_code):
    paths = earlier.sweep("earlier")
    before = Ledger.open(paths).trials()
    assert "revision 1: run_cap: 2 -> 3" in control.request(paths, control.extend(1))
    assert "nothing has changed" in control.request(paths, control.edit(read_spec(FILE)))
    assert "retries: - -> 5" in control.request(paths, control.edit(read_spec(FILE, ["retries=5"])))
    after = finish(resume_sweep(earlier, "earlier", strict=True))
    assert [trial.id for trial in after] == ["0", "1", "2"]
    assert [trial.reports for trial in after[:2]] == [trial.reports for trial in before]
    assert not any(trial.labels.get("drift") for trial in after)


def test_a_change_of_the_base_is_still_refused_for_a_sweep_of_the_release_before(earlier, tmp_path):
    changed = tmp_path / "changed.yaml"
    changed.write_text(FILE.read_text().replace("width: 8", "width: 9"))
    with pytest.raises(Exception, match="differs in more than the swept keys"):
        control.request(earlier.sweep("earlier"), control.edit(read_spec(changed)))


def test_results_of_the_release_before_are_reused_and_not_drawn_again(earlier, same_code):
    spec = read_spec(FILE, ["name=again"])
    again = finish(start_sweep(earlier, spec))
    assert [trial.labels.get("reused") for trial in again] == ["earlier/0", "earlier/1"]
    drawn_again = {"method": "grid", "parameters": {"objective.time.law": {"values": ["uniform", "lognorm"]}}}
    paths, values = earlier.sweep("earlier"), [trial.values for trial in Ledger.open(earlier.sweep("earlier")).trials()]
    source = {**spec.source["sweep"], **drawn_again, "name": "earlier", "set": {}}
    source["parameters"]["optimizer.lr"] = {"values": [v["optimizer.lr"] for v in values]}
    source["run_cap"] = 4
    control.request(paths, control.edit(SweepSpec.from_source({**spec.source, "sweep": source})))
    found = finish(resume_sweep(earlier, "earlier"))
    assert len(found) == 4
    assert len({json.dumps(trial.values, sort_keys=True) for trial in found}) == 4


def test_a_training_folder_of_the_release_before_is_gone_on_with(tmp_path):
    """Its config.yaml says nothing of the version of the defaults."""
    from meanflow_core.config import load_config
    from meanflow_core.run.folder import RunFolder

    config = load_config({"trainer.steps": 3})
    folder = RunFolder(tmp_path)
    folder.claim(config)
    lines = folder.config.read_text().splitlines(keepends=True)
    folder.config.write_text("".join(line for line in lines if not line.startswith("defaults")))
    assert folder.differences(config) == ""


GROWN = """
import sys
from pathlib import Path
from orchestrator.engine import control, environment_check
from orchestrator.engine.start import resume_sweep, start_sweep
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.spec.sweep import read_spec
from meanflow_core.config import TimeConfig, Toy2dConfig
from meanflow_core.run.folder import RunFolder

assert TimeConfig().skew == 0.5 and TimeConfig().bends == [1, 2] and Toy2dConfig().noise == 0.0
environment_check.code_version = lambda trainer: "the same"
environment_check.packages = lambda: "the same==1\\n"
home, file = Home(Path(sys.argv[1])), sys.argv[2]
paths = home.sweep("before")
print(control.request(paths, control.extend(1)))
print(control.request(paths, control.edit(read_spec(file, ["name=before", "retries=5"]))))
engine = resume_sweep(home, "before", strict=True)
with engine.ledger:
    print(run_inline(engine).state, [t.labels for t in engine.ledger.trials()])
engine = start_sweep(home, read_spec(file, ["name=after"]))
with engine.ledger:
    run_inline(engine)
    print([t.labels.get("reused") for t in engine.ledger.trials()])
config = read_spec(file).config_for({"objective.time.skew": 0.75})
assert read_spec(file).config_hash(config) != read_spec(file).config_hash(read_spec(file).config_for({}))
from meanflow_core.config import load_config
folder = RunFolder(home.root / "run")
print(repr(folder.differences(load_config({"trainer.steps": 3}))))
"""
"""What is asked of a sweep after the configuration has got keys that it did not have when the sweep ran."""


def test_a_sweep_goes_on_after_the_configuration_got_new_keys(tmp_path, same_code):
    from meanflow_core.config import load_config
    from meanflow_core.run.folder import RunFolder

    RunFolder(tmp_path / "home" / "run").claim(load_config({"trainer.steps": 3}))
    home = Home(tmp_path / "home")
    before = finish(start_sweep(home, read_spec(FILE, ["name=before"])))
    grown = shutil.copytree(ROOT / "meanflow_core", tmp_path / "meanflow_core", ignore=shutil.ignore_patterns("__pyc*"))
    fields = "    skew: float = 0.5\n    bends: list[int] = field(default_factory=lambda: [1, 2])\n"
    for file, after, new in (
        ("objective.py", "    mean: float = -0.4\n", fields),
        ("data.py", "    rows: int = 65536\n", "    noise: float = 0.0\n"),
    ):
        source = (grown / "config" / file).read_text()
        assert source.count(after) == 1
        (grown / "config" / file).write_text(source.replace(after, after + new))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-P", "-c", GROWN, str(home.root), str(FILE)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    extended, edited, resumed, reused, folder = done.stdout.splitlines()[-5:]
    assert extended.startswith("revision 1: run_cap: 2 -> 3")
    assert edited.startswith("revision 2: retries: - -> 5")
    assert resumed == "finished [{}, {}, {}]"
    assert reused == "['before/0', 'before/1']"
    assert folder == "''"
    assert [trial.reports for trial in Ledger.open(home.sweep("before")).trials()[:2]] == [t.reports for t in before]


@pytest.mark.parametrize("base", ["a file", "keys", "an own trainer", "a program", "a program elsewhere"])
def test_what_is_stored_of_a_sweep_trains_exactly_the_same(tmp_path, same_code, monkeypatch, base):
    content = yaml.safe_load(FILE.read_text())
    if base == "a file":
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(content["base"]))
        content["base"] = "base.yaml"
    if base == "an own trainer":
        content = {**toy.sweep(run_cap=2), "base": {"trainer": {"steps": 90, "eval_every": 30}, "y": 0.25, "seed": 3}}
    if base.startswith("a program"):
        folder = tmp_path / base if base.endswith("elsewhere") else tmp_path
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_text("import sys, json\nprint(json.dumps({'loss': float(sys.argv[1][4:])}))\n")
        content = {
            "metric": {"name": "loss"},
            "method": "random",
            "run_cap": 2,
            "parameters": {"x": {"min": 0, "max": 1.0}},
        }
        content |= {"program": "train.py", "trainer": {"metrics": "stdout-json"}}
        content["trainer"] |= {"folder": base} if base.endswith("elsewhere") else {}
    file, home = tmp_path / "sweep.yaml", Home(tmp_path / "home")
    file.write_text(yaml.safe_dump(content))
    spec = read_spec(file)
    monkeypatch.chdir("/")  # what is stored may be read anywhere
    tracker = MemoryTracker()
    engine = start_sweep(home, spec, tracker=lambda paths: tracker)
    first = finish(engine)
    stored = [home.sweep(spec.name).spec, tmp_path / "artifact.yaml"]
    stored[1].write_text(tracker.runs["sweep"].files["sweep.yaml"])
    for number, path in enumerate(stored):
        again = read_spec(path, [f"name=again-{number}", "on_duplicate=run"])
        assert (again.base, again.set, again.space) == (spec.base, spec.set, spec.space)
        trials = finish(start_sweep(home, again))
        assert [(trial.config_hash, trial.reports) for trial in trials] == [(t.config_hash, t.reports) for t in first]
        assert "nothing has changed" in control.request(home.sweep(spec.name), control.edit(read_spec(path)))
