"""Whatever file is given, reading it ends soon, with a sentence: no traceback, no endless loop, no full memory."""

import subprocess
import sys

import pytest

from meanflow_core.config import load_config, parse_value
from meanflow_core.errors import ConfigError
from orchestrator.spec import read_spec
from tests import ROOT

GOOD = "base: {}\nmethod: random\nrun_cap: 2\nmetric: {name: eval/fid_1nfe, goal: minimize}\nparameters:\n"
LR = "  optimizer.lr: {min: 1.0e-4, max: 1.0e-3}\n"
XY = "parameters: {x: {values: [1, 2]}}\n"
OWN = "trainer: tests.orchestrator.toy:Curve\nmethod: random\nrun_cap: 2\nmetric: {name: loss, goal: minimize}\n"
MANY = ", ".join(map(str, range(1, 100_001)))


def laughs(levels=12):
    lines = ["x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


FILES = {
    "a NUL byte": ((GOOD + LR + "name: a\0b\n").encode(), "not YAML"),
    "UTF-16": ((GOOD + LR).encode("utf-16"), "not UTF-8"),
    "Latin-1": ((GOOD + LR + "description: gr\xfc\xdfe\n").encode("latin-1"), "not UTF-8"),
    "an image": (bytes(range(256)) * 40, "not UTF-8"),
    "lists in lists": ((GOOD + LR + "set: " + "[" * 10_000 + "]" * 10_000).encode(), "nested"),
    "mappings in mappings": ((GOOD + LR + "set: " + "{a: " * 10_000 + "1" + "}" * 10_000).encode(), "nested"),
    "mappings below mappings": ("".join(" " * i + "a:\n" for i in range(1200)).encode(), "nested"),
    "a billion laughs": ((laughs() + GOOD + LR).encode(), "values"),
    "a list that holds itself": ((GOOD + "  optimizer.lr: {values: &a [*a]}\n").encode(), "holds itself"),
    "a mapping that holds itself": ((GOOD + LR + "set: &a {trainer: *a}\n").encode(), "holds itself"),
    "5,000 digits": ((GOOD + f"  optimizer.lr: {{min: 1.0e-4, max: {'9' * 5000}}}\n").encode(), "digits"),
    "5,000 hexadecimal digits": ((GOOD + f"  seed: {{values: [0x{'f' * 5000}]}}\n").encode(), "digits"),
    "a number beyond floats": ((GOOD + "  optimizer.lr: {min: 1.0e-4, max: 1.0e+999}\n").encode(), "finite"),
    "100,000 values": ((GOOD + f"  optimizer.lr: {{values: [{MANY}]}}\n").encode(), "values"),
    "180,000 parameters": ((GOOD + "".join(f"  p{i}: {{value: {i}}}\n" for i in range(180_000))).encode(), "MiB"),
    "20 MiB": ((GOOD + LR + "description: " + "a" * 20 * 2**20).encode(), "MiB"),
    "a parameter of 300 characters": ((OWN + f"parameters: {{{'p' * 300}: {{values: [1, 2]}}}}\n").encode(), "250"),
    "a sweep of 300 characters": ((GOOD + LR + f"name: {'n' * 300}\n").encode(), "100"),
    "a metric of 300 characters": ((OWN.replace("loss", "l" * 300) + XY).encode(), "250"),
    "a key beside a key below it": ((OWN + "parameters: {a: {value: 1}, a.b: {values: [1, 2]}}\n").encode(), "a.b"),
    "a key of `set` below a parameter": ((OWN + "set: {a.b: 1}\nparameters: {a: {values: [1, 2]}}\n").encode(), "a.b"),
    "an empty key": ((OWN + "parameters: {'': {values: [1, 2]}}\n").encode(), "empty"),
    "a key with an empty part": ((OWN + "parameters: {a..b: {values: [1, 2]}}\n").encode(), "empty"),
    "a key that MLflow refuses": ((OWN + "parameters: {'lr*': {values: [1, 2]}}\n").encode(), "letters"),
    "a metric that MLflow refuses": ((OWN.replace("loss", "'lo$$'") + XY).encode(), "letters"),
    "a list as a key": ((GOOD + LR + "? [1, 2]\n: 3\n").encode(), "unhashable"),
    "a number in base 60": ((GOOD + f"  seed: {{values: [{':'.join(['59'] * 3000)}]}}\n").encode(), "digits"),
    "a truth value that is none": ((OWN + "set: {a: !!bool maybe}\n" + XY).encode(), "not what its tag"),
    "a whole number without a digit": ((OWN + "set: {a: !!int ''}\n" + XY).encode(), "not what its tag"),
    "a float without a digit": ((OWN + "set: {a: !!float ''}\n" + XY).encode(), "not what its tag"),
    "a time that is none": ((OWN + "set: {a: !!timestamp noon}\n" + XY).encode(), "not what its tag"),
    "a call of Python": ((OWN + "set: {a: !!python/object/apply:os.system [ls]}\n" + XY).encode(), "tag"),
    "a billion reports": ((OWN + "set: {trainer.steps: 2147483648, trainer.eval_every: 2}\n" + XY).encode(), "reports"),
    "no step between reports": ((OWN + "set: {trainer.steps: 9, trainer.eval_every: 0}\n" + XY).encode(), "least 1"),
    "a batch of words": ((OWN + "set: {trainer.steps: 9, trainer.batch_size: all}\n" + XY).encode(), "least 1"),
    "more trials than a float counts": ((OWN.replace("2", "1.0e+308", 1) + XY).encode(), "run_cap"),
    "a whole number of 299 digits": ((OWN + f"set: {{a: {'9' * 299}}}\n" + XY).encode(), "too large"),
    "a lattice finer than numbers": (
        (OWN + "parameters: {x: {distribution: q_uniform, min: 0.0, max: 1.0e+308, q: 0.1}}\n").encode(), "too small"
    ),
    "a GPU too small to count": ((OWN + XY + "resources: {gpu: 1.0e-320}\n").encode(), "Ray counts"),
    "a CPU too small to count": ((OWN + XY + "resources: {cpu: 1.0e-320}\n").encode(), "cpu"),
    "keys that are one as text": ((OWN + "set: {1: a, '1': b}\n" + XY).encode(), "duplicate"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_kind_is_refused_with_a_sentence(name, tmp_path):
    content, word = FILES[name]
    file = tmp_path / "sweep.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as found:
        read_spec(file)
    told = str(found.value)
    assert word in told
    assert len(told) < 4000
    assert str(file) in told


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_device_without_an_end_is_refused_too(device):
    with pytest.raises(ConfigError, match="MiB"):
        read_spec(device)


def test_ten_thousand_values_are_read(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(GOOD + f"  seed: {{values: [{', '.join(map(str, range(10_000)))}]}}\n")
    assert len(read_spec(file).space.parameters[0].choices) == 10_000


def test_aliases_are_read_as_what_they_stand_for(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(GOOD + "  optimizer.beta1: &a {min: 0.5, max: 0.99}\n  optimizer.beta2: *a\n")
    assert [p.high for p in read_spec(file).space.parameters] == [0.99, 0.99]


def test_a_training_configuration_and_an_override_are_bounded_too(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text(laughs())
    with pytest.raises(ConfigError, match="values"):
        load_config(file)
    for text in ("[" * 10_000, "9" * 5000, "&a [*a]"):
        with pytest.raises(ConfigError):
            parse_value(text)


def test_the_command_answers_without_a_traceback(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_bytes(FILES["a billion laughs"][0])
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "plan", str(file)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
