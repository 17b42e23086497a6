"""The training configuration: defaults, strictness, and what an error says."""

import json
import subprocess
import sys

import pytest

from meanflow_core.config import (
    PRESETS,
    DiTConfig,
    GuidanceConfig,
    MLPConfig,
    TimeConfig,
    load_config,
    valid_keys,
    with_values,
)
from meanflow_core.errors import ConfigError, TrainingDiverged
from tests import ROOT


def problems_of(source, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return caught.value.problems


def test_defaults_are_the_papers_imagenet_setup():
    objective = load_config({}).objective
    assert (objective.time.law, objective.time.mean, objective.time.std, objective.time.ratio) == (
        "lognorm",
        -0.4,
        1.0,
        0.25,
    )
    assert (objective.guidance.omega, objective.guidance.kappa, objective.guidance.dropout) == (1.0, 0.0, 0.1)
    assert (objective.weight.power, objective.weight.eps) == (1.0, 1e-3)
    assert (objective.tangent, load_config({}).model.time_embedding) == ("v01", "t_dt")


def test_a_config_survives_the_round_trip_through_yaml(tmp_path):
    config = load_config({"model": {"name": "mlp", "width": 48}, "objective.guidance.scale": 2.5, "ema.decays": [0.9]})
    path = tmp_path / "weird name's.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config
    assert load_config(json.loads(json.dumps(config.to_dict()))) == config


def test_every_problem_is_listed_with_its_line_and_the_nearest_choice(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(
        "objective:\n  time:\n    ratoi: 0.3\n    law: lognrom\n  weight: {power: -1}\n"
        "optimizer:\n  lr: fast\nmodel: {name: dti}\ntrainer.steps: 2.5\n"
    )
    found = {p.key: p for p in problems_of(path)}
    assert set(found) == {
        "objective.time.ratoi",
        "objective.time.law",
        "objective.weight.power",
        "optimizer.lr",
        "model.name",
        "trainer.steps",
    }
    assert found["objective.time.ratoi"].nearest == "objective.time.ratio"
    assert found["objective.time.law"].nearest == "lognorm"
    assert found["model.name"].nearest == "dit"
    lines = {key: problem.line for key, problem in found.items()}
    assert lines["objective.time.ratoi"] == 3
    assert lines["objective.time.law"] == 4
    assert lines["optimizer.lr"] == 7
    assert lines["trainer.steps"] == 9
    assert str(found["optimizer.lr"]) == f"{path}:7: optimizer.lr: must be a number (got 'fast')"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objective.time.ratio", 1.01),
        ("objective.time.std", 0.0),
        ("objective.guidance.kappa", 1.0),
        ("objective.guidance.omega", -0.5),
        ("objective.weight.eps", 0.0),
        ("optimizer.lr", float("nan")),
        ("trainer.steps", 0),
        ("ema.decays", [0.9, 1.0]),
        ("model.width", 770),
        ("evaluation.nfe", [1, 0]),
    ],
)
def test_values_outside_their_bounds_are_refused(key, value):
    assert [problem.key for problem in problems_of({key: value})] == [key]


@pytest.mark.parametrize(("key", "value"), [("objective.time.ratio", 1), ("objective.guidance.kappa", 0)])
def test_bounds_are_inclusive_where_they_say_so(key, value):
    assert load_config({key: value}) is not None


def test_scale_and_omega_exclude_each_other():
    (problem,) = problems_of({"objective.guidance": {"scale": 2.0, "omega": 0.5, "kappa": 0.3}})
    assert problem.key == "objective.guidance.omega"
    assert "both set" in problem.rule


@pytest.mark.parametrize("way", ["jvp", "finite_difference"])
def test_only_a_derivative_that_compiles_goes_with_compile(way):
    given = {"objective.derivative": way, "trainer.compile": True}
    with pytest.raises(ConfigError, match=r"objective\.derivative.*cannot be compiled"):
        load_config(given)
    assert load_config({**given, "objective.derivative": "auto"}).trainer.compile
    assert not load_config({**given, "trainer.compile": False}).trainer.compile


def test_omega_follows_from_scale_and_kappa():
    guidance = GuidanceConfig(scale=2.5, kappa=0.92)
    assert guidance.effective_omega == pytest.approx(0.2)
    assert guidance.active
    assert not GuidanceConfig().active
    assert not GuidanceConfig(scale=1.0).active


def test_a_section_of_another_kind_is_named():
    (problem,) = problems_of({"model": {"name": "mlp", "heads": 3}})
    assert "mlp has no such key" in problem.rule


def test_evidence_is_kept_as_it_is(tmp_path):
    evidence = {"metric": "eval/ema_0.99/fid_1nfe", "curve": {"a.b": 1.5}, "trial": "7"}
    path = tmp_path / "best.yaml"
    path.write_text(with_values(load_config({}), {"evidence": evidence}).to_yaml())
    assert load_config(path, ["seed=3"]).evidence == evidence


def test_overrides_win_and_are_read_as_yaml():
    config = load_config({"optimizer.lr": 1.0}, ["optimizer.lr=1e-3", "optimizer.clip_norm=null", "ema.decays=[0.5]"])
    assert config.optimizer.lr == 1e-3
    assert config.optimizer.clip_norm is None
    assert config.ema.decays == [0.5]
    assert problems_of({}, ["optimizer.lr"])[0].key == "optimizer.lr"


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\noptimizer:\n  lr: 0.1\n  lr: 0.2\n")
    (problem,) = problems_of(path)
    assert (problem.key, problem.line) == ("optimizer.lr", 4)


@pytest.mark.parametrize("text", ["a: [1,", "- 1\n- 2\n", "\tkey: 1"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert problems_of(path)[0].file == str(path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("data.name", {}, "must be one of"), ("evaluation.nfe", {}, "must be a list"), ("ema.decays", [[1]], "each item")],
)
def test_a_mapping_or_a_list_in_the_place_of_a_value_is_named(key, value, said):
    (problem,) = problems_of({key: value})
    assert problem.key == key
    assert said in problem.rule


def test_a_missing_file_is_named(tmp_path):
    assert "cannot be read" in problems_of(tmp_path / "none.yaml")[0].rule


def test_numbers_in_exponent_form_are_numbers(tmp_path):
    path = tmp_path / "lr.yaml"
    path.write_text("optimizer: {lr: 3e-4, eps: 1E-9}\n")
    config = load_config(path)
    assert (config.optimizer.lr, config.optimizer.eps) == (3e-4, 1e-9)


def test_hash_ignores_where_and_how_often_to_log_and_nothing_else():
    config = load_config({})
    same = with_values(
        config, {"trainer.device": "cpu", "trainer.log_every": 7, "trainer.eval_every": 3, "evidence": {"trial": "7"}}
    )
    assert same.evidence == {"trial": "7"}
    assert same.hash() == config.hash()
    for key, value in {"seed": 1, "objective.time.ratio": 0.3, "trainer.steps": 10, "evaluation.seed": 4}.items():
        assert with_values(config, {key: value}).hash() != config.hash()


def test_changing_the_kind_of_model_drops_the_other_kinds_fields():
    config = with_values(load_config({"model.depth": 3}), {"model.name": "mlp", "model.width": 64})
    assert config.model == MLPConfig(width=64)
    assert isinstance(load_config({}).model, DiTConfig)


def test_constructing_a_wrong_section_fails_at_once():
    with pytest.raises(ConfigError, match="0 <= ratio <= 1"):
        TimeConfig(ratio=-0.25)


def test_valid_keys_are_narrowed_by_the_kind():
    assert "model.heads" in valid_keys()
    assert "model.heads" not in valid_keys({"model": {"name": "mlp"}})
    assert "objective.guidance.scale" in valid_keys()


def test_reading_a_config_needs_no_torch():
    code = "import sys, meanflow_core.config as c; c.load_config({}); print('torch' in sys.modules)"
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_divergence_survives_pickling_with_its_facts():
    import pickle

    error = pickle.loads(pickle.dumps(TrainingDiverged(40, "the loss is nan", {"step": 30, "train/loss": 0.5})))
    assert (error.step, error.last_finite["train/loss"]) == (40, 0.5)
    assert str(error) == "diverged at step 40: the loss is nan; last finite at step 30"


WEIGHTS = {
    "meanflow": (1.0, 1e-3),
    "imf": (1.0, 1e-2),
    "soflow": (1.0, 1e-2),
    "shortcut": (0.0, 1e-2),
    "lsd": (0.0, 1e-2),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_weight_follows_the_objectives_name_and_a_value_that_is_set_wins(name):
    found = load_config({"objective": {"name": name}}).objective
    assert (found.weight.power, found.weight.eps) == WEIGHTS[name]
    found = load_config({"objective": {"name": name, "weight": {"power": 0.3, "eps": None}}}).objective
    assert (found.weight.power, found.weight.eps) == (0.3, WEIGHTS[name][1])
    assert "weight.eps" in found.followed
    assert "weight.power" not in found.followed


def test_what_follows_the_name_is_written_out_and_read_back_equal():
    for name in PRESETS:
        config = load_config({"objective.name": name})
        assert load_config(config.to_dict()) == config
        written = config.to_dict()["objective"]
        assert None not in (*written["split"].values(), *written["weight"].values(), written["direction"])
    assert "power: 1.0" in load_config({}).to_yaml()


SPLITS = {
    "meanflow": ("constant", 0.0, 0.0),
    "alphaflow": ("sigmoid", 1.0, 0.0),
    "soflow": ("exponential", 0.1, 0.002),
    "shortcut": ("constant", 0.5, 0.5),
    "split": ("uniform", 0.0, 1.0),
    "lsd": ("constant", 1.0, 1.0),
}


@pytest.mark.parametrize("name", SPLITS)
def test_the_split_follows_the_name_and_then_the_law(name):
    split = load_config({"objective.name": name}).objective.split
    assert (split.law, split.start, split.end) == SPLITS[name]
    other = load_config({"objective.name": name, "objective.split.law": "cosine", "objective.split.end": 0.1}).objective
    assert (other.split.law, *other.split.bounds) == ("cosine", 1.0, 0.1)


def test_another_name_takes_its_own_values_and_leaves_those_that_were_set():
    config = load_config({"objective.name": "soflow", "objective.split.start": 0.3, "objective.weight.eps": 0.5})
    changed = with_values(config, {"objective.name": "shortcut"}).objective
    assert (changed.weight.power, changed.weight.eps) == (0.0, 0.5)
    assert changed.split == load_config({"objective.name": "shortcut"}).objective.split
    kept = with_values(config, {"objective.name": "soflow", "objective.split.end": 0.1}).objective.split
    assert (kept.start, kept.end) == (0.3, 0.1)
    given = with_values(config, {"objective.name": "alphaflow", "objective.split.after": 0.5}).objective.split
    assert (given.law, given.start, given.after) == ("sigmoid", 1.0, 0.5)


MISFITS = {
    "objective.name": ({"name": "meanflw"}, "did you mean 'meanflow'"),
    "objective.split.law": ({"name": "soflow", "split": {"law": "exponentiel"}}, "did you mean 'exponential'"),
    "objective.split.end": ({"name": "soflow", "split": {"end": 0.0}}, "above 0"),
    "objective.split.start": ({"name": "shortcut", "split": {"start": 0.0}}, "regresses the network on itself"),
    "objective.split.until": ({"name": "alphaflow", "split": {"after": 0.5, "until": 0.5}}, "after < until"),
    "objective.direction": ({"name": "lsd", "direction": 0.5}, "must be 1"),
    "objective.teacher": ({"name": "imf", "teacher": 0.99}, "only those of shortcut, split, lsd"),
    "objective.time.ratio": ({"name": "split", "time": {"ratio": 1.0}}, "must be below 1"),
    "objective.tangent": ({"name": "soflow", "tangent": "v00"}, "has no du/dt"),
}


@pytest.mark.parametrize("key", MISFITS)
def test_what_an_objective_cannot_have_is_refused_with_its_reason(key):
    values, reason = MISFITS[key]
    with pytest.raises(ConfigError) as caught:
        load_config({"objective": values})
    (problem,) = caught.value.problems
    assert problem.key == key
    assert reason in str(problem)


def test_a_uniform_split_on_the_data_stays_above_zero():
    with pytest.raises(
        ConfigError, match=r"objective\.split\.start: must be above 0: the error of `soflow` is divided"
    ):
        load_config({"objective": {"name": "soflow", "split": {"law": "uniform"}}})
    load_config({"objective": {"name": "soflow", "split": {"law": "uniform", "start": 0.1}}})


GUIDANCE = {
    "objective.guidance.scale": {"objective.guidance.scale": 2.0},
    "objective.guidance.kappa": {"objective.guidance.kappa": 0.5},
    "objective.guidance.scale_max": {"objective.guidance.scale_max": 1.0},
    "evaluation.guidance": {"evaluation.guidance": []},
}


@pytest.mark.parametrize("key", GUIDANCE)
def test_guidance_as_an_input_leaves_no_scale_to_set_and_is_judged_somewhere(key):
    base = {"objective.guidance.input": True, "evaluation.guidance": [1, 2.5]}
    assert load_config(base).objective.guidance.active
    with pytest.raises(ConfigError) as caught:
        load_config({**base, **GUIDANCE[key]})
    assert [problem.key for problem in caught.value.problems] == [key]


def test_scales_to_be_judged_at_need_a_network_that_is_told_them():
    with pytest.raises(ConfigError, match=r"evaluation\.guidance: only a network that is told the scale"):
        load_config({"evaluation.guidance": [1.0, 2.0]})
    for wrong in ([0.5, 2.0], [2.0, 2.0]):
        with pytest.raises(ConfigError, match=r"evaluation\.guidance"):
            load_config({"objective.guidance.input": True, "evaluation.guidance": wrong})
