"""The use of a GPU as metrics; without a GPU, torch's answers are made up here."""

import pytest
import torch

from meanflow_core.training.device_metrics import device_metrics


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: {3: (60_000_000, 80_000_000)}[index])
    monkeypatch.setattr(torch.cuda, "utilization", lambda index: {3: 97}[index])
    return torch.device("cuda", 3)


def test_a_gpu_is_shown_under_the_names_of_mlflows_system_metrics(gpu):
    assert device_metrics(gpu) == {
        "system/gpu_3_memory_usage_megabytes": 20.0,
        "system/gpu_3_memory_usage_percentage": 25.0,
        "system/gpu_3_utilization_percentage": 97.0,
    }


def test_without_nvidias_package_the_memory_is_shown_alone(gpu, monkeypatch):
    def missing(index):
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "utilization", missing)
    assert len(device_metrics(gpu)) == 2


@pytest.mark.parametrize(
    "error", [RuntimeError, AttributeError, OSError, type("NVMLError_NotSupported", (Exception,), {})]
)
def test_a_driver_that_does_not_tell_costs_its_figures_and_nothing_else(gpu, monkeypatch, error):
    def fails(index):
        raise error("Not Supported")

    monkeypatch.setattr(torch.cuda, "utilization", fails)
    assert list(device_metrics(gpu)) == [
        "system/gpu_3_memory_usage_megabytes",
        "system/gpu_3_memory_usage_percentage",
    ]
    monkeypatch.setattr(torch.cuda, "mem_get_info", fails)
    assert device_metrics(gpu) == {}


def test_a_cpu_is_not_asked():
    assert device_metrics(torch.device("cpu")) == {}
