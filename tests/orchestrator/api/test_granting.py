"""How many GPUs a trial gets where the sweep file does not say."""

import pytest

from orchestrator.api.granting import with_grant
from orchestrator.spec.sweep import read_spec
from tests import ROOT

QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"


def read_with_grant(file, words, on_cluster=False):
    return with_grant(read_spec(file, words), file, words, on_cluster=on_cluster)


@pytest.fixture
def there(monkeypatch):
    """What this machine and the cluster have."""
    here, cluster = {"cpu": 2.0, "gpu": 0.0}, {"cpu": 64.0, "gpu": 8.0}
    monkeypatch.setattr("orchestrator.planning.probe.available_here", lambda: here)
    monkeypatch.setattr("orchestrator.runners.ray_nodes.available_on_cluster", lambda: cluster)
    return here


def test_each_worker_gets_one_gpu_where_this_machine_has_any_and_it_is_said(there):
    there["gpu"] = 2.0
    spec, available = read_with_grant(QUICKSTART, ["resources.workers=2"])
    assert (spec.resources.gpu, available["gpu"]) == (1.0, 2.0)
    assert spec.notes[0].startswith("this machine has 2 GPUs: resources.gpu is 1 a worker")
    assert spec.source["sweep"]["resources"]["gpu"] == 1  # so that the ledger has it, and `resume` does the same


@pytest.mark.parametrize("words", [["resources.gpu=0"], ["resources.gpu=0.5"], ["set.trainer.device=cpu"]])
def test_what_the_file_says_stays(there, words):
    there["gpu"] = 2.0
    spec, _ = read_with_grant(QUICKSTART, words)
    assert spec.resources.gpu in (0.0, 0.5)
    assert not any("resources.gpu" in note for note in spec.notes)


def test_without_a_gpu_there_is_none_to_get(there):
    assert read_with_grant(QUICKSTART, [])[0].resources.gpu == 0


def test_on_a_cluster_its_gpus_count_and_not_those_of_this_machine(there):
    spec, available = read_with_grant(QUICKSTART, [], on_cluster=True)
    assert (spec.resources.gpu, available["cpu"]) == (1.0, 64.0)
    assert spec.notes[0].startswith("the cluster has 8 GPUs")
