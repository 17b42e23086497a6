"""The runner without Ray keeps the contract, and can be interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.engine.engine import Engine
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.trials.trial import TrialState
from tests.orchestrator import toy
from tests.orchestrator.contract import Ran, RunnerContract, RunSweep
from tests.orchestrator.simulation import open_engine

DRIVER = """
import json, sys
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from tests.orchestrator.simulation import open_engine
engine = open_engine(Home(__import__("pathlib").Path(sys.argv[1])), json.loads(sys.argv[2]))
print("ready", flush=True)
print(run_inline(engine).state)
"""


class TestInline(RunnerContract):
    @pytest.fixture
    def run_sweep(self, home: Home) -> RunSweep:
        def run(content: dict[str, object]) -> Ran:
            engine = open_engine(home, content)
            with engine.ledger:
                return Ran(run_inline(engine), engine.paths)

        return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_cleanly_and_the_trial_goes_on_later(tmp_path: Path, number: signal.Signals) -> None:
    import json

    content = toy.sweep(run_cap=2, **toy.trained("Slow", nap=0.3))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), json.dumps(content)], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    paths = Home(tmp_path).sweep("toy")
    deadline = time.monotonic() + 60
    while not any(trial.steps >= 30 for trial in Ledger.open(paths).trials()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, number)
    assert driver.communicate(timeout=60)[0] == "interrupted\n"
    ledger = Ledger.open(paths)
    assert ledger.state().state == "interrupted"
    assert ledger.trials()[0].state is TrialState.WAITING
    assert ledger.trials()[0].steps in (30, 60)
    engine = open_engine(Home(tmp_path), content)
    with engine.ledger:
        status = run_inline(engine)
    assert status.counts["finished"] == 2
    assert [attempt for trial in engine.ledger.trials() for attempt in trial.attempts] == []


def test_a_callback_sees_every_report(tmp_path: Path) -> None:
    engine = open_engine(Home(tmp_path), toy.grid(x=(0.2,)))
    seen: list[int] = []

    def look(engine: Engine) -> None:
        seen.append(engine.ledger.trials()[0].steps)

    with engine.ledger:
        run_inline(engine, on_event=look)
    assert seen == [30, 60, 90, 90]
