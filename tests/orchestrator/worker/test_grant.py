"""A process sees the GPUs it was granted and trains on no CPU instead; torch's answers are made up here."""

import os
import sys
from types import SimpleNamespace

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.spec.settings import Resources
from orchestrator.trials.protocol import Assignment
from orchestrator.worker.failure_kinds import classify
from orchestrator.worker.grant import demand_granted, granted
from orchestrator.worker.process import Work, prepare_process


def work(gpu):
    assignment = Assignment(
        trial="0", sweep="s", config={}, trainer="a:B", steps=[1], folder="/nowhere", metric="m", resources={}
    )
    return Work(assignment, Resources(gpu=gpu), "/")


@pytest.fixture
def shown(monkeypatch):
    """The variables of a process to which everything is shown."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,1")


def test_a_worker_without_a_grant_sees_no_gpu(shown):
    prepare_process(work(0.0))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["HIP_VISIBLE_DEVICES"] == ""


def test_a_worker_with_one_sees_what_ray_shows_it(shown):
    prepare_process(work(0.5))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_a_block_without_a_grant_hides_gpus_and_puts_them_back(shown, monkeypatch):
    monkeypatch.delenv("HIP_VISIBLE_DEVICES")
    with granted(0.0):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["HIP_VISIBLE_DEVICES"] == ""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "HIP_VISIBLE_DEVICES" not in os.environ
    with granted(1.0):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def torch_that(monkeypatch, *, built, answers):
    torch = SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda="13.0" if built else None, hip=None),
        cuda=SimpleNamespace(is_available=lambda: answers),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_a_gpu_that_was_granted_and_does_not_answer_is_a_fault_of_the_machine(monkeypatch):
    torch_that(monkeypatch, built=True, answers=False)
    with pytest.raises(RuntimeError, match=r"granted 1 .*nvidia-smi") as caught:
        demand_granted(1.0, {"trainer": {"device": "auto"}})
    assert classify(caught.value).kind == "infrastructure"


def test_a_torch_that_can_use_none_is_a_mistake(monkeypatch):
    torch_that(monkeypatch, built=False, answers=False)
    with pytest.raises(ConfigError, match="built without CUDA"):
        demand_granted(0.5, {"trainer": {}})


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "auto"), (1.0, "cpu")])
def test_who_wants_no_gpu_needs_none(monkeypatch, gpus, device):
    torch_that(monkeypatch, built=True, answers=False)
    demand_granted(gpus, {"trainer": {"device": device}})


def test_a_gpu_that_answers_is_well(monkeypatch):
    torch_that(monkeypatch, built=True, answers=True)
    demand_granted(1.0, {"trainer": {"device": "auto"}})
