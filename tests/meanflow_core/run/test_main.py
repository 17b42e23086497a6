import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from meanflow_core.__main__ import main
from meanflow_core.config import load_config
from meanflow_core.run.folder import RunFolder
from meanflow_core.run.runner import train_in_folder
from meanflow_core.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from meanflow_core.training.trainer import Trainer

CONFIG = """\
model: {name: mlp, width: 16, depth: 1}
ema: {decays: [0.9]}
trainer: {steps: 9, batch_size: 16, log_every: 2, eval_every: 6, checkpoint_every: 4, device: cpu}
evaluation: {samples: 40, nfe: [1]}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_writes_its_configuration_metrics_checkpoints_and_weights(tmp_path, config, capsys):
    out = tmp_path / "run"
    assert main(["train", str(config), "--out", str(out), "seed=4"]) == 0
    assert load_config(out / "config.yaml").seed == 4
    assert RunFolder(out).steps() == [8, 9]  # every 4 and the last; two are kept
    logged = rows(out)
    assert [row["step"] for row in logged if "train/loss" in row] == [2, 4, 6, 8, 9]
    assert [row["step"] for row in logged if "eval/fid_1nfe" in row] == [6, 9]
    assert (out / "weights.safetensors").exists()
    assert "eval/fid_1nfe" not in capsys.readouterr().out  # short names on the screen


def test_the_same_command_goes_on_and_another_configuration_is_refused(tmp_path, config, capsys):
    out = tmp_path / "run"
    assert main(["train", str(config), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["train", str(config), "--out", str(out)]) == 0
    assert "going on from step 9 of 9" in capsys.readouterr().out
    assert main(["train", str(config), "--out", str(out), "optimizer.lr=0.5"]) == 2
    said = capsys.readouterr().err
    assert "holds the training of another configuration (optimizer.lr: " in said
    assert " 0.5 here)" in said


def test_a_finished_training_can_be_made_longer_and_says_so(tmp_path, config, capsys):
    out = tmp_path / "run"
    words = ["optimizer.schedule=cosine", "optimizer.lr=0.01"]
    assert main(["train", str(config), "--out", str(out), *words]) == 0
    lr = rows(out)[-2]["train/lr"]
    capsys.readouterr()
    assert main(["train", str(config), "--out", str(out), *words, "trainer.steps=14"]) == 0
    said = capsys.readouterr().out
    assert "made longer: 9 -> 14 steps; from here on, schedules are those of the new length" in said
    assert "going on from step 9 of 14" in said
    assert RunFolder(out).steps()[-1] == 14
    assert load_config(out / "config.yaml").trainer.steps == 14
    assert max(row.get("train/lr", 0) for row in rows(out) if row["step"] > 9) > 2 * lr
    assert main(["train", str(config), "--out", str(out), *words, "trainer.steps=9"]) == 2  # never shorter
    assert main(["train", str(config), "--out", str(out), "trainer.steps=20"]) == 2  # nor another one


def test_a_batch_too_small_for_its_ratio_is_said_to_be_flow_matching(tmp_path, config, capsys):
    words = ["trainer.batch_size=2", "trainer.steps=1", "trainer.checkpoint_every=1"]
    assert main(["train", str(config), "--out", str(tmp_path / "run"), *words]) == 0
    said = capsys.readouterr().out
    assert (
        "objective.time.ratio: of 2 rows (`trainer.batch_size`) this is none with r != t: plain flow matching" in said
    )


def test_what_was_found_of_the_derivative_stands_in_the_folder(tmp_path, config):
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "trainer.steps=2"]) == 0
    (line,) = json.loads((tmp_path / "run" / "record.json").read_text())["derivative"]
    assert line.startswith("du/dt by row_dual")


def test_a_killed_training_goes_on_to_the_same_bits_and_the_same_log(tmp_path, config):
    words = ["trainer.steps=3000", "trainer.checkpoint_every=50", "trainer.eval_every=1000", "trainer.log_every=50"]
    out, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "meanflow_core", "train", str(config), "--out", str(out), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while len(RunFolder(out).steps()) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    reached = RunFolder(out).steps()[-1]
    steps = f"trainer.steps={reached + 100}"
    config_file = out / "config.yaml"
    config_file.write_text(config_file.read_text().replace("steps: 3000", f"steps: {reached + 100}"))
    assert main(["train", str(out)]) == 0
    assert main(["train", str(config), "--out", str(whole), *words, steps]) == 0
    states = [load_checkpoint(folder / "checkpoints" / f"step-{reached + 100}") for folder in (out, whole)]
    for name in ("net", "optimizer", "ema"):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=0, atol=0)
    drop = "train/steps_per_second"
    logs = [[{k: v for k, v in row.items() if k != drop} for row in rows(folder)] for folder in (out, whole)]
    assert logs[0] == logs[1]


def test_a_training_goes_on_while_its_checkpoint_is_written(tmp_path, config, monkeypatch):
    slow, written, seen = threading.Event(), [], []

    def save(place, state):
        assert slow.wait(60), "the training waits for its own checkpoint"
        written.append(state.plain["step"])
        save_checkpoint(place, state)

    def row(step, values):
        seen.append((step, list(written)))
        if step == 6:
            slow.set()

    monkeypatch.setattr("meanflow_core.run.folder.save_checkpoint", save)
    trainer = train_in_folder(load_config(config), tmp_path / "run", on_row=row)
    assert (6, []) in seen  # two steps beyond the checkpoint of step 4
    assert written == [4, 8, 9]
    alone = Trainer(load_config(config))
    alone.train(8)
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / "step-8")
    torch.testing.assert_close(saved["net"], dict(alone.net.state_dict()), rtol=0, atol=0)
    assert load_weights(tmp_path / "run" / "weights.safetensors")[1]["step"] == trainer.step == 9


def test_a_checkpoint_that_cannot_be_written_ends_the_training_at_the_next_row(tmp_path, config, monkeypatch):
    def save(place, state):
        if state.plain["step"] == 8:
            raise OSError(28, "No space left on device")
        save_checkpoint(place, state)

    monkeypatch.setattr("meanflow_core.run.folder.save_checkpoint", save)
    with pytest.raises(OSError, match="No space left"):
        train_in_folder(load_config(config), tmp_path / "run")
    assert RunFolder(tmp_path / "run").steps() == [4]


def test_to_look_at_a_training_changes_nothing_in_its_folder(tmp_path, config):
    out = tmp_path / "run"
    assert main(["train", str(config), "--out", str(out)]) == 0
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "train/loss": 1.0}\n')  # another process trains on
    (out / "checkpoints" / ".step-12.7.tmp").mkdir()
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    assert main(["evaluate", str(out)]) == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before


def test_sampling_and_evaluating_use_the_last_checkpoint(tmp_path, config, capsys):
    out = tmp_path / "run"
    assert main(["sample", str(config), "--out", str(out)]) == 1
    assert "no checkpoint here; train first" in capsys.readouterr().err
    assert main(["train", str(config), "--out", str(out)]) == 0
    assert main(["sample", str(out), "--nfe", "2"]) == 0
    from PIL import Image

    assert Image.open(out / "samples-step-9-2nfe.png").size == (342, 342)
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 9
    assert result["metrics"]["eval/fid_1nfe"] == pytest.approx(rows(out)[-1]["eval/fid_1nfe"])
    assert result["protocol"]["samples"] == 40


def test_samples_of_a_network_that_is_told_the_scale_are_drawn_at_it(tmp_path, config, capsys):
    out = tmp_path / "run"
    words = ["objective.guidance.input=true", "evaluation.guidance=[1, 3]", "optimizer.lr=0.1", "ema.decays=[]"]
    assert main(["train", str(config), *words, "--out", str(out)]) == 0
    assert "eval/best_fid_1nfe" in rows(out)[-1]
    pictures = [tmp_path / f"{scale}.png" for scale in ("first", "1", "3")]
    for picture in pictures:
        asked = [] if picture.stem == "first" else ["--guidance", picture.stem]
        assert main(["sample", str(out), *asked, "--picture", str(picture)]) == 0
    first, one, three = (picture.read_bytes() for picture in pictures)
    assert first == one != three
    assert main(["sample", str(out), "--guidance", "0.5"]) == 2
    assert "--guidance: must be 1 (no guidance) or more" in capsys.readouterr().err
    assert main(["sample", str(config), "--guidance", "2"]) == 2
    assert "has its guidance built in" in capsys.readouterr().err


def test_wrong_input_ends_with_two_and_says_what_is_wrong(tmp_path, config, capsys):
    assert main(["train", str(config), "optimizer.lrr=1", "--out", str(tmp_path / "x")]) == 2
    assert "did you mean 'optimizer.lr'" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "none.yaml")]) == 2
    assert main(["sample", str(config), "--nfe", "0"]) == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["train"])
    assert capsys.readouterr().err.endswith("required: config\n")  # overrides are not
    assert not (tmp_path / "x").exists()


def test_a_divergence_ends_with_one_and_its_reason(tmp_path, config, capsys):
    words = ["optimizer.lr=1000", "trainer.steps=200"]
    assert main(["train", str(config), "--out", str(tmp_path / "x"), *words]) == 1
    assert "diverged at step" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(tmp_path, config, capsys):
    out = tmp_path / "run"
    assert main(["train", str(config), "--out", str(out)]) == 0
    (out / "checkpoints" / "step-9" / "tensors.safetensors").write_bytes(b"x")
    assert main(["train", str(config), "--out", str(out)]) == 1
    assert "step-9/tensors.safetensors: damaged" in capsys.readouterr().err


def test_the_core_trains_where_only_its_own_dependencies_are_installed():
    code = """
import importlib.metadata, re, sys
plain = lambda name: re.sub("[-_.]+", "-", name).lower()
here = {plain(d.name): d for d in importlib.metadata.distributions()}
wanted, kept = ["torch", "numpy", "omegaconf", "safetensors", "pyyaml"], set()  # and what these need themselves
while wanted:
    name = wanted.pop()
    if name in here and name not in kept:
        kept.add(name)
        needs = [line for line in here[name].requires or () if "extra ==" not in line]
        wanted += [plain(re.match("[A-Za-z0-9._-]+", line)[0]) for line in needs]
modules = importlib.metadata.packages_distributions()
refused = {m for m, names in modules.items() if not kept & set(map(plain, names))} - {"meanflow_core"}
assert {"ray", "mlflow", "optuna", "sklearn", "scipy", "pandas", "PIL", "orchestrator"} <= refused
from importlib.machinery import PathFinder
class Hide(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in refused else super().find_spec(name, path, target)
sys.meta_path = [Hide if finder is PathFinder else finder for finder in sys.meta_path]
import pkgutil, importlib, meanflow_core
for module in pkgutil.walk_packages(meanflow_core.__path__, "meanflow_core."):
    if not module.name.endswith(("__main__", "attention_kernel")):  # the kernel needs Triton, its caller asks
        importlib.import_module(module.name)
from meanflow_core import Trainer
t = Trainer({"model": {"name": "mlp", "width": 8, "depth": 1}, "trainer": {"batch_size": 8, "device": "cpu"},
             "evaluation": {"samples": 20, "nfe": [1]}})
t.train(2)
assert "eval/fid_1nfe" in t.evaluate()
assert not refused & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_reading_the_configuration_fails_before_torch_is_imported():
    code = """
import sys
from meanflow_core.__main__ import main
assert main(["train", "nowhere.yaml"]) == 2
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)


def test_a_trainer_of_a_whole_run_is_the_trainer_of_its_parts(tmp_path, config):
    out = tmp_path / "run"
    main(["train", str(config), "--out", str(out)])
    trainer = Trainer(load_config(config))
    trainer.train(9)
    saved = load_checkpoint(out / "checkpoints" / "step-9")["net"]
    torch.testing.assert_close(saved, dict(trainer.net.state_dict()), rtol=0, atol=0)
