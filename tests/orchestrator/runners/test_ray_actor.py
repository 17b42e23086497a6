"""When a worker takes a trial, and when it is not used again; without Ray, in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator.runners import ray_actor as runner_worker
from orchestrator.runners.ray_actor import LEFTOVER_BYTES, NotUsedAgain, TrialWorker
from orchestrator.spec.settings import Resources
from orchestrator.trials.protocol import Assignment, Report
from orchestrator.worker.process import Work, leftover_memory
from orchestrator.worker.trial_loop import free_memory


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What a worker did, in order; its trials end without a report."""
    seen: list[Any] = []

    def trial(work: Work) -> Iterator[Report]:
        seen.append("trial")
        yield from ()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner_worker, "prepare_process", lambda work: seen.append("prepared"))
    monkeypatch.setattr(runner_worker, "wait_for_gpu_memory", lambda share: seen.append(f"waited for {share}"))
    monkeypatch.setattr(runner_worker, "run_on_this_worker", trial)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    return seen


def worker(tmp_path: Path) -> TrialWorker:
    made = TrialWorker.__new__(TrialWorker)
    assignment = Assignment(trial="0", sweep="s", config={}, trainer="m:T", steps=[1])
    made.setup({"work": Work(assignment, Resources(cpu=1, gpu=0.25), str(tmp_path))})
    return made


def test_a_new_worker_waits_for_its_share_of_the_gpu_before_it_begins(happened: list[Any], tmp_path: Path) -> None:
    worker(tmp_path).step()
    assert happened == ["prepared", "waited for 0.25", "trial"]


@pytest.mark.parametrize(("left", "again"), [(LEFTOVER_BYTES, True), (LEFTOVER_BYTES + 1, False)])
def test_a_process_in_which_a_trial_left_gpu_memory_is_not_used_again(
    happened: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, again: bool
) -> None:
    monkeypatch.setattr(runner_worker, "leftover_memory", lambda: left)
    made = worker(tmp_path)
    result = made.step()
    assert result["outcome"].kind == "finished"
    assert result["failed"] is not again
    if not again:
        with pytest.raises(NotUsedAgain):
            made.step()


def test_the_memory_of_a_trial_goes_back_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[bool] = []
    cuda = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, empty_cache=lambda: given_back.append(True)
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    free_memory()
    assert given_back == [True]


MIB = 2**20


def test_the_pools_of_graphs_that_are_kept_are_no_leftover_and_live_tensors_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch reports it: a segment of the allocator's own pool has the id (0, 0)."""
    import torch

    import meanflow_core.training.graphs  # noqa: F401 (a trial that compiled has imported it)

    def segment(mib: int, pool: tuple[int, int]) -> dict[str, Any]:
        return {"total_size": mib * MIB, "segment_pool_id": pool}

    segments = [segment(20, (0, 0)), segment(174, (0, 1)), segment(600, (1, 7))]
    for name, value in {"is_available": True, "is_initialized": True, "memory_reserved": 794 * MIB}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    assert leftover_memory() == 20 * MIB
    segments[0] = segment(400, (0, 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 1174 * MIB)
    assert leftover_memory() == 400 * MIB > LEFTOVER_BYTES
    monkeypatch.delitem(sys.modules, "meanflow_core.training.graphs")  # another trainer's graphs are nobody's
    assert leftover_memory() == 1174 * MIB
