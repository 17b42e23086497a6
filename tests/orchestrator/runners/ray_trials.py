"""Trials of a few lines for the Ray runner, and a run of them by a scripted engine."""

from __future__ import annotations

import time

from orchestrator.runners.ray_tune import run_ray
from orchestrator.trials.protocol import Assignment
from tests.orchestrator import toy_trainers as toys
from tests.orchestrator.scripted_engine import ScriptedEngine

TOYS = "tests.orchestrator.toy_trainers"


def trial(root, name, kind="Toy", *, steps=(2, 4), data=None, **toy):
    config = {**toys.config(steps=steps[-1], **toy), "data": data}
    return Assignment(
        trial=name, sweep="s", config=config, trainer=kind if ":" in kind else f"{TOYS}:{kind}", steps=list(steps),
        folder=str(root / "trials" / name), metric="eval/score", resources={"cpu": 1.0},
    )  # fmt: skip


def run(root, trials, *, deadline=240, on_event=None, **options):
    engine = ScriptedEngine(root, trials, **options)
    limit = time.monotonic() + deadline

    def watch(engine):
        assert time.monotonic() < limit, engine.events
        if on_event is not None:
            on_event(engine)

    summary = run_ray(engine, on_event=watch)
    return engine, summary
