"""The JSON Schema for editors: it takes what the reader takes, and marks what is plainly wrong."""

import json
from pathlib import Path

import pytest
import yaml

from meanflow_core.config import valid_keys
from meanflow_core.config.yaml_file import read_yaml
from meanflow_core.errors import ConfigError
from orchestrator.search import METHODS
from orchestrator.spec.json_schema import key_descriptions, sweep_schema
from orchestrator.spec.sweep import SweepSpec
from tests.orchestrator.spec.test_sweep import BROKEN, GOOD
from tests.orchestrator.spec.test_sweep_docs import BLOCKS, SWEEPS

jsonschema = pytest.importorskip("jsonschema", reason="the validator that comes with Ray")


@pytest.fixture(scope="module")
def errors():
    jsonschema.Draft202012Validator.check_schema(sweep_schema())
    validator = jsonschema.Draft202012Validator(sweep_schema())
    return lambda content: [
        (".".join(str(part) for part in error.absolute_path), error.message) for error in validator.iter_errors(content)
    ]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_the_sweeps_of_the_repository_are_valid(path, errors):
    assert errors(read_yaml(path).content) == []


def test_the_examples_of_the_docs_are_valid(errors):
    skeleton = {"method": "random", "metric": {"name": "m"}, "parameters": {"optimizer.lr": {"value": 1}}}
    for line, text in BLOCKS:
        content = yaml.safe_load(text)
        missing = {key: value for key, value in skeleton.items() if key not in content}
        if "metrics" in content:
            missing.pop("metric")
        assert (line, errors({**content, **missing})) == (line, [])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("method", "bays"),
        ("run_cap", 0),
        ("run_cap", 2.5),
        ("name", "(?)"),
        ("metrik", 1),
        ("metric", {"name": "m", "gaol": "minimize"}),
        ("metric", {"goal": "minimize"}),
        ("early_terminate", {"type": "ahsa"}),
        ("early_terminate", {"min_iter": 3}),
        ("early_terminate", {"type": "asha", "min_iter": 3, "promote": "yes"}),
        ("budget", {"wall_clock": "3 weeks"}),
        ("budget", {"gpu_hour": 3}),
        ("resources", {"cpus": 3}),
        ("on_duplicate", "reuze"),
        ("parameters", {}),
        ("parameters", {"objective.time.rato": {"values": [1]}}),
        ("parameters", {"objective.time.law": {"values": ["lognrom"]}}),
        ("parameters", {"optimizer.lr": [1, 2]}),
        ("parameters", {"optimizer.lr": {"min": 1}}),
        ("parameters", {"optimizer.lr": {"distribution": "log_uniform", "min": 1, "max": 2}}),
        ("parameters", {"optimizer.lr": {"values": [1, 1]}}),
        ("parameters", {"optimizer": {"parameters": {"lr": {"valuse": [1]}}}}),
        ("forbid", [3]),
        ("set", {"trainer.steps": "many"}),
    ],
)
def test_what_is_plainly_wrong_is_marked(place, value, errors):
    content = yaml.safe_load(GOOD)
    assert errors(content) == []
    assert errors({**content, place: value}) != []


FORMS = (None, {}, [], "", " ", "x", "7", 0, 1, 2.0, 2.5, -1, True, [None], ["x"], [1, 2], {"x": 1}, {"x": None}, 1e6)
"""What may stand behind any key: nothing, something empty, the shortest, the wrong kind, a large number."""
EVERY_KEY = {
    **{"name": "forms", "description": "of a file", "trainer": "somewhere.else:Trainer", "method": "random"},
    **{"run_cap": 4, "retries": 2, "seed": 1, "warm_start": ["other"], "on_duplicate": "run", "max_concurrent": 2},
    "set": {"trainer.steps": 90},
    "metric": {"name": "m", "goal": "minimize", "target": 0.5, "impute": "worst", "impute_while_running": False},
    "parameters": {
        "a": {"values": [1, 2, 3]},
        "b": {"min": 0.0, "max": 1.0, "distribution": "uniform", "when": {"a": 2}},
        "c": {"distribution": "q_normal", "mu": 0, "sigma": 1, "q": 0.5, "min": -1, "max": 2},
        "d": {"values": ["x", "y", "z"], "probabilities": [0.2, 0.3, 0.5]},
        "e": {"distribution": "q_beta", "a": 2, "b": 3, "q": 0.1},
        "f": {"value": 3},
        "g": {"parameters": {"h": {"values": [1, 2, 3]}}},
    },
    "zip": [["a", "g.h"]],
    "forbid": [{"a": 3, "d": "x"}],
    "early_terminate": {"type": "asha", "min_iter": 9, "max_iter": 80, "eta": 3, "promote": True, "brackets": 2}
    | {"unit": "steps", "strict": True},
    "replicates": {"top": 2, "seeds": 2, "race": False},
    "resources": {"cpu": 1, "gpu": 1, "workers": 1, "custom": {"disk": 1}},
    "budget": {"gpu_hours": 4, "wall_clock": "2h", "trials": 9},
    "report_timeout": "1h",
}
OTHER_RULES = (
    {"type": "hyperband", "max_iter": 80, "s": 2},
    {"type": "median", "min_iter": 10, "warmup_trials": 3},
    {"type": "percentile", "percentile": 25},
    {"type": "patience", "patience": 3, "min_delta": 0.1},
    {"type": "threshold", "lower": 0, "upper": 3},
    {"type": "none"},
)
NEEDED = ("trainer", "set", "method", "metric", "run_cap", "parameters")
RELATED = {
    "run_cap",
    "parameters",
    "zip",
    "forbid",
    "min_iter",
    "max_iter",
    "s",
    "lower",
    "upper",
    "gpu",
    "workers",
    "steps",
}
"""Keys whose mistakes may lie in how they stand to others; of all else a schema can tell."""


def forms():
    """Every file that has one key of `EVERY_KEY` in another form, or lacks it."""
    small = {key: EVERY_KEY[key] for key in NEEDED}
    small["parameters"] = {"a": {"values": [1, 2]}}
    files = [(key, {**small, key: value}) for key, value in EVERY_KEY.items()]
    files += [("early_terminate", {**small, "early_terminate": rule}) for rule in OTHER_RULES]
    for key, file in files:
        file = EVERY_KEY if key in ("zip", "forbid") else file
        for path in paths({key: file[key]}):
            yield from ((path, changed(file, path, *form)) for form in [(), *((form,) for form in FORMS)])


def paths(content):
    for key, value in content.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *path) for path in paths(value))


def changed(content, path, *form):
    """The content with another form at `path`, or nothing."""
    (key, *below), found = path, dict(content)
    if below:
        found[key] = changed(content[key], below, *form)
    elif form:
        found[key] = form[0]
    else:
        del found[key]
    return found


def is_read(content):
    try:
        SweepSpec.from_source({"sweep": content, "base": {}})
    except ConfigError:
        return False
    return True


def test_the_schema_takes_what_the_reader_takes_and_what_it_refuses_by_itself_the_schema_marks(errors):
    count = {True: 0, False: 0}
    for path, content in forms():
        read, marks = is_read(content), errors(content)
        count[read] += 1
        if read:
            assert (path, content, marks) == (path, content, [])
        elif not RELATED & set(path):
            assert (path, content, marks != []) == (path, content, True)
    assert min(count.values()) > 100


def test_the_broken_file_of_the_readers_tests_is_marked_in_many_places(errors):
    places = {place.split(".")[0] for place, _ in errors(yaml.safe_load(BROKEN))}
    assert {"method", "name", "run_cap", "parameters", "resources", "budget", "metric"} <= places


def test_a_trainer_of_ones_own_may_have_any_key(errors):
    content = {**yaml.safe_load(GOOD), "parameters": {"what.ever": {"values": [1]}}}
    assert errors(content) != []
    assert errors({**content, "trainer": "a.b:C"}) == []
    assert errors({**content, "program": "train.py"}) == errors({**content, "trainer": {"command": ["x"]}}) == []
    assert errors({**content, "trainer": {"commands": ["x"]}}) != []


def test_every_key_is_suggested_and_described_where_it_has_a_docstring():
    schema = json.loads(json.dumps(sweep_schema()))
    properties = schema["properties"]["parameters"]["properties"]
    assert set(properties) == set(valid_keys()) - {"evidence", "defaults"}
    assert "logit-normal" in properties["objective.time.law"]["description"]
    assert "trials" in schema["properties"]["run_cap"]["description"]
    assert "eta" in schema["$defs"]["early_terminate"]["properties"]["eta"]["description"]
    assert {word["const"] for word in schema["properties"]["method"]["oneOf"]} == {*METHODS, "bayes"}
    assert schema["properties"]["entity"]["deprecated"] is True
    assert len(key_descriptions()) > 30


def test_the_schema_is_deterministic_text():
    assert json.dumps(sweep_schema()) == json.dumps(sweep_schema())
    assert Path(__file__).name not in json.dumps(sweep_schema())
