"""Trials of two workers on a real local Ray: what one rank meets, the other and the driver learn."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
import torch

from meanflow_core.training.checkpoint import load_checkpoint
from orchestrator.paths import Home
from orchestrator.runners import ray_tune
from orchestrator.runners.inline import run_inline
from orchestrator.runners.ray_tune import run_ray
from orchestrator.spec.settings import Resources
from orchestrator.worker import group as runner_group
from orchestrator.worker.group import WorkerGroup
from tests.orchestrator.runners.ray_trials import run, trial
from tests.orchestrator.simulation import open_engine

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def engine(local_ray, tmp_path_factory):
    """What came of six trials of two workers each, one after the other; four of them as they should, in the end."""
    root = tmp_path_factory.mktemp("teams")
    trials = [
        trial(root, "first", "Team"),
        trial(root, "second", "Team"),
        trial(root, "lost", "Team", fault="kill", fault_step=3, once=root / "happened"),
        trial(root, "rank 0", "Team", fault="bug", fault_step=3, fault_rank=0),
        trial(root, "rank 1", "Team", fault="bug", fault_step=3, fault_rank=1),
        trial(root, "last", "Team"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_tune, "NODE_PATIENCE", 0.5)  # its node lives: waiting for its end shows nothing here
        engine, _ = run(root, trials, resources=Resources(cpu=1, workers=2))
    return engine


def test_two_workers_train_one_trial_together(engine):
    for name in ("first", "second"):
        assert [r.step for r in engine.reports[name]] == [2, 4]
        assert engine.reports[name][-1].metrics["world"] == 2
        assert engine.reports[name][-1].metrics["sum_of_ranks"] == 3
        assert engine.reports[name][-1].metrics["on_rays_network"] == 1
    assert [what for what, _ in engine.events[:4]] == ["given", "report 2", "report 4", "stopped"]


def test_a_rank_that_fails_does_not_wait_for_one_that_waits_for_it(local_ray, monkeypatch):
    @ray.remote(num_cpus=0)
    def wait_long():
        time.sleep(60)

    def fail():
        raise RuntimeError("connection refused")

    monkeypatch.setattr(runner_group, "SETTLING", 0.1)
    group = object.__new__(WorkerGroup)  # of which only this method is looked at
    group._thread = ThreadPoolExecutor(1)
    other = wait_long.remote()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="connection refused"):
        group._together([other], fail)
    assert time.monotonic() - began < 30
    ray.cancel(other, force=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_fault_of_one_rank_ends_the_trial_though_the_other_waits_for_it(engine, rank):
    # A collective operation would wait for half an hour, and `run` gives up long before.
    assert engine.kinds(f"rank {rank}") == ["bug"]
    assert engine.kinds("last") == ["stopped"]


def test_a_lost_worker_of_a_trial_with_two_ends_the_attempt_and_not_the_sweep(engine):
    assert engine.kinds("lost") == ["infrastructure", "stopped"]
    assert engine.reports["lost"][-1].step == 4


def test_trials_in_shards_of_two_workers_come_to_what_whole_ones_do(local_ray, tmp_path):
    base = {
        "data": {"name": "digits"},
        "model": {"name": "dit", "width": 16, "depth": 2, "heads": 2, "patch": 4},
        "optimizer": {"lr": 0.3, "eps": 1.0},  # so that a step is nearly linear in the gradient
        "trainer": {"steps": 4, "eval_every": 2, "batch_size": 24, "device": "cpu"},
        "evaluation": {"samples": 60, "nfe": [1], "batch_size": 20},
    }
    content = {"name": "shards", "base": base, "method": "grid", "metric": {"name": "eval/fid_1nfe"}}
    content["parameters"] = {"objective.time.ratio": {"values": [0.25, 0.5]}}
    shared = {"set": {"trainer.sharding": "fsdp"}, "resources": {"cpu": 1, "workers": 2}}
    found, weights = {}, {}
    for kind, changes, drive in (("whole", {}, run_inline), ("shards", shared, run_ray)):
        engine = open_engine(Home(tmp_path / kind), {**content, **changes})
        with engine.ledger:
            drive(engine)
            found[kind] = engine.ledger.trials()
        for trial_ in found[kind]:
            last = max((engine.paths.trial(trial_.id).root / "checkpoints").glob("step-*"))
            weights[kind, trial_.id] = torch.cat([each.flatten() for each in load_checkpoint(last)["net"].values()])
    for whole, shards in zip(found["whole"], found["shards"], strict=True):
        assert (whole.state.value, shards.state.value) == ("finished", "finished"), shards.failure
        assert sorted(whole.reports) == sorted(shards.reports) == [2, 4]
        for step, report in whole.reports.items():
            assert shards.reports[step]["eval/fid_1nfe"] == pytest.approx(report["eval/fid_1nfe"], rel=1e-3)
    moved = (weights["whole", "0"] - weights["whole", "1"]).norm()
    for trial_ in "01":
        assert (weights["shards", trial_] - weights["whole", trial_]).norm() < 0.01 * moved
