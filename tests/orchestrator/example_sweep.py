"""A recorded-looking sweep for the readers' tests: 24 configurations, rungs, seeds, one of each kind of failure."""

import dataclasses
import functools
import math
import random

from orchestrator.spec.sweep import SweepSpec
from orchestrator.trials.trial import Failure, TrialRecord, TrialState

METRIC = "eval/fid_1nfe"
RUNGS = (500, 1500, 4500)
START = 1_760_000_000.0

SWEEP = {
    "name": "digits-guidance",
    "description": "What guidance and the law of the times do to one-step digits",
    "set": {"trainer.steps": 4500, "trainer.eval_every": 500},
    "method": "tpe",
    "metric": {"name": METRIC, "goal": "minimize"},
    "run_cap": 24,
    "parameters": {
        "objective.time.law": {"values": ["uniform", "lognorm"]},
        "objective.time.mean": {
            "distribution": "uniform",
            "min": -2.0,
            "max": 0.4,
            "when": {"objective.time.law": "lognorm"},
        },
        "objective.guidance.scale": {"distribution": "uniform", "min": 1.0, "max": 4.0},
        "objective.guidance.kappa": {"values": [0.0, 0.5, 0.8, 0.9]},
        "objective.weight.power": {"min": 0.0, "max": 2.0},
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 3.0e-3},
    },
    "early_terminate": {"type": "asha", "min_iter": 500, "eta": 3},
    "replicates": {"top": 3, "seeds": 3},
    "resources": {"cpu": 1, "gpu": 0.25},
    "budget": {"gpu_hours": 40, "wall_clock": "12h"},
}


@functools.cache
def _spec():
    return SweepSpec.from_source({"sweep": SWEEP, "base": {}, "file": "sweeps/digits-guidance.yaml"})


def spec(**changes):
    """The sweep, with some fields replaced."""
    return dataclasses.replace(_spec(), **changes)


def record(key, value, *, state="finished", seed=0, steps=4500, values=None, reports=None, **more):
    """A hand-made trial: `key` is its id, `value` its metric at the last report."""
    config_id, _, replicate = str(key).partition(".")
    if reports is None:
        reports = {} if value is None else {steps: {METRIC: value}}
    fields = {
        "id": str(key),
        "config_id": int(config_id),
        "replicate": int(replicate or 0),
        "seed": seed,
        "values": {"optimizer.lr": 1e-3} if values is None else values,
        "config_hash": f"{int(config_id):016x}",
        "state": TrialState(state),
        "steps": steps,
        "reports": reports,
        "metric": value,
        "started": START,
        "ended": START + 60,
        "busy_seconds": 60.0,
        "gpu_seconds": 15.0,
    } | more
    return TrialRecord(**fields)


def quality(values):
    """The made-up final metric: learning rate and guidance matter, the power a little."""
    lr = math.log10(values["optimizer.lr"]) + 3.0
    scale = values["objective.guidance.scale"] - 2.4
    law = 0.35 if values["objective.time.law"] == "uniform" else 0.12 * (values["objective.time.mean"] + 0.6) ** 2
    kappa = 0.15 * abs(values["objective.guidance.kappa"] - 0.5)
    return 2.0 * math.exp(
        1.1 * lr**2 + 0.25 * scale**2 + law + kappa + 0.05 * abs(values["objective.weight.power"] - 1)
    )


def curve(final, rng, last):
    return {
        step: {METRIC: final * (1 + 6 * math.exp(-step / 900)) * math.exp(rng.gauss(0, 0.02))}
        for step in range(500, last + 1, 500)
    }


def trials(count=24, seed=3):
    """A whole sweep: rungs that stopped two thirds at each, the best three on three more seeds, four failures."""
    rng = random.Random(seed)
    space, records = spec().space, []
    for number in range(1, count + 1):
        values = space.draw(rng.random)
        final = quality(values)
        broken = {5: "diverged", 11: "oom", 16: "bug", 20: "lost"}.get(number)
        last = 1000 if broken else RUNGS[0] if final > 9 else RUNGS[1] if final > 4.5 else RUNGS[2]
        records.append(_trial(number, values, final, last, rng, broken))
    best = sorted((r for r in records if r.state is TrialState.FINISHED), key=lambda r: r.metric)[:3]
    for one in best:
        for replicate in (1, 2, 3):
            effect = {1: 1.06, 2: 0.97, 3: 1.02}[replicate]  # the seed's, the same for every configuration
            reports = curve(quality(one.values) * effect, rng, RUNGS[2])
            records.append(
                record(
                    f"{one.config_id}.{replicate}",
                    reports[RUNGS[2]][METRIC],
                    seed=replicate,
                    values=one.values,
                    reports=reports,
                    config_hash=one.config_hash,
                    busy_seconds=210.0,
                    gpu_seconds=52.5,
                )
            )
    return records


def _trial(number, values, final, last, rng, broken):
    reports = curve(final, rng, last)
    began = START + number * 95
    seconds = last / 4500 * 200 + rng.random() * 10
    failure = None
    if broken:
        reason = {
            "diverged": "diverged at step 1180: the loss is nan; last finite at step 1150",
            "oom": "CUDA out of memory. Tried to allocate 2.50 GiB <device 0>",
            "bug": "ValueError: shape mismatch in <Head & Tail>",
            "lost": "the node left the cluster (3 times)",
        }[broken]
        failure = Failure(broken, reason, traceback="Traceback ...", log=f"trials/{number}/log.txt", step=1180)
    state = "failed" if broken else "finished" if last == RUNGS[2] else "pruned"
    return record(
        number,
        None if broken else reports[last][METRIC],
        state=state,
        steps=last,
        values=values,
        reports=reports,
        failure=failure,
        attempts=(failure,) if failure else (),
        started=began,
        ended=began + seconds,
        busy_seconds=seconds,
        gpu_seconds=seconds * 0.25,
        wasted_seconds=seconds if broken in ("lost", "bug") else 0.0,
        checkpoint=f"trials/{number}/checkpoints/step-{last:08d}" if not broken else None,
    )
