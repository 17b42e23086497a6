"""What the errors of sick machines, full devices and broken code are called."""

import pytest
import torch

from meanflow_core.training.checkpoint import CheckpointError
from orchestrator.worker.failure_kinds import classify


def kind(error, answers=None):
    def device_answers():
        assert answers is not None, "nothing is to be asked of the device"
        return answers

    return classify(error, device_answers=device_answers).kind


def named(name, *bases):
    return type(name, bases or (RuntimeError,), {})


Accelerator = getattr(torch, "AcceleratorError", named("AcceleratorError"))


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "CUDA error: system not yet initialized",
        "No CUDA GPUs are available",
        "CUDA error: hardware stack error",
        "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.  Reboot the system to recover",
        "CUDA driver initialization failed, you might not have a CUDA gpu.",
        "[Rank 1] NCCL watchdog thread terminated with exception: CUDA error: unspecified launch failure",
        "NCCL communicator was aborted on rank 1.",
        "CUDA error: uncorrectable ECC error encountered",
        "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers "
        "are out of shared memory. Please try to raise your shared memory limit.",
        "Connection reset by peer",
    ],
)
def test_messages_of_sick_machines_are_faults_of_the_machine(said):
    assert kind(RuntimeError(said)) == "infrastructure"


@pytest.mark.parametrize("name", ["DistBackendError", "DistNetworkError", "DistStoreError"])
def test_errors_of_the_process_group_are_faults_of_the_machine(name):
    assert (
        kind(getattr(torch.distributed, name)("wait timeout after 600000ms, keys: /default_pg/0/1")) == "infrastructure"
    )
    assert kind(CheckpointError("damaged")) == "infrastructure"


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_a_library_that_cannot_make_its_handle_is_out_of_memory(said):
    assert kind(RuntimeError(said)) == "oom"
    assert kind(torch.OutOfMemoryError(said)) == "oom"


def test_two_ranks_on_one_gpu_are_a_mistake_though_nccl_reports_it():
    said = (
        "NCCL error in: NCCLUtils.cpp:93, invalid usage, NCCL version 2.28.9\nncclInvalidUsage: This usually reflects "
        "invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 0 and rank 1 both on CUDA device 60"
    )
    assert kind(torch.distributed.DistBackendError(said)) == "bug"


@pytest.mark.parametrize("said", ["CUDA error: unknown error", "CUDA error: an illegal memory access was encountered"])
@pytest.mark.parametrize("type_", [RuntimeError, Accelerator])
def test_a_device_error_that_says_nothing_is_the_codes_if_the_device_still_answers(said, type_):
    assert kind(type_(said), answers=True) == "bug"
    assert kind(type_(said), answers=False) == "infrastructure"


def test_an_assert_in_a_kernel_is_a_bug_and_nobody_is_asked():
    assert kind(RuntimeError("CUDA error: device-side assert triggered")) == "bug"


def test_words_of_the_code_itself_are_no_sign_of_a_sick_machine():
    assert kind(ValueError("the table has no CUDA GPUs are available column")) == "bug"
    assert kind(KeyError("Connection reset by peer")) == "bug"
    assert kind(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == "bug"


def test_the_cause_of_an_error_counts_where_it_says_nothing_itself():
    error = RuntimeError("the trainer could not start")
    error.__cause__ = RuntimeError("CUDA error: system not yet initialized")
    assert kind(error) == "infrastructure"
