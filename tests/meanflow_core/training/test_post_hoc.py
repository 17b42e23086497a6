"""Averages whose length is chosen afterwards are those that would have been kept."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from meanflow_core.__main__ import main
from meanflow_core.config import EMAConfig, load_config
from meanflow_core.errors import ConfigError
from meanflow_core.run.average import TRIED, best_length
from meanflow_core.run.folder import RunFolder
from meanflow_core.training.checkpoint import load_weights
from meanflow_core.training.ema import EMA, length_name
from meanflow_core.training.post_hoc import coefficients, combined, decay_of, exponent_of
from meanflow_core.training.trainer import Trainer

CONFIG = """\
model: {name: mlp, width: 8, depth: 1}
ema: {decays: [0.9], lengths: [0.05, 0.1], snapshot_every: 5}
optimizer: {lr: 0.01}
trainer: {steps: 32, batch_size: 16, log_every: 8, eval_every: 32, checkpoint_every: 16, device: cpu}
evaluation: {samples: 20, nfe: [1]}
"""


@pytest.mark.parametrize(("length", "exponent"), [(0.05, 16.97), (0.1, 6.94)])
def test_the_exponent_of_a_length_is_the_published_one(length, exponent):
    assert exponent_of(length) == pytest.approx(exponent, abs=5e-3)


@pytest.mark.parametrize("length", [0.05, 0.1, 0.2])
def test_the_profile_of_an_average_has_its_length_as_standard_deviation(length):
    steps = 4000
    profile = np.zeros(steps)
    for step in range(1, steps + 1):
        decay = decay_of(length, step)
        profile *= decay
        profile[step - 1] += 1 - decay
    times = np.arange(1, steps + 1) / steps
    mean = (profile * times).sum()
    assert profile.sum() == pytest.approx(1)
    assert ((profile * (times - mean) ** 2).sum()) ** 0.5 == pytest.approx(length, rel=2e-3)


def walk(lengths, steps, every):
    """Averages of a random walk that turns: those of `lengths` stored, and as they are kept along the way."""
    net = nn.Linear(3, 2).double()
    net.register_buffer("count", torch.zeros((), dtype=torch.int64))
    kept = EMA(net, EMAConfig(decays=[], lengths=lengths))
    generator, stored, speed = torch.Generator().manual_seed(1), {}, 0.0
    for step in range(1, steps + 1):
        speed = 0.98 * speed + 0.02 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            net.weight += speed
            net.count += 1
        kept.update(net, step)
        if step % every == 0 or step == steps:
            stored[step] = {n: {k: v.clone() for k, v in kept.averages[length_name(n)].items()} for n in lengths}
    return stored, net


@pytest.mark.parametrize("wanted", [0.04, 0.075, 0.13, 0.2])
@pytest.mark.parametrize("at", [2000, 1500])
def test_an_average_of_another_length_is_the_one_that_would_have_been_kept(wanted, at):
    stored, net = walk([0.05, 0.1, wanted], 2000, 125)
    names = [(length, step) for step in stored if step <= at for length in (0.05, 0.1)]
    found = combined(
        (c, stored[step][length])
        for c, (length, step) in zip(coefficients(names, wanted, at), names, strict=True)
    )  # fmt: skip
    direct, nearest = stored[at][wanted], stored[at][0.05 if wanted < 0.08 else 0.1]
    off = (found["weight"] - direct["weight"]).norm()
    assert off < 0.02 * (nearest["weight"] - direct["weight"]).norm()
    assert off < 0.02 * direct["weight"].norm()
    assert found["count"] == at
    assert found["bias"].tolist() == pytest.approx(net.bias.tolist(), rel=1e-6)  # what stands still stands still


def test_a_stored_length_is_itself():
    names = [(length, step) for step in (100, 200, 300) for length in (0.05, 0.1)]
    assert coefficients(names, 0.1, 300) == pytest.approx([0, 0, 0, 0, 0, 1], abs=1e-8)


def test_a_training_is_sampled_and_judged_at_a_length_that_nobody_had_chosen(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(CONFIG)
    out, picture = tmp_path / "run", tmp_path / "p.png"
    words = ["trainer.steps=21"]
    assert main(["train", str(tmp_path / "small.yaml"), "--out", str(out), *words]) == 0
    assert main(["train", str(tmp_path / "small.yaml"), "--out", str(out)]) == 0  # made longer: it goes on
    folder = RunFolder(out)
    assert folder.snapshots() == [5, 10, 15, 20, 21, 25, 30, 32]
    whole = Trainer(load_config(tmp_path / "small.yaml", ["ema.lengths=[0.05, 0.1, 0.14]"]))
    whole.train(32)
    for length, tolerance in ((0.1, 1e-4), (0.14, 0.05)):
        kept, start = whole._ema.averages[length_name(length)], whole.net.state_dict()
        off = sum((value - kept[name]).norm() for name, value in folder.average(length, 32).items())
        assert off < tolerance * sum((start[name] - kept[name]).norm() for name in kept)
    capsys.readouterr()
    scores = {}
    for asked in ([], ["--ema-length", "0.05"], ["--ema-length", "0.2"]):
        assert main(["sample", str(out), "--picture", str(picture), *asked]) == 0
        capsys.readouterr()
        assert main(["evaluate", str(out), *asked]) == 0
        scores[str(asked)] = capsys.readouterr().out
    assert len(set(scores.values())) == 3
    assert main(["sample", str(out), "--ema-length", "0.3"]) == 2
    assert "--ema-length: must be above 0 and below 0.28" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "none"), "--ema-length", "0.1"]) == 1
    plain = tmp_path / "plain.yaml"
    plain.write_text(CONFIG.replace(", lengths: [0.05, 0.1]", ""))
    assert main(["train", str(plain), "--out", str(tmp_path / "plain"), "trainer.steps=2"]) == 0
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "plain"), "--ema-length", "0.1"]) == 2
    assert "stored no averages to choose a length from (`ema.lengths`" in capsys.readouterr().err


def test_the_length_is_chosen_when_the_training_has_ended_and_anew_without_training(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG)
    out = tmp_path / "run"
    folder = RunFolder(out)

    def train(*words):
        """Return the name of the weights that are left, and the rows of metrics."""
        assert main(["train", str(tmp_path / "small.yaml"), "--out", str(out), *words]) == 0
        rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
        return load_weights(folder.weights)[1]["weights"], rows

    chosen, rows = train("ema.length=best")
    scores = {length: rows[-1][f"eval/{length_name(length)}/fid_1nfe"] for length in TRIED}
    assert chosen == length_name(min(scores, key=scores.get))
    assert len(set(scores.values())) == len(TRIED)
    checkpoints = {path: path.stat().st_mtime_ns for path in folder.checkpoints.rglob("*")}
    assert train("ema.length=best") == (chosen, rows)  # nothing is judged again

    name, more = train("ema.length=0.1")
    weights, metadata = load_weights(folder.weights)
    assert (name, metadata["step"], metadata["config"]["ema"]["length"]) == ("length_0.1", 32, 0.1)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in folder.average(0.1, 32).items())
    assert more[:-1] == rows
    assert more[-1].keys() == {"step", "eval/length_0.1/fid_1nfe", "eval/length_0.1/accuracy_1nfe"}

    assert train() == ("ema_0.9", more)
    trainer = Trainer(load_config(tmp_path / "small.yaml"))
    folder.load(trainer)
    weights = load_weights(folder.weights)[0]
    assert all(torch.equal(tensor, weights[key]) for key, tensor in trainer.weights()["ema_0.9"].items())
    assert {path: path.stat().st_mtime_ns for path in folder.checkpoints.rglob("*")} == checkpoints


def test_the_best_length_is_that_of_the_metric_that_the_sweep_went_by():
    values = {
        "eval/length_0.05/fid_1nfe": 2.0, "eval/length_0.05/accuracy_1nfe": 0.7, "eval/length_0.05/mmd_2nfe": 3.0,
        "eval/length_0.1/fid_1nfe": 1.0, "eval/length_0.1/accuracy_1nfe": 0.6, "eval/length_0.1/mmd_2nfe": 5.0,
    }  # fmt: skip

    def best(higher=("accuracy",), **evidence):
        return best_length(values, [0.05, 0.1], evidence, higher)

    assert best() == 0.1
    assert best(metric="eval/accuracy_1nfe", goal="maximize") == 0.05
    assert best(metric="eval/mmd_2nfe", goal="minimize") == 0.05
    assert best(metric="eval/none_of_these", goal="maximize") == 0.1
    assert best(higher=("fid",)) == 0.05


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["ema.length=0.5"], "must be best, or a number above 0 and below 0.28"),
        (["ema.length=bets"], "did you mean 'best'"),
        (["ema.length=best", "ema.lengths=[]"], "which is empty"),
    ],
)
def test_a_length_that_cannot_be_chosen_is_refused_before_the_start(tmp_path, words, rule):
    (tmp_path / "small.yaml").write_text(CONFIG)
    with pytest.raises(ConfigError, match=rule):
        load_config(tmp_path / "small.yaml", words)
