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
from orchestrator.worker.process import Work
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
