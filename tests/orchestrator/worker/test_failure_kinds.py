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
        # other wordings of NCCL and c10d
        "NCCL error in: NCCLUtils.cpp:93, unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
        "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, "
        "NumelIn=466119168, Timeout(ms)=600000) ran for 600004 milliseconds before timing out.",
        "Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels, subsequent GPU "
        "operations might run on corrupted/incomplete data.",
        "Timed out initializing process group in store based barrier on rank: 1, for key: store_based_barrier_key:1",
        # of gloo
        "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:136] Timed out waiting 1800000ms for send operation "
        "to complete",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:589] Read error [192.168.70.92]:25266: Connection timed out",
        "[third_party/gloo/gloo/transport/tcp/pair.cc:598] Connection closed by remote peer [172.28.0.12]:14004",
        "[gloo/transport/tcp/pair.cc:144] writev [10.0.0.7]:31254: Broken pipe",
        "Application timeout caused pair closure",
        "Gloo connectFullMesh failed with [gloo/transport/tcp/device.cc:202] connect: No route to host",
        # of drivers
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() "
        "that might have already set an error? Error 803: system has unsupported display driver / cuda driver "
        "combination",
        "Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted on non supported "
        "HW",
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver",
        "Failed to initialize NVML: Driver/library version mismatch",
        "CUDA error: the MPS server is not ready to accept new MPS client requests",
        "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        "CUDA error: cudaErrorDevicesUnavailable",
        # of ROCm
        "No HIP GPUs are available",
        "HIP error: no ROCm-capable device is detected",
        "HIP error: hipErrorNoDevice",
        # of what processes share
        "DataLoader worker (pid(s) 31, 32) exited unexpectedly",
        "received 0 items of ancdata",
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
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
        "MIOpen error: miopenStatusAllocFailed",
        "HIP out of memory. Tried to allocate 2.00 GiB.",
        "Triton Error [CUDA]: out of memory",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":830, please report a bug',
    ],
)
def test_a_library_that_cannot_make_its_handle_is_out_of_memory(said):
    assert kind(RuntimeError(said)) == "oom"
    assert kind(torch.OutOfMemoryError(said)) == "oom"


@pytest.mark.parametrize("name", ["ActorDiedError", "ActorUnavailableError", "OwnerDiedError", "NodeDiedError"])
def test_what_a_lost_node_takes_along_is_a_fault_of_the_machine(name):
    from ray import exceptions

    lost = named("Lost", getattr(exceptions, name))
    lost.__init__, lost.__str__ = Exception.__init__, lambda self: "its node is gone"
    assert kind(lost()) == "infrastructure"
    raised = exceptions.RayTaskError("load", "Traceback ...", KeyError("x")).as_instanceof_cause()
    assert kind(raised) == "bug"  # of the code that a task ran


def test_two_ranks_on_one_gpu_are_a_mistake_though_nccl_reports_it():
    said = (
        "NCCL error in: NCCLUtils.cpp:93, invalid usage, NCCL version 2.28.9\nncclInvalidUsage: This usually reflects "
        "invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 0 and rank 1 both on CUDA device 60"
    )
    assert kind(torch.distributed.DistBackendError(said)) == "bug"


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: unknown error",
        "CUDA error: an illegal memory access was encountered",
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() "
        "that might have already set an error? Error 999: unknown error",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnSgetrf`",
        "HIP error: an illegal memory access was encountered",
        "miopenStatusUnknownError",
    ],
)
@pytest.mark.parametrize("type_", [RuntimeError, Accelerator])
def test_a_device_error_that_says_nothing_is_the_codes_if_the_device_still_answers(said, type_):
    assert kind(type_(said), answers=True) == "bug"
    assert kind(type_(said), answers=False) == "infrastructure"


def test_an_assert_in_a_kernel_is_a_bug_and_nobody_is_asked():
    assert kind(RuntimeError("CUDA error: device-side assert triggered")) == "bug"


def test_words_of_the_code_itself_are_no_sign_of_a_sick_machine():
    assert kind(ValueError("the table has no CUDA GPUs are available column")) == "bug"
    assert kind(KeyError("Connection reset by peer")) == "bug"
    assert kind(RuntimeError("the hexid of a row must be text")) == "bug"
    assert kind(RuntimeError("expected scalar type Float but found Half")) == "bug"
    assert kind(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == "bug"


def test_the_cause_of_an_error_counts_where_it_says_nothing_itself():
    error = RuntimeError("the trainer could not start")
    error.__cause__ = RuntimeError("CUDA error: system not yet initialized")
    assert kind(error) == "infrastructure"
