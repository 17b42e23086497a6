"""Who was granted a GPU by Ray sees that one, and who was not sees none. Ray is told of GPUs that are not there."""

import pytest

from orchestrator.runners.ray_nodes import available_on_cluster
from orchestrator.runners.ray_tune import run_ray
from orchestrator.spec.settings import Resources
from orchestrator.trials.protocol import Assignment
from tests.orchestrator import toy_trainers as toys
from tests.orchestrator.runners.conftest import started_ray
from tests.orchestrator.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def gpus():
    with started_ray(num_cpus=3, num_gpus=2):
        yield


def seen(tmp_path, resources, count):
    """What each of some trials, all at once, was shown, and what the process was that loaded their data."""
    config = {**toys.config(steps=1), "data": {"offset": 0.0}}
    config["trainer"]["device"] = "cpu"  # torch is asked for no GPU, since these are not there
    trials = [
        Assignment(
            trial=str(n), sweep="s", config=config, trainer="tests.orchestrator.toy_trainers:Beholder", steps=[1],
            folder=str(tmp_path / "trials" / str(n)), metric="eval/score", resources={"cpu": 1.0},
        )
        for n in range(count)
    ]  # fmt: skip
    engine = ScriptedEngine(tmp_path, trials)
    engine.spec.resources = resources
    run_ray(engine)
    facts = [reports[0].facts for reports in engine.reports.values()]
    return sorted(fact["device"] for fact in facts), {fact["fingerprint"] for fact in facts}


def test_every_trial_sees_one_gpu_and_the_process_of_shared_data_none(gpus, tmp_path):
    devices, of_the_data = seen(tmp_path, Resources(gpu=1.0), 2)
    assert len(devices) == 2  # a worker that ends early takes the next trial, on the same GPU
    assert set(devices) <= {"0", "1"}
    assert of_the_data == {"none"}


def test_trials_without_a_grant_see_none(gpus, tmp_path):
    assert seen(tmp_path, Resources(gpu=0.0), 2) == (["none", "none"], {"none"})


def test_what_the_cluster_has_is_counted(gpus):
    there = available_on_cluster()
    assert (there["cpu"], there["gpu"]) == (3.0, 2.0)
