"""The sweep file: its words, its mistakes, and the way back from the ledger."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest
import yaml

from meanflow_core.config import PRESETS, load_config
from meanflow_core.errors import ConfigError
from orchestrator.search import METHODS, Replicates
from orchestrator.search.rules.asha import Asha
from orchestrator.search.rules.median import Median
from orchestrator.spec.settings import Metric, Resources
from orchestrator.spec.sweep import SweepSpec, read_spec
from tests import ROOT

GOOD = """\
name: digits-guidance
base: base.yaml
set: {trainer.steps: 4000}
method: tpe
metric: {name: eval/fid_1nfe, goal: minimize}
run_cap: 24
parameters:
  objective.time.law: {values: [uniform, lognorm]}
  objective.time.mean: {distribution: uniform, min: -2.0, max: 0.4, when: {objective.time.law: lognorm}}
  objective.guidance.scale: {distribution: uniform, min: 1.0, max: 4.0}
  objective.guidance.kappa: {values: [0.0, 0.5, 0.8, 0.9]}
  objective.weight.power: {min: 0.0, max: 2.0}
  optimizer.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 3.0e-3}
early_terminate: {type: asha, min_iter: 500, eta: 3}
replicates: {top: 3, seeds: 3}
resources: {cpu: 1, gpu: 0.25}
budget: {gpu_hours: 40, wall_clock: 12h}
retries: 2
"""
BASE = "model: {name: mlp, width: 96}\ntrainer: {steps: 9000, eval_every: 900, batch_size: 100}\n"


def write(tmp_path, text=GOOD, base=BASE):
    (tmp_path / "base.yaml").write_text(base)
    path = tmp_path / "sweep.yaml"
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False))
    return path


def content(**changes):
    found = {**yaml.safe_load(GOOD), **changes}
    return {key: value for key, value in found.items() if value is not None}


def problems_of(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        read_spec(path, overrides)
    return {problem.key: problem for problem in caught.value.problems}


def read(tmp_path, **changes):
    return read_spec(write(tmp_path, content(**changes)))


def wrong(tmp_path, **changes):
    return problems_of(write(tmp_path, content(**changes)))


# -------------------------------------------------------------------------------------------- what is read


def test_the_example_of_the_contract_is_read(tmp_path):
    spec = read_spec(write(tmp_path))
    assert (spec.name, spec.method.name, spec.run_cap, spec.retries) == ("digits-guidance", "tpe", 24, 2)
    assert spec.metric == Metric(name="eval/fid_1nfe", goal="minimize")
    assert spec.set == {"trainer.steps": 4000}
    assert spec.base["model"]["width"] == 96
    assert spec.early_terminate == Asha(min_iter=500, eta=3)
    assert spec.replicates == Replicates(top=3, seeds=3, race=False)
    assert spec.resources == Resources(cpu=1, gpu=0.25)
    assert (spec.budget.gpu_hours, spec.budget.wall_clock) == (40, 12 * 3600)
    assert spec.notes == ()


def test_the_configuration_of_a_trial_is_complete_and_checked(tmp_path):
    spec = read_spec(write(tmp_path))
    values = {"objective.time.law": "uniform", "objective.guidance.kappa": 0.5, "optimizer.lr": 2e-4}
    config = spec.config_for(values, seed=17)
    assert load_config(config).to_dict() == config
    assert config["seed"] == 17
    assert config["trainer"]["steps"] == 4000
    assert config["trainer"]["batch_size"] == 100
    assert config["objective"]["guidance"]["kappa"] == 0.5
    with pytest.raises(ConfigError, match="kappa < 1"):
        spec.config_for({"objective.guidance.kappa": 1.0})


def test_equal_trainings_have_equal_hashes_and_others_do_not(tmp_path):
    spec = read_spec(write(tmp_path))
    first = spec.config_for({"optimizer.lr": 2e-4})
    assert spec.config_hash(first) == spec.config_hash(json.loads(json.dumps(first)))
    assert spec.config_hash(first) != spec.config_hash(spec.config_for({"optimizer.lr": 3e-4}))
    assert spec.config_hash(first) != spec.config_hash(spec.config_for({"optimizer.lr": 2e-4}, seed=1))
    quieter = {**first, "trainer": {**first["trainer"], "eval_every": 7}}
    assert spec.config_hash(first) == spec.config_hash(quieter)


def test_a_spec_comes_back_from_its_source_without_the_file(tmp_path):
    path = write(tmp_path, content(zip=[["a.b", "c"]], trainer="mine:T", warm_start=["x"], parameters={
        "a.b": {"values": [1, 2]}, "c": {"values": [[1], [2]]}, "d": {"min": 0.0, "max": 1.0, "when": {"c": [[1]]}},
    }, forbid=[{"d": "> 0.5", "a.b": 1}], early_terminate=None))  # fmt: skip
    for spec in (read_spec(write(tmp_path)), read_spec(path)):
        source = json.loads(json.dumps(spec.source))
        again = SweepSpec.from_source(source)
        (tmp_path / "base.yaml").unlink(missing_ok=True)
        assert again == spec
        assert SweepSpec.from_source(again.source) == spec
        write(tmp_path, path.read_text() if path.exists() else GOOD)


def test_the_file_may_stand_anywhere(tmp_path, monkeypatch):
    folder = tmp_path / 'with space\'s and "quotes"'
    folder.mkdir()
    path = write(folder)
    monkeypatch.chdir(tmp_path)
    assert read_spec(path.relative_to(tmp_path)).base == read_spec(path).base


def test_overrides_reach_the_sweep_its_set_and_its_parameters(tmp_path):
    words = [
        "run_cap=3",
        "trainer.steps=50",
        "set.seed=4",
        "budget.trials=9",
        "parameters.optimizer.lr={values: [1, 2]}",
    ]
    spec = read_spec(write(tmp_path), words)
    assert (spec.run_cap, spec.budget.trials, spec.budget.gpu_hours) == (3, 9, 40)
    assert spec.set == {"trainer.steps": 50, "seed": 4}
    assert spec.seed == 4
    assert {p.name: p.choices for p in spec.space.parameters}["optimizer.lr"] == (1, 2)
    mistakes = ["run_cpa=3", "trainer.stpes=4", "seed=[1", "seed"]
    found = problems_of(write(tmp_path), mistakes)
    assert set(found) == {"run_cpa", "set.trainer.stpes", "seed"}


def test_bayes_is_tpe(tmp_path):
    assert read(tmp_path, method="bayes").method is METHODS["tpe"]


def test_whole_bounds_are_whole_numbers_as_in_wandb_and_said_so(tmp_path):
    spec = read(tmp_path, parameters={"objective.weight.power": {"min": 0, "max": 2}})
    assert spec.space.parameters[0].kind == "int"
    assert len(spec.notes) == 1
    assert "write 0.0" in spec.notes[0]


def test_keys_that_only_wandb_needs_are_noted_and_passed_over(tmp_path):
    spec = read(tmp_path, entity="me", project="p", kind="sweep", job="x", controller={"type": "local"})
    assert [note.split(": ")[1] for note in spec.notes] == ["entity", "project", "kind", "job", "controller"]
    assert spec == dataclasses.replace(read(tmp_path), source=spec.source)


def test_impute_is_noted_where_it_says_what_happens_anyway(tmp_path):
    spec = read(tmp_path, metric={"name": "eval/fid_1nfe", "impute": "worst"})
    assert "worst" in spec.notes[0]
    found = wrong(tmp_path, metric={"name": "eval/fid_1nfe", "impute": "best", "impute_while_running": "latest"})
    assert set(found) == {"metric.impute", "metric.impute_while_running"}


# ----------------------------------------------------------------------------------------------- mistakes

BROKEN = """\
name: (?)
base: {model: {name: mlp, widht: 64}}
set: {trainer.stpes: 4000, trainer: {batch_size: 0}}
method: bays
metrik: {name: eval/fid_1nfe}
metric: {name: train/loss, gaol: minimize}
run_cap: -3
parameters:
  objective.time.law: {values: [uniform, lognrom]}
  objective.time.mean: {distribution: uniform, min: 2.0, max: 0.4, when: {objective.time.lwa: lognorm}}
  objective.time.ratio: {min: 0.1, max: 1.5}
  objective.guidance.scale: {distribution: log_uniform, min: -3, max: 0.0}
  optimizer.lr: [1e-3, 1e-4]
  model: {parameters: {width: {values: [64, 64, 128], probabilities: [0.1, 0.2]}}}
  ema: {rampup: {min: 0.1, max: 0.2}}
forbid:
  - {objective.time.rato: "> 0.5"}
zip: [[objective.time.law, foo]]
early_terminate: {type: ahsa, min_itr: 3}
resources: {gpu: 1.5, cpus: 3}
budget: {wall_clock: 3 weeks, gpu_hour: 3}
scheduler: {engine: optuna}
retries: many
"""
EXPECTED = {  # dotted key -> (line, nearest valid choice)
    "name": (1, None),
    "base.model.widht": (2, "model.width"),
    "set.trainer.stpes": (3, "trainer.steps"),
    "set.trainer.batch_size": (3, None),
    "method": (4, "bayes"),
    "metrik": (5, "metric"),
    "metric.name": (6, None),
    "metric.gaol": (6, "goal"),
    "run_cap": (7, None),
    "parameters.objective.time.law": (9, "lognorm"),
    "parameters.objective.time.mean.min": (10, None),
    "parameters.objective.time.mean.when.objective.time.lwa": (10, "objective.time.law"),
    "parameters.objective.time.ratio": (11, None),
    "parameters.objective.guidance.scale.distribution": (12, "log_uniform_values"),
    "parameters.optimizer.lr": (13, None),
    "parameters.model.parameters.width.values.1": (14, None),
    "parameters.model.parameters.width.probabilities": (14, None),
    "parameters.ema.rampup": (15, None),
    "forbid.0.objective.time.rato": (17, "objective.time.ratio"),
    "zip.0": (18, None),
    "early_terminate.type": (19, "asha"),
    "early_terminate.min_itr": (19, "min_iter"),
    "resources.gpu": (20, None),
    "resources.cpus": (20, "cpu"),
    "budget.wall_clock": (21, None),
    "budget.gpu_hour": (21, "gpu_hours"),
    "scheduler": (22, None),
    "retries": (23, None),
}


def test_every_mistake_is_listed_with_its_line_and_the_nearest_choice(tmp_path):
    path = write(tmp_path, BROKEN)
    found = problems_of(path)
    assert {key: (problem.line, problem.nearest) for key, problem in found.items()} == EXPECTED
    assert {problem.file for problem in found.values()} == {str(path)}
    assert found["parameters.objective.time.ratio"].value == 1.5
    assert "`0 <= ratio <= 1` must hold" in found["parameters.objective.time.ratio"].rule
    lines = [problem.line for problem in found.values()]
    assert lines == sorted(lines)


def test_mistakes_of_the_base_file_are_listed_with_its_own_lines(tmp_path):
    path = write(tmp_path, GOOD.replace("retries", "retreis"), base="model:\n  name: mlp\n  widht: 3\n  depth: 0\n")
    found = problems_of(path)
    assert set(found) == {"model.widht", "model.depth", "retreis"}
    assert (found["model.widht"].file, found["model.widht"].line) == (str(tmp_path / "base.yaml"), 3)
    assert found["model.depth"].line == 4


def test_reading_needs_no_heavy_package_and_a_broken_file_costs_less_than_a_second(tmp_path):
    script = (
        "import sys\n"
        "from orchestrator.spec.sweep import read_spec\n"
        "from orchestrator.planning.plan import make_plan\n"
        "from meanflow_core.errors import ConfigError\n"
        "try:\n"
        "    make_plan(read_spec(sys.argv[1]))\n"
        "except ConfigError as error:\n"
        "    print(len(error.problems))\n"
        "heavy = {'torch', 'ray', 'optuna', 'mlflow', 'pandas', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    seconds = []
    for text, printed in ((BROKEN, f"{len(EXPECTED)}\n"), (GOOD, "")):
        command = [sys.executable, "-c", script, str(write(tmp_path, text))]
        start = time.process_time(), _children_seconds()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        seconds.append(_children_seconds() - start[1])
        assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")
    assert seconds[0] < 1.0  # of the processor: the wall clock also counts what else this machine is doing


def _children_seconds():
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("name", "bounds", "shown"),
    [
        ("log_uniform", {"min": -9.21, "max": -4.6}, "min: 0.0001, max: 0.01005}"),
        ("inv_log_uniform", {"min": 4.6, "max": 9.21}, "min: 0.0001, max: 0.01005}"),
        ("q_log_uniform", {"min": 0.0, "max": 2.0}, "min: 1, max: 7.389}"),
    ],
)
def test_distributions_that_take_exponents_are_refused_with_what_they_mean(tmp_path, name, bounds, shown):
    found = wrong(tmp_path, parameters={"optimizer.lr": {"distribution": name, **bounds}})
    problem = found["parameters.optimizer.lr.distribution"]
    assert shown in problem.rule
    assert problem.nearest in ("log_uniform_values", "q_log_uniform_values")


@pytest.mark.parametrize(
    ("name", "definition", "below", "said"),
    [
        ("model.width", {"values": [64, 128.5]}, "", "whole number"),
        ("trainer.batch_size", {"distribution": "uniform", "min": 10, "max": 20}, "", "whole number"),
        ("optimizer.lr", {"distribution": "normal", "mu": 0.01, "sigma": 0.01}, "", "0 < lr"),
        ("evidence", {"values": [1]}, "", "unknown key"),
        ("model.heads", {"values": [2, 4]}, "", "when: {model.name"),
        ("optimizer.lr", {"value": 1.0, "when": {"optimizer.lr": 2}}, ".when.optimizer.lr", "itself"),
        ("optimizer.lr", {"min": 1.0}, "", "needs `value`"),
        ("optimizer.lr", {"values": [0.1], "q": 2}, ".q", "is not a key of `categorical`"),
        ("optimizer.lr", {"values": [0.1, 0.2], "probabilities": [0.5, 0.6]}, ".probabilities", "1.1"),
        ("optimizer.lr", {"min": 0.1, "max": float("inf")}, ".max", "finite"),
        ("optimizer.lr", {"distribution": "q_uniform", "min": 0.11, "max": 0.19, "q": 0.1}, ".q", "no multiple"),
        ("optimizer.lr", {"distribution": "log_uniform_values", "min": 0.0, "max": 1.0}, ".min", "0 < min"),
        ("optimizer.lr", {"values": []}, ".values", "at least one"),
        ("optimizer.lr", {"distribution": "unifrom", "min": 0.1, "max": 0.2}, ".distribution", "must be one of"),
        ("optimizer.lr", {"distribution": "beta", "a": 1}, "", "needs `b`"),
        ("optimizer.lr", {"distribution": "uniform", "min": None, "max": 0.2}, "", "needs `min`"),
        ("optimizer.lr", {"distribution": {}, "min": 0.1, "max": 0.2}, ".distribution", "must be one of"),
        ("optimizer.lr", {"values": [0.1, 0.2], "probabilities": [0.5, None]}, ".probabilities", "must be numbers"),
        ("optimizer.lr", {"distribution": "normal", "mu": 900, "min": 0.1, "max": 1.0}, "", "almost nothing"),
        ("optimizer.lr", {"distribution": "log_normal", "mu": 900}, "", "what a number can hold"),
        ("optimizer.lr", {"distribution": "q_normal", "min": 0.1, "max": 0.9}, ".q", "at least two multiples"),
    ],
)
def test_a_parameter_that_cannot_be(tmp_path, name, definition, below, said):
    found = wrong(tmp_path, parameters={name: definition})
    assert [key for key in found if not key.startswith(f"parameters.{name}")] == []
    assert said in found[f"parameters.{name}{below}"].rule


def test_scale_and_omega_together_are_refused_before_anything_starts(tmp_path):
    found = wrong(
        tmp_path,
        parameters={
            "objective.guidance.scale": {"min": 1.0, "max": 3.0},
            "objective.guidance.omega": {"values": [1.0, 0.4]},
        },
    )
    assert "both set" in found["parameters.objective.guidance.omega"].rule


def test_a_rule_that_a_whole_range_breaks_is_said_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_spec(write(tmp_path, content(parameters={"optimizer.lr": {"min": -3.0, "max": -1.0}})))
    assert [problem.key for problem in caught.value.problems] == ["parameters.optimizer.lr"]
    both = {"objective.guidance.scale": {"min": 1.0, "max": 3.0}, "objective.guidance.omega": {"min": 1.0, "max": 2.0}}
    with pytest.raises(ConfigError) as caught:
        read_spec(write(tmp_path, content(parameters=both)))
    assert len(caught.value.problems) == 1


def test_words_of_other_projects_lead_to_the_key_that_is_meant(tmp_path):
    words = {"learning_rate": "optimizer.lr", "epochs": "trainer.steps", "trainer.seed": "seed"}
    words |= {"loss.weight.power": "objective.weight.power", "batch_size": "trainer.batch_size"}
    found = wrong(tmp_path, parameters={word: {"values": [1, 2]} for word in words})
    assert {key.removeprefix("parameters."): problem.nearest for key, problem in found.items()} == words
    assert problems_of(write(tmp_path), ["learning_rate=0.1"])["learning_rate"].nearest == "optimizer.lr"


def test_a_metric_that_the_data_are_not_judged_by_is_refused(tmp_path):
    toy = {"data": {"name": "toy2d"}}
    problem = wrong(tmp_path, base=toy, metric={"name": "eval/fid_1nfe"})["metric.name"]
    assert "wasserstein, sliced_wasserstein, mmd" in problem.rule
    read(tmp_path, base=toy, metric={"name": "eval/mmd_2nfe"})
    assert "metric.name" in wrong(tmp_path, metric={"name": "train/loss"})  # about 1 whatever happens
    images = {"data": {"name": "image_folder"}}
    assert set(wrong(tmp_path, base=images)) == {"base.evaluation.features"}
    read(tmp_path, base={**images, "evaluation": {"features": "net.pt"}})


def test_a_key_that_stands_twice_hides_no_other_mistake(tmp_path):
    twice = GOOD.replace("retries: 2", "retreis: 2\nmethod: random")
    twice += "parameters:\n  optimizer.lr: {min: 0.1, max: 0.2}\n"
    found = problems_of(write(tmp_path, twice))
    assert set(found) == {"method", "parameters", "retreis"}  # not the duplicates within the second `parameters`


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("method: tpe\nparameters:\n\toptimizer.lr: {value: 1}\n", 3, "use spaces"),
        ("method: tpe\nparameters:\n  seed: {value: 1}\n   optimizer.lr: {value: 1}\n", 4, "indented"),
        ("parameters: {seed: {value: 1}\nmethod: tpe\n", 2, "bracket of line 1"),
    ],
)
def test_what_is_not_yaml_is_said_in_words_of_who_writes_it(tmp_path, text, line, said):
    problem = problems_of(write(tmp_path, text))[""]
    assert problem.line == line
    assert said in problem.rule


def test_a_training_configuration_is_not_taken_for_a_sweep(tmp_path):
    write(tmp_path)
    (problem,) = problems_of(tmp_path / "base.yaml").values()
    assert (problem.key, problem.line) == ("model", 1)
    assert "meansweep train" in problem.rule


def test_a_combination_that_breaks_a_rule_is_shown_and_can_be_forbidden(tmp_path):
    dit = {"model.name": {"value": "dit"}, "model.width": {"values": [60, 64]}, "model.heads": {"values": [3, 4]}}
    found = wrong(tmp_path, parameters=dit)
    (problem,) = found.values()
    assert "multiple of `heads`" in problem.rule
    assert "forbid" in problem.rule
    spec = read(tmp_path, parameters=dit, forbid=[{"model.width": 64, "model.heads": 3}], method="grid")
    assert spec.space.grid_size() == 3


def test_a_ratio_that_a_batch_is_too_small_for_is_refused_where_it_is_varied_and_else_noted(tmp_path):
    small = {"set": {"trainer.steps": 4000, "trainer.batch_size": 2}}
    varied = {"objective.time.ratio": {"values": [0.25, 0.75]}}
    (problem,) = wrong(tmp_path, parameters=varied, **small).values()
    assert "none with r != t: plain flow matching" in problem.rule
    assert problem.value == 0.25
    batches = {"trainer.batch_size": {"values": [1, 32]}}
    assert any("plain flow matching" in problem.rule for problem in wrong(tmp_path, parameters=batches).values())
    flow_matching = {"objective.time.ratio": {"values": [0.0, 0.75]}}
    assert read(tmp_path, parameters=flow_matching, **small).notes == ()
    (note,) = read(tmp_path, parameters={"optimizer.lr": {"values": [1e-3, 1e-4]}}, **small).notes
    assert "objective.time.ratio" in note
    assert "plain flow matching" in note


def test_nested_keys_are_dotted_ones_written_otherwise(tmp_path):
    ratio, law = {"values": [0.25, 0.5]}, {"value": "uniform", "when": {"objective.time.ratio": 0.5}}
    inner = {"time": {"parameters": {"ratio": ratio, "law": law}}}
    nested = read(tmp_path, parameters={"objective": {"parameters": inner}}, method="grid")
    dotted = read(tmp_path, parameters={"objective.time.ratio": ratio, "objective.time.law": law}, method="grid")
    assert list(nested.space.grid()) == list(dotted.space.grid())
    assert len(list(nested.space.grid())) == 2


def test_the_kind_of_model_can_be_swept_with_its_own_keys(tmp_path):
    parameters = {
        "model.name": {"values": ["mlp", "dit"]},
        "model.width": {"values": [64, 128]},
        "model.heads": {"values": [2, 4], "when": {"model.name": "dit"}},
        "model.patch": {"value": 2, "when": {"model.name": "dit"}},
    }
    spec = read(tmp_path, parameters=parameters, method="grid")
    configs = [spec.config_for(values) for values in spec.space.grid()]
    assert len(configs) == 2 + 2 * 2
    assert [c["model"].get("heads") for c in configs] == [None, None, 2, 4, 2, 4]
    assert {c["model"]["depth"] for c in configs if c["model"]["name"] == "mlp"} == {4}


def test_a_rule_of_the_base_s_network_says_nothing_where_the_network_is_varied(tmp_path):
    varied = {"model.name": {"values": ["mlp", "unet"]}, "model.width": {"value": 50, "when": {"model.name": "mlp"}}}
    read(tmp_path, base={}, parameters=varied)  # the default is a DiT, whose width is a multiple of its heads
    varied["model.width"] = {"value": 50}
    found = wrong(tmp_path, base={}, parameters=varied)
    rule = found["parameters.model.name"].rule
    assert rule.startswith("`model.width`: unet has no such key")
    assert "when" in rule
    read(tmp_path, base={}, parameters={**varied, "model.name": {"values": ["mlp"]}})


def test_a_key_in_set_and_in_parameters_is_refused(tmp_path):
    assert "varied" in wrong(tmp_path, set={"optimizer.lr": 1e-3})["set.optimizer.lr"].rule


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"metric": {"name": "train/loss"}}, "metric.name", "training loss"),
        ({"metric": {"name": "eval/fid_4nfe"}}, "metric.name", "evaluation.nfe is [1, 2]"),
        ({"metric": {"name": "fid"}}, "metric.name", "eval/<metric>_<n>nfe"),
        ({"metric": None}, "metric", "missing"),
        ({"method": None}, "method", "missing"),
        ({"method": "custom"}, "method", "unknown search method"),
        ({"parameters": {}}, "parameters", "empty"),
        ({"run_cap": None, "budget": None}, "run_cap", "no end of its own"),
        ({"method": "pbt", "early_terminate": None, "run_cap": None}, "run_cap", "population"),
        ({"method": "pbt"}, "early_terminate", "by itself"),
        ({"early_terminate": {"type": "asha"}}, "early_terminate", "min_iter"),
        ({"early_terminate": {"type": "asha", "min_iter": 9, "s": 2, "max_iter": 90}}, "early_terminate.s", "keep one"),
        ({"early_terminate": {"type": "asha", "min_iter": 9, "eta": 1}}, "early_terminate.eta", "1 < eta"),
        ({"early_terminate": {"type": "median", "eta": 3}}, "early_terminate.eta", "is not a key of `median`"),
        ({"early_terminate": {"type": "median", "promote": True}}, "early_terminate.promote", "is not a key of"),
        ({"early_terminate": {"type": "asha", "min_iter": 9, "promote": 1}}, "early_terminate.promote", "true or"),
        ({"early_terminate": {"type": "threshold"}}, "early_terminate", "`lower` or `upper`"),
        ({"resources": {"gpu": 0.5, "workers": 2}}, "resources.gpu", "whole GPU"),
        ({"budget": {"wall_clock": "1h 30"}}, "budget.wall_clock", "duration"),
        ({"trainer": "mymodule"}, "trainer", "package.module:Class"),
        ({"on_duplicate": "reuze"}, "on_duplicate", "reuse, skip, run"),
        ({"warm_start": {"a": 1}}, "warm_start", "list"),
        ({"warm_start": {}}, "warm_start", "list"),
        ({"set": {"evaluation.nfe": 1}}, "set.evaluation.nfe", "list"),
        ({"set": {"data.name": {}}}, "set.data.name", "must be one of"),
        ({"warm_start": [None]}, "warm_start", "names of sweeps"),
        ({"early_terminate": {"type": None, "min_iter": 9}}, "early_terminate.type", "missing"),
        ({"run_cap": None, "budget": {}}, "run_cap", "no end of its own"),
        ({"trainer": ""}, "trainer", "text"),
        ({"seed": 3, "set": {"seed": 4}}, "set.seed", "differs"),
        ({"base": "nowhere.yaml"}, "base", "no such file"),
        ({"zip": [["optimizer.lr", "objective.weight.power"]]}, "zip.0", "no plain list"),
        ({"forbid": [{"objective.time.law": "uniform", "trainer.steps": 4000, "model.width": "> 100"}]}, None, None),
        ({"forbid": [{"model.width": "> 50"}]}, "forbid.0", "no parameter of this sweep"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(tmp_path, changes, key, said):
    path = write(tmp_path, content(**changes))
    if key is None:  # the counterpart: fixed keys may stand in a forbid beside a parameter
        assert len(read_spec(path).space.forbid) == 1
        return
    assert said in problems_of(path)[key].rule


@pytest.mark.parametrize(
    ("values", "twice"),
    [
        ([1, 1.0, True], [1]),
        ([[1, [2]], [1, [2.0]], [1, [True]]], [1]),
        ([{"a": 1}, {"b": 1}, {"a": 1.0}], [2]),
        (["1", 1, None, "1", None], [3, 4]),
    ],
    ids=str,
)
def test_a_value_that_is_listed_twice_is_refused(tmp_path, values, twice):
    changes = {"trainer": "tests.orchestrator.toy:Curve", "base": {}, "early_terminate": None, "metric": {"name": "a"}}
    path = write(tmp_path, content(**changes, set={"trainer.steps": 3}, parameters={"x": {"values": values}}))
    with pytest.raises(ConfigError) as caught:
        read_spec(path)
    found = [problem.key for problem in caught.value.problems if problem.rule == "duplicate value"]
    assert found == [f"parameters.x.values.{index}" for index in twice]


def test_each_trial_of_a_sweep_over_objectives_has_the_weight_of_its_own(tmp_path):
    names = ["meanflow", "imf", "shortcut", "lsd"]
    spec = read(tmp_path, method="grid", run_cap=None, early_terminate=None, parameters={
        "objective.name": {"values": names},
    })  # fmt: skip
    again = SweepSpec.from_source(json.loads(json.dumps(spec.source)))
    for one in (spec, again):
        weights = [one.config_for({"objective.name": name})["objective"]["weight"] for name in names]
        assert [(w["power"], w["eps"]) for w in weights] == [(1.0, 1e-3), (1.0, 1e-2), (0.0, 1e-2), (0.0, 1e-2)]
    fixed = read(tmp_path, set={"objective.weight.power": 0.5}, parameters={"objective.name": {"values": names}})
    powers = [fixed.config_for({"objective.name": name})["objective"]["weight"]["power"] for name in names]
    assert powers == [0.5] * 4


def test_the_keys_of_one_objective_are_no_others(tmp_path):
    parameters = {
        "objective.name": {"values": ["meanflow", "soflow"]},
        "objective.split.start": {"values": [0.05, 0.2], "when": {"objective.name": "soflow"}},
    }
    spec = read(tmp_path, method="grid", run_cap=None, early_terminate=None, parameters=parameters)
    assert spec.space.grid_size() == 3
    split = spec.config_for({"objective.name": "soflow", "objective.split.start": 0.2})["objective"]["split"]
    assert (split["law"], split["start"], split["end"]) == ("exponential", 0.2, 0.002)
    assert spec.config_for({"objective.name": "meanflow"})["objective"]["split"]["start"] == 0.0


@pytest.mark.parametrize(
    ("name", "told", "right"),
    [
        ("eval/fid_1nfe", False, True),
        ("eval/best_fid_1nfe", False, False),
        ("eval/fid_1nfe_w2", False, False),
        ("eval/fid_1nfe", True, False),
        ("eval/best_fid_1nfe", True, True),
        ("eval/raw/best_fid_2nfe", True, True),
        ("eval/fid_1nfe_w2", True, True),
        ("eval/raw/fid_1nfe_w1.5", True, True),
        ("eval/fid_1nfe_w3", True, False),
    ],
)
def test_with_guidance_as_an_input_a_metric_names_its_scale_or_is_the_best_of_them(tmp_path, name, told, right):
    settings = {"objective.guidance.input": True, "evaluation.guidance": [1.5, 2]} if told else {}
    content = {"metric": {"name": name}, "set": settings, "parameters": {"optimizer.lr": {"min": 1e-4, "max": 1e-2}}}
    if right:
        assert read(tmp_path, **content).metric.name == name
    else:
        assert "they log eval/" in str(wrong(tmp_path, **content)["metric.name"])


def test_several_metrics_need_a_search_that_knows_them(tmp_path):
    both = [{"name": "eval/fid_1nfe"}, {"name": "eval/accuracy_1nfe", "goal": "maximize"}]
    spec = read(tmp_path, metric=None, metrics=both, method="nsga2", early_terminate=None)
    assert [metric.goal for metric in spec.metrics] == ["minimize", "maximize"]
    found = wrong(tmp_path, metric=None, metrics=both, method="cmaes")
    assert set(found) == {"method", "early_terminate"}
    assert "metrics" in wrong(tmp_path, metrics=both, early_terminate=None)
    assert "metrics" in wrong(tmp_path, metric=None, metrics=both[:1], early_terminate=None)


def test_a_file_that_does_not_say_what_is_trained_is_asked_for_it(tmp_path):
    problem = problems_of(write(tmp_path, GOOD.replace("base: base.yaml\n", "")))["base"]
    assert "what is trained?" in problem.rule
    assert "trainer: package.module:Class" in problem.rule


def test_a_base_that_is_not_there_or_not_yaml_is_said(tmp_path):
    assert wrong(tmp_path, base="baze.yaml")["base"].nearest == "base.yaml"
    assert wrong(tmp_path, base="sweeep.yaml")["base"].nearest is None  # this file itself is none
    found = problems_of(write(tmp_path, base="model: [\n"))
    assert found[""].file == str(tmp_path / "base.yaml")


# --------------------------------------------------------------------------------------- a trainer of one's own


def test_any_key_may_be_swept_for_a_trainer_of_ones_own(tmp_path):
    spec = read(
        tmp_path,
        trainer="my.module:Trainer",
        base={"hidden": {"layers": 2}, "trainer": {"steps": 50, "eval_every": 20}},
        metric={"name": "loss"},
        parameters={"hidden.units": {"values": [1, 2]}},
        early_terminate=None,
    )
    config = spec.config_for({"hidden.units": 2}, seed=5)
    assert config == {
        "hidden": {"layers": 2, "units": 2},
        "trainer": {"steps": 4000, "eval_every": 20},
        "seed": 5,
    }
    assert spec.config_hash(config) != spec.config_hash({**config, "seed": 6})
    assert spec.config_hash(config) == spec.config_hash({**config, "trainer": {"steps": 4000, "eval_every": 3}})
    spec.config_for({"hidden.units": 1})["hidden"]["layers"] = 99
    assert spec.base["hidden"] == {"layers": 2}


def test_a_trainer_of_ones_own_must_say_how_long_it_trains(tmp_path):
    found = wrong(
        tmp_path, trainer="a:B", base=None, set={"a": 1}, parameters={"x": {"values": [1]}}, metric={"name": "m"}
    )
    assert "trainer.steps" in found["set"].rule
    own = {"trainer": "a:B", "base": None, "parameters": {"x": {"values": [1]}}, "metric": {"name": "m"}}
    assert "whole number" in wrong(tmp_path, set={"trainer.steps": 1e3}, **own)["set.trainer.steps"].rule


def test_an_empty_key_is_as_good_as_none(tmp_path):
    empty = dict.fromkeys(("description", "set", "forbid", "zip", "replicates", "resources", "warm_start", "retries"))
    path = write(tmp_path, {**content(early_terminate={"type": "asha", "min_iter": 500, "eta": None}), **empty})
    spec = read_spec(path)
    assert (spec.replicates, spec.resources, spec.retries) == (None, Resources(), 2)
    assert spec.early_terminate == Asha(min_iter=500)


# ------------------------------------------------------------------------------------------ reports and rungs


def test_a_trial_reports_at_its_evaluations_its_rungs_and_its_end(tmp_path):
    spec = read(tmp_path, set={"trainer.steps": 4000, "trainer.eval_every": 900})
    config = spec.config_for({})
    assert spec.rungs(config) == [500, 1500]
    assert spec.report_steps(config) == [500, 900, 1500, 1800, 2700, 3600, 4000]
    assert read(tmp_path, early_terminate=None).report_steps(config) == [900, 1800, 2700, 3600, 4000]


@pytest.mark.parametrize(
    ("rule", "length", "expected"),
    [
        ({"min_iter": 100, "eta": 3}, 1000, [100, 300, 900]),
        ({"min_iter": 100, "eta": 3}, 900, [100, 300]),  # the last step is no rung
        ({"min_iter": 100, "eta": 3}, 901, [100, 300, 900]),
        ({"min_iter": 100, "eta": 3, "max_iter": 900}, 5000, [100, 300]),
        ({"min_iter": 3, "eta": 1.5}, 11, [3, 5, 7]),  # 3, 4.5, 6.75, 10.125 -> 11 is the end
        ({"max_iter": 81, "s": 3, "eta": 3}, 1000, [3, 9, 27]),
        ({"max_iter": 81, "s": 3, "eta": 3}, 20, [3, 9]),
        ({"min_iter": 100, "eta": 3}, 50, []),
    ],
)
def test_rungs_are_counted_up_from_min_iter_or_down_from_max_iter(rule, length, expected):
    assert Asha(**rule).steps_of_rungs(length) == expected


def test_rungs_in_images_are_reached_after_as_many_images_by_every_batch_size():
    rule = Asha(min_iter=1000, eta=2, unit="images")
    assert rule.steps_of_rungs(100, batch_size=100) == [10, 20, 40, 80]
    assert rule.steps_of_rungs(100, batch_size=64) == [16, 32, 63]  # rounded up: 15 steps have seen 960 images only
    assert rule.steps_of_rungs(10, batch_size=400) == [3, 5]


def test_a_bracket_does_without_the_first_rungs():
    rule = Asha(min_iter=1, eta=3, brackets=3)
    assert [rule.steps_of_rungs(50, bracket=b) for b in range(4)] == [[1, 3, 9, 27], [3, 9, 27], [9, 27], [1, 3, 9, 27]]


def test_only_rung_rules_have_rungs():
    assert Median(min_iter=10).steps_of_rungs(100) == []


# ----------------------------------------------------------------------------------------------- resources


@pytest.mark.parametrize(
    ("needs", "there", "expected"),
    [
        ({"cpu": 1}, {"cpu": 2, "gpu": 0}, 2),
        ({"cpu": 3}, {"cpu": 8}, 2),
        ({"cpu": 1, "gpu": 0.25}, {"cpu": 16, "gpu": 2}, 8),
        ({"cpu": 1, "gpu": 0.4}, {"cpu": 16, "gpu": 2}, 4),  # 2 on each GPU: the leavings of two make no third
        ({"cpu": 1, "gpu": 2}, {"cpu": 16, "gpu": 5}, 2),
        ({"cpu": 1, "gpu": 1, "workers": 2}, {"cpu": 16, "gpu": 5}, 2),
        ({"cpu": 0.1}, {"cpu": 0.3}, 3),
        ({"cpu": 1, "gpu": 1}, {"cpu": 16, "gpu": 0}, 0),
        ({"cpu": 1, "custom": {"disk": 2}}, {"cpu": 16, "disk": 5}, 2),
        ({"cpu": 1, "custom": {"disk": 2}}, {"cpu": 16}, 0),
    ],
)
def test_how_many_trials_fit(needs, there, expected):
    assert Resources(**needs).concurrency(there) == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 43200), ("90m", 5400), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), (45, 45)]
)
def test_durations(tmp_path, text, seconds):
    assert read(tmp_path, budget={"wall_clock": text}).budget.wall_clock == seconds


def test_a_metric_knows_when_its_target_is_reached():
    low, high = Metric(name="m", target=1.5), Metric(name="m", goal="maximize", target=0.9)
    assert [low.reached(v) for v in (1.4, 1.5, 1.6)] == [True, True, False]
    assert [high.reached(v) for v in (0.89, 0.9, 0.91)] == [False, True, True]
    assert not Metric(name="m").reached(-1e9)


def test_the_shipped_sweeps_over_objectives_give_each_its_own_weight_and_schedule():
    digits = read_spec(ROOT / "sweeps" / "objectives.yaml")
    assert digits.space.grid_size() == len(PRESETS)
    images = read_spec(ROOT / "sweeps" / "imagenet256_objectives.yaml")
    assert images.space.grid_size() == 6
    for spec in (digits, images):
        for name in ("meanflow", "soflow", "shortcut"):
            found = spec.config_for({"objective.name": name})["objective"]
            usual = load_config({"objective.name": name}).to_dict()["objective"]
            assert (found["weight"], found["split"]) == (usual["weight"], usual["split"])


def test_trials_are_compared_by_a_parameter_of_the_sweep(tmp_path):
    parameters = {"objective.name": {"values": ["meanflow", "alphaflow"]}, "optimizer.lr": {"min": 1e-4, "max": 1e-2}}
    rule = {"type": "asha", "min_iter": 500, "by": "objective.name"}
    assert read(tmp_path, parameters=parameters, early_terminate=rule).early_terminate.group_key == "objective.name"
    problem = wrong(tmp_path, parameters=parameters, early_terminate=rule | {"by": "objective.nam"})
    assert "did you mean 'objective.name'" in str(problem["early_terminate.by"])
    assert "early_terminate.by" in wrong(tmp_path, early_terminate={"type": "patience", "by": "optimizer.lr"})
