"""What kind of end an exception is: the configuration's doing, the machine's, or a bug.

Types come first, then the table of messages. What is left of a device's errors (an illegal access, an unknown error)
has no meaning of its own: if a new process can still compute there, the operation was at fault, else the device.
"""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping

from meanflow_core.errors import TrainingDiverged
from orchestrator.trials import Outcome, OutcomeKind

_ERRNO = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENODEV),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EPIPE),
}
# By name: torch and Ray need not be imported here.
_TYPES: dict[str, OutcomeKind] = {
    "MemoryError": "oom",
    "OutOfMemoryError": "oom",
    "ConnectionError": "infrastructure",
    "TimeoutError": "infrastructure",
    "CheckpointError": "infrastructure",
    "StorageError": "infrastructure",  # whatever the store says is no bug of the code
    "DistError": "infrastructure",
    # Of Ray, where what a trial asks for is lost with its node. What a task of the code raises is none of these.
    **dict.fromkeys(("RayActorError", "ObjectLostError", "NodeDiedError", "WorkerCrashedError"), "infrastructure"),
    **dict.fromkeys(
        ("RaySystemError", "LocalRayletDiedError", "ObjectStoreFullError", "OutOfDiskError"), "infrastructure"
    ),
}
_MESSAGES: tuple[tuple[OutcomeKind, str], ...] = (
    # Mistakes that come in the clothes of a sick machine.
    ("bug", r"Duplicate GPU detected|device-side assert|no kernel image is available|driver version is insufficient"),
    # Memory. Libraries cannot make their handles where none is left, and the allocator's own report of it may fail.
    ("oom", r"out of memory|can(?:'|no)t allocate memory|NVML_SUCCESS == .*INTERNAL ASSERT FAILED"),
    ("oom", r"\bMemoryError\b"),  # of a program's traceback
    ("oom", r"(?:CU|HIP)[A-Z]+_STATUS_(?:ALLOC_FAILED|NOT_INITIALIZED|INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)"),
    ("oom", r"CUFFT_ALLOC_FAILED|rocblas_status_memory_error|miopenStatusAllocFailed|valid cuDNN algorithm to run"),
    # The device, or its driver.
    ("infrastructure", r"device\(s\) is/are busy or unavailable|system not yet initialized|hardware stack error"),
    ("infrastructure", r"no (?:CUDA|HIP) GPUs are available|no (?:CUDA|ROCm)-capable device|hipErrorNoDevice"),
    ("infrastructure", r"GPU is lost|fallen off the bus|Found no NVIDIA driver|unsupported display driver"),
    ("infrastructure", r"driver/library version mismatch|forward compatibility was attempted on non supported HW"),
    ("infrastructure", r"driver initialization failed|initialization error|driver shutting down|NVLink"),
    ("infrastructure", r"uncorrectable ECC|unspecified launch failure|mapping of buffer object failed|\bXid\b"),
    ("infrastructure", r"cudaError(?:DevicesUnavailable|SystemNotReady|ECCUncorrectable|HardwareStackError|NoDevice)"),
    ("infrastructure", r"MPS (?:server|client)"),
    # What joins processes, and what they share.
    ("infrastructure", r"NCCL (?:error|timeout|failure)|NCCL watchdog|NCCL communicator was aborted|DistStoreError"),
    ("infrastructure", r"nccl(?:System|Internal|Remote|UnhandledCuda)Error|unhandled (?:system|cuda) error"),
    ("infrastructure", r"collective operation timeout|NCCL operations have failed|communicator was aborted"),
    ("infrastructure", r"store based barrier|Gloo connectFullMesh|timeout caused pair closure|Timed out waiting"),
    ("infrastructure", r"bus error|insufficient shared memory|\(shm\)|received 0 items of ancdata"),
    ("infrastructure", r"DataLoader worker .*exited unexpectedly|killed by SIG(?:KILL|TERM|HUP|BUS)"),
    ("infrastructure", r"Connection (?:reset|refused|closed|timed out|aborted)|Broken pipe|(?:Read|Socket) timeout"),
    ("infrastructure", r"No route to host|(?:Network|Host) is (?:unreachable|down)|Name or service not known"),
    ("infrastructure", r"Temporary failure in name resolution|no space left|Too many open files|Stale file handle"),
    ("infrastructure", r"Transport endpoint is not connected|Input/output error|Remote I/O error"),
)
_TABLE = tuple((kind, re.compile(pattern, re.I)) for kind, pattern in _MESSAGES)
_DEVICE_ERROR = re.compile(
    r"^(?:CUDA|HIP|CUDA driver|cuDNN|CUBLAS|cuBLAS|cuSOLVER|cuSPARSE|cuFFT|cuRAND|MIOpen|rocBLAS|hipBLAS) error"
    r"|^Unexpected error from cuda|^Triton Error \[(?:CUDA|HIP)\]|miopenStatus|rocblas_status|CUFFT_"
    r"|(?:CU|HIP)[A-Z]+_STATUS_",
    re.I,
)
_PROGRAM = "import torch; x = torch.ones(64, 64, device='cuda'); assert float((x @ x).sum()) == 64**3"
_PATIENCE = 90.0
"""Seconds for a new process to compute something on the device."""


def classify(
    exception: BaseException,
    *,
    last_step: int = 0,
    last_finite: Mapping[str, float] | None = None,
    device_answers: Callable[[], bool] | None = None,
) -> Outcome:
    """Say what kind of end an exception is: diverged, out of memory, infrastructure, or a bug.

    Args:
        exception: what `run_trial` raised.
        last_step: the last step that was reported.
        last_finite: the last reported metrics.
        device_answers: whether a new process can compute on this one's GPU; asked only where an error does not say.
    """
    finite = dict(last_finite or {})
    kind: OutcomeKind = "bug"
    reason = f"{type(exception).__name__}: {exception}"
    for cause in _chain(exception):
        found = _kind_of(cause, device_answers or _device_answers)
        if found is None:
            continue
        kind, reason = found, f"{type(cause).__name__}: {cause}"
        if isinstance(cause, TrainingDiverged):
            reason, finite = str(cause), cause.last_finite or finite
        elif kind != "diverged":
            reason = reason.splitlines()[0]
        break
    if type(exception).__name__ == "ProgramFailed":
        reason = str(exception).splitlines()[0]  # the lines of its log are in the traceback
    text = "".join(traceback.format_exception(exception))
    return Outcome(kind=kind, reason=reason, traceback=text, last_step=last_step, last_finite=finite)


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """Yield the exception and its explicit causes (`raise ... from cause`), innermost last."""
    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def _kind_of(error: BaseException, device_answers: Callable[[], bool]) -> OutcomeKind | None:
    """Return the kind of one exception; None: it says nothing, and its cause may."""
    if isinstance(error, TrainingDiverged | FloatingPointError):
        return "diverged"
    text = str(error)
    by_message = isinstance(error, RuntimeError | OSError)
    said = next((kind for kind, pattern in _TABLE if by_message and pattern.search(text)), None)
    named = next((_TYPES[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in _TYPES), None)
    if said == "bug" or named is None:
        named = said
    if named is None and isinstance(error, OSError) and error.errno in _ERRNO:
        return "infrastructure"
    if named is None and by_message and _of_device(error, text):
        return "bug" if device_answers() else "infrastructure"
    return named


def _of_device(error: BaseException, text: str) -> bool:
    """Whether the operation that failed was the device's."""
    return type(error).__name__ == "AcceleratorError" or bool(_DEVICE_ERROR.search(text))


def _device_answers() -> bool:
    """Whether a new process can compute on the GPU that this one sees (this one's own context may be broken)."""
    try:
        done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, timeout=_PATIENCE)
    except (subprocess.TimeoutExpired, OSError):
        return False
    return done.returncode == 0
