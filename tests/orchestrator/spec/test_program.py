"""`program`, `command` and the mapping `trainer` of a sweep file: what is read, what is run, what is wrong."""

import dataclasses
import json
import sys

import pytest
import yaml

from meanflow_core.errors import ConfigError
from orchestrator.engine.environment_check import environment
from orchestrator.planning.plan import make_plan, render_plan
from orchestrator.planning.preflight import missing_here
from orchestrator.provenance import code_of_file
from orchestrator.spec.program import ENDLESS, Program
from orchestrator.spec.sweep import SweepSpec, read_spec

SWEEP = {
    "program": "train.py",
    "method": "random",
    "metric": {"name": "loss"},
    "run_cap": 4,
    "parameters": {"lr": {"min": 0.0, "max": 1.0}, "epochs": {"value": 9}},
}


def read(folder, *overrides, text="x = 1\n", **changes):
    (folder / "train.py").write_text(text)
    content = {key: value for key, value in {**SWEEP, **changes}.items() if value is not None}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return read_spec(folder / "sweep.yaml", overrides)


def wrong(folder, **changes):
    with pytest.raises(ConfigError) as error:
        read(folder, **changes)
    return {problem.key: problem.rule for problem in error.value.problems}


def test_a_program_is_a_trainer_whose_keys_are_its_own(tmp_path):
    spec = read(tmp_path)
    assert not spec.builtin_trainer
    assert spec.trainer == "train.py"
    assert spec.program.root == str(tmp_path)
    assert spec.config_for({"lr": 0.5}, seed=3) == {"epochs": 9, "lr": 0.5, "seed": 3}
    assert spec.program.words(spec.config_for({"lr": 0.5}, seed=3), json_file="f") == [
        *("/usr/bin/env", sys.executable, "train.py"),
        *("--epochs=9", "--lr=0.5"),
    ]
    assert spec.length({}) == ENDLESS
    again = SweepSpec.from_source(json.loads(json.dumps(spec.source)))
    assert dataclasses.replace(again, notes=()) == dataclasses.replace(spec, notes=())
    assert Program.from_dict(json.loads(json.dumps(spec.program.to_dict()))) == spec.program


# The values of W&B's documentation of each macro.
@pytest.mark.parametrize(
    ("macro", "words"),
    [
        ("${args}", ["--on=True", "--off=False", "--lr=0.1", "--net.width=8"]),
        ("${args_no_equals}", ["--on", "True", "--off", "False", "--lr", "0.1", "--net.width", "8"]),
        ("${args_no_hyphens}", ["on=True", "off=False", "lr=0.1", "net.width=8"]),
        ("${args_append_hydra}", ["+on=True", "+off=False", "+lr=0.1", "+net.width=8"]),
        ("${args_override_hydra}", ["++on=True", "++off=False", "++lr=0.1", "++net.width=8"]),
        ("${args_no_boolean_flags}", ["--on", "--lr=0.1", "--net.width=8"]),
        ("${args_json}", ['{"on": true, "off": false, "lr": 0.1, "net": {"width": 8}}']),
        ("${args_json_file}", ["given.json"]),
        ("${program}", ["train.py"]),
        ("${interpreter}", [sys.executable]),
        ("${env}", ["/usr/bin/env"]),
        ("data=${envvar:PLACE}/x", ["data=/data/x"]),
        ("{args}", ["{args}"]),
    ],
)
def test_macros_are_those_of_wandb(macro, words, monkeypatch):
    monkeypatch.setenv("PLACE", "/data")
    program = Program(command=(macro,), program="train.py")
    config = {"on": True, "off": False, "lr": 0.1, "net": {"width": 8}}
    assert program.words(config, json_file="given.json") == words


def test_a_dotted_name_stays_one_name_in_json(tmp_path):
    parameters = {
        "optimizer.lr": {"value": 1},
        "net": {"parameters": {"width": {"value": 2}, "act.fn": {"values": ["a", "b"]}}},
    }
    spec = read(tmp_path, parameters=parameters, command=["run", "${args_json}"])
    words = spec.program.words(spec.config_for({"net.act.fn": "a"}), json_file="")
    assert json.loads(words[1]) == {"optimizer.lr": 1, "net": {"width": 2, "act.fn": "a"}}


def test_the_seed_is_an_argument_where_the_file_speaks_of_seeds(tmp_path):
    config = {"lr": 0.5, "seed": 3}
    assert "seed" not in read(tmp_path).program.parameters(config)
    for changes in ({"seed": 3}, {"replicates": {"top": 1, "seeds": 2}}, {"parameters": {"seed": {"values": [1, 2]}}}):
        assert "--seed=3" in read(tmp_path, **changes).program.words(config, json_file="")


def test_the_other_form_is_a_mapping_of_the_trainer(tmp_path):
    trainer = {"command": "python train.py ${args_no_hyphens}", "metrics": "stdout-json", "steps": 27, "folder": "."}
    rule = {"type": "hyperband", "min_iter": 3, "eta": 3}
    spec = read(tmp_path, program=None, trainer=trainer, early_terminate=rule)
    assert spec.program.command == ("python", "train.py", "${args_no_hyphens}")
    assert (spec.program.metrics, spec.length({}), spec.rungs({})) == ("stdout-json", 27, [3, 9])
    both = read(tmp_path, trainer={"metrics": "stdout-json"})
    assert (both.program.program, both.program.metrics) == ("train.py", "stdout-json")
    assert read(tmp_path, "trainer.steps=9", "run_cap=2").program.steps == 9
    assert read(tmp_path, "batch=3").config_for({"lr": 0.5})["batch"] == 3
    assert read(tmp_path, "batch=3").notes == ()
    assert read(tmp_path, "run_cpa=3").notes == (
        "run_cpa: is an argument of the program; 'run_cap' is a key of the file",
    )


def test_a_script_runs_by_itself_and_a_class_of_ones_own_before_a_program(tmp_path):
    assert read(tmp_path, program="run.sh").program.command == ("./run.sh", "${args}")
    spec = read(tmp_path, trainer="mine:Trainer", set={"trainer.steps": 3})
    assert spec.program is None
    assert "not used: trials are of mine:Trainer" in spec.notes[0]


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"command": ["python", "${arg}"]}, "command", "unknown macro"),
        ({"command": []}, "command", "is empty"),
        ({"command": "python 'train"}, "command", "cannot be split"),
        ({"program": None, "command": ["python", "${program}"]}, "command", "there is no `program`"),
        ({"program": None, "trainer": {"metrics": "report"}}, "trainer", "needs a `program`"),
        ({"trainer": {"metric": "report"}}, "trainer.metric", "unknown key"),
        ({"trainer": {"metrics": "stdout"}}, "trainer.metrics", "must be one of"),
        ({"trainer": {"program": "x.py"}}, "trainer.program", "keep one"),
        ({"trainer": {"steps": 0}}, "trainer.steps", "must hold"),
        ({"program": None, "trainer": "python train.py"}, "trainer", "package.module:Class"),
        ({"method": "pbt"}, "method", "copies one trial's checkpoint"),
        ({"resources": {"workers": 2}}, "resources.workers", "starts its processes itself"),
    ],
)
def test_what_is_wrong_is_said_at_its_key(tmp_path, changes, key, said):
    assert said in wrong(tmp_path, **changes)[key]


def test_the_program_is_looked_for_beside_the_file_and_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "sweeps/sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    (tmp_path / "here/train.py").touch()
    assert read_spec(tmp_path / "sweeps/sweep.yaml").program.root == str(tmp_path / "here")
    (tmp_path / "sweeps/train.py").touch()
    assert read_spec(tmp_path / "sweeps/sweep.yaml").program.root == str(tmp_path / "sweeps")


def test_a_plan_shows_the_command_and_what_is_missing(tmp_path, monkeypatch):
    spec = read(tmp_path)
    assert missing_here(spec) == []
    shown = render_plan(make_plan(spec))
    assert f"runs            /usr/bin/env {sys.executable} train.py --epochs=9 --lr=0." in shown
    assert "trainings       4; the program itself says how long each is" in shown
    assert f"program         train.py in {tmp_path}\nreports         by `orchestrator.report`, not by what" in shown
    printing = render_plan(make_plan(read(tmp_path, trainer={"metrics": "stdout-json", "steps": 9})))
    assert "reports         lines of JSON on its standard output, or `orchestrator.report`\n" in printing
    assert "steps a trial   9\n" in printing
    for changes, said in [
        ({"program": "trian.py"}, "there is no such file"),
        ({"program": "folder"}, "is a folder"),
        ({"text": "def broken(:\n"}, "does not compile: SyntaxError"),
        ({"text": "import helper\n"}, "does not compile: SyntaxError: invalid syntax"),
        ({"command": ["pyhton9", "train.py"]}, "there is no such program here"),
        ({"program": None, "command": ["./train.py"]}, "is not executable: `chmod +x ./train.py`"),
        ({"program": None, "command": ["train.py"]}, "there is no such program here; write ./train.py"),
        ({"command": ["echo", "${envvar:NOT_SET_HERE}"]}, "the variable NOT_SET_HERE is not set here"),
        ({"trainer": {"folder": "nowhere"}}, "is no folder here"),
    ]:
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "helper.py").write_text("x y\n")
        found = [f"{problem.rule}" for problem in missing_here(read(tmp_path, **changes))]
        assert any(said in rule for rule in found), (said, found)
    assert [p.nearest for p in missing_here(read(tmp_path, program="trian.py"))] == ["train.py"]


def test_its_code_is_its_file_and_what_it_imports_from_beside_it(tmp_path):
    def code(**changes):
        return environment(read(tmp_path, **changes))["code"]

    (tmp_path / "helper.py").write_text("import deeper\n")
    (tmp_path / "deeper.py").write_text("x = 1\n")
    (tmp_path / "other.py").write_text("x = 1\n")
    found = [code(text="import helper, json\n"), code(text="import helper, json\n")]
    for file in ("other", "deeper", "helper"):
        (tmp_path / f"{file}.py").write_text("import deeper\n#\n")
        found.append(code(text="import helper, json\n"))
    assert found[0] == found[1] == found[2]
    assert len(set(found)) == 3
    assert code(program=None, command=["sleep", "1"]) is None  # nobody can tell: it is never reused
    assert code_of_file(tmp_path / "train.py").commit is None


def test_what_decides_a_result_is_in_its_hash(tmp_path):
    one, other = read(tmp_path), read(tmp_path, command=["python", "-O", "${program}", "${args}"])
    config = one.config_for({"lr": 0.5}, seed=0)
    assert one.config_hash(config) == read(tmp_path, name="again").config_hash(config)
    assert one.config_hash(config) != other.config_hash(config)


def test_a_program_may_have_several_metrics(tmp_path):
    metrics = [{"name": "loss"}, {"name": "accuracy", "goal": "maximize"}]
    spec = read(tmp_path, metric=None, metrics=metrics)
    assert [metric.name for metric in spec.metrics] == ["loss", "accuracy"]
    assert spec.program.metrics == "report"
    both = read(tmp_path, metric=None, metrics=metrics, trainer={"metrics": "stdout-json"})
    assert both.program.metrics == "stdout-json"


def test_a_missing_metric_is_asked_for_by_a_name_that_a_program_may_have(tmp_path):
    assert "e.g. {name: loss, goal: minimize}" in wrong(tmp_path, metric=None)["metric"]


def test_bands_that_leave_no_rung_are_said_to(tmp_path):
    spec = read(tmp_path, early_terminate={"type": "hyperband", "max_iter": 2, "s": 2, "eta": 3})
    assert any("it leaves no rung, so no trial is stopped" in note for note in spec.notes)
