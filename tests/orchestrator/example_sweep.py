"""A recorded-looking sweep for the readers' tests: 24 configurations, rungs, seeds, one of each kind of failure."""

import math
import random
from types import SimpleNamespace

from orchestrator.condition import Condition
from orchestrator.parameter import Parameter
from orchestrator.records import Failure, TrialRecord, TrialState
from orchestrator.settings import Budget, EarlyTerminate, Metric, Replicates, Resources
from orchestrator.space import Space

METRIC = "eval/fid_1nfe"
RUNGS = (500, 1500, 4500)
START = 1_760_000_000.0

PARAMETERS = (
    Parameter(
        name="objective.time.law", kind="categorical", distribution="categorical", choices=("uniform", "lognorm")
    ),
    Parameter(
        name="objective.time.mean",
        kind="float",
        distribution="uniform",
        low=-2.0,
        high=0.4,
        when=(Condition(key="objective.time.law", relation="in", operands=("lognorm",)),),
    ),
    Parameter(name="objective.guidance.scale", kind="float", distribution="uniform", low=1.0, high=4.0),
    Parameter(
        name="objective.guidance.kappa", kind="categorical", distribution="categorical", choices=(0.0, 0.5, 0.8, 0.9)
    ),
    Parameter(name="objective.weight.power", kind="float", distribution="uniform", low=0.0, high=2.0),
    Parameter(name="optimizer.lr", kind="float", distribution="log_uniform_values", low=1e-4, high=3e-3, log=True),
)


def spec(**changes):
    fields = {
        "name": "digits-guidance",
        "description": "What guidance and the law of the times do to one-step digits",
        "file": "sweeps/digits-guidance.yaml",
        "source": {"name": "digits-guidance", "method": "tpe"},
        "base": {"trainer": {"steps": 4500, "eval_every": 500}},
        "set": {"trainer.steps": 4500},
        "trainer": "meanflow_core.trainer:Trainer",
        "method": "tpe",
        "metrics": (Metric(name=METRIC),),
        "run_cap": 24,
        "space": Space(parameters=PARAMETERS),
        "early_terminate": EarlyTerminate(type="asha", min_iter=500, eta=3),
        "replicates": Replicates(top=3, seeds=3),
        "resources": Resources(cpu=1.0, gpu=0.25),
        "budget": Budget(gpu_hours=40.0, wall_clock=43200.0),
        "retries": 2,
        "seed": 0,
        "max_concurrent": None,
    } | changes
    fields["metric"] = fields["metrics"][0]
    return SimpleNamespace(**fields, report_steps=lambda config: [*range(500, 4501, 500)])


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
    records = []
    for number in range(1, count + 1):
        values = Space(parameters=PARAMETERS).draw(rng.random)
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
