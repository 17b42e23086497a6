"""The JSON Schema for editors: it takes what the reader takes, and marks what is plainly wrong."""

import json
from pathlib import Path

import pytest
import yaml

from meanflow_core.config import valid_keys
from meanflow_core.yamlfile import read_yaml
from orchestrator.schema import key_descriptions, sweep_schema
from orchestrator.settings import METHODS
from tests.orchestrator.test_spec import BROKEN, GOOD
from tests.orchestrator.test_sweep_docs import BLOCKS, SWEEPS

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
        ("name", "two words"),
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


def test_the_broken_file_of_the_readers_tests_is_marked_in_many_places(errors):
    places = {place.split(".")[0] for place, _ in errors(yaml.safe_load(BROKEN))}
    assert {"method", "name", "run_cap", "parameters", "resources", "budget", "metric"} <= places


def test_a_trainer_of_ones_own_may_have_any_key(errors):
    content = {**yaml.safe_load(GOOD), "parameters": {"what.ever": {"values": [1]}}}
    assert errors(content) != []
    assert errors({**content, "trainer": "a.b:C"}) == []


def test_every_key_is_suggested_and_described_where_it_has_a_docstring():
    schema = json.loads(json.dumps(sweep_schema()))
    properties = schema["properties"]["parameters"]["properties"]
    assert set(properties) == set(valid_keys()) - {"evidence"}
    assert "logit-normal" in properties["objective.time.law"]["description"]
    assert "trials" in schema["properties"]["run_cap"]["description"]
    assert "eta" in schema["$defs"]["early_terminate"]["properties"]["eta"]["description"]
    assert {word["const"] for word in schema["properties"]["method"]["oneOf"]} == {*METHODS, "bayes"}
    assert schema["properties"]["program"]["deprecated"] is True
    assert len(key_descriptions()) > 30


def test_the_schema_is_deterministic_text():
    assert json.dumps(sweep_schema()) == json.dumps(sweep_schema())
    assert Path(__file__).name not in json.dumps(sweep_schema())
