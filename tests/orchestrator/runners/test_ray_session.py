"""What a session with Ray does when Ray itself is gone; no Ray is needed to see it."""

import threading

import pytest

from orchestrator.runners import ray_session
from orchestrator.runners.ray_session import RAY_PATIENCE, RayGone, Session
from tests.orchestrator.scripted_engine import ScriptedEngine

NODE = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0}}
GONE = [[], [{**NODE, "Alive": False}], ConnectionError("the control process does not answer")]


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(ray_session.time, "monotonic", lambda: now[0])
    return now


def session(tmp_path, monkeypatch, answer, *, own):
    def nodes():
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    monkeypatch.setattr(ray_session, "nodes", nodes)
    return Session(ScriptedEngine(tmp_path, []), None, threading.Event(), own_ray=own)


@pytest.mark.parametrize("gone", GONE, ids=["no node", "a dead node", "no answer"])
def test_a_ray_of_its_own_that_has_died_ends_the_sweep_after_a_while(tmp_path, monkeypatch, clock, gone):
    answer = [[NODE]]
    found = session(tmp_path, monkeypatch, answer, own=True)
    found.beat()
    answer[0] = gone
    clock[0] += 2
    found.beat()
    clock[0] += RAY_PATIENCE - 1
    found.beat()
    clock[0] += 2
    with pytest.raises(RayGone, match="has died"):
        found.beat()


def test_a_node_that_is_back_in_time_is_no_death_and_a_cluster_may_get_new_nodes(tmp_path, monkeypatch, clock):
    answer = [[]]
    found = session(tmp_path, monkeypatch, answer, own=True)
    found.beat()
    clock[0] += RAY_PATIENCE - 1
    answer[0] = [NODE]
    found.beat()
    answer[0] = []
    clock[0] += 2
    found.beat()
    clock[0] += RAY_PATIENCE - 1
    found.beat()
    answer[0] = []
    other = session(tmp_path, monkeypatch, answer, own=False)
    for _ in range(3):
        clock[0] += RAY_PATIENCE
        other.beat()
