"""What 1000 trials cost the driver: time of each event and memory, without any training.

    python benchmarks/engine_scale.py [--trials 1000] [--method tpe] [--json result.json]

Trials are handed out 8 at a time and report 6 times each; ASHA judges them. Bar: under 50 ms an event at any point, and
memory that grows by little more than the records themselves. Times are wall time, the disk's part included, and, after
the slash, the driver's own processor time, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.engine.start import start_sweep
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.spec.sweep import SweepSpec
from orchestrator.trials.protocol import Assignment, Decision, Outcome, Report

WORKERS = 8


def spec_of(method: str, trials: int) -> SweepSpec:
    parameters = {
        "a": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
        "b": {"min": 0.0, "max": 1.0},
        "c": {"min": -2.0, "max": 2.0},
        "d": {"values": ["p", "q", "r"]},
        "e": {"min": 1, "max": 64},
    }
    sweep = {
        "name": f"scale-{method}",
        "trainer": "none:None",
        "method": method,
        "metric": {"name": "loss", "goal": "minimize"},
        "run_cap": trials,
        "parameters": parameters,
        "early_terminate": {"type": "asha", "min_iter": 100, "eta": 3},
    }
    base = {"trainer": {"steps": 600, "eval_every": 100}, "seed": 0, **dict.fromkeys("abe", 1), "c": 0.0, "d": "p"}
    return SweepSpec.from_source({"file": None, "sweep": sweep, "base": base})


def loss(config: dict[str, Any], step: int, noise: random.Random) -> float:
    height = (math.log10(config["a"]) + 3) ** 2 / 4 + (config["b"] - 0.4) ** 2 + (config["c"] - 0.5) ** 2
    return height + (config["d"] != "q") * 0.3 + 3 * math.exp(-step / 200) + noise.gauss(0, 0.02)


def run(method: str, trials: int, folder: Path) -> dict[str, Any]:
    noise = random.Random(0)
    engine = start_sweep(Home(folder), spec_of(method, trials))
    flying: list[tuple[Assignment, int]] = []
    times: dict[str, list[tuple[float, float]]] = {"next": [], "report": [], "ended": [], "poll": []}
    memory: list[float] = []

    def timed(name: str, *args: Any) -> Any:
        start, busy = time.perf_counter(), time.thread_time()
        result = getattr(engine, name)(*args)
        times[name].append((time.perf_counter() - start, time.thread_time() - busy))
        return result

    while True:
        while len(flying) < WORKERS:
            work = timed("next")
            if not isinstance(work, Assignment):
                break
            flying.append((work, 0))
            if len(times["next"]) % (trials // 4) == 0:
                memory.append(resident())
        if not flying:
            break
        work, index = flying.pop(0)
        step = work.steps[index]
        decision = timed(
            "report", work.trial, Report(step=step, metrics={"loss": loss(work.config, step, noise)}, seconds=1.0)
        )
        timed("poll")
        if decision is Decision.CONTINUE:
            flying.append((work, index + 1))
        else:
            timed("ended", work.trial, Outcome(kind="stopped"))
    engine.finish()
    engine.ledger.close()
    start = time.perf_counter()
    ledger = Ledger.open(engine.paths)
    trials_read = len(ledger.trials())
    reload = time.perf_counter() - start
    assert trials_read == trials
    result = {"method": method, "trials": trials, "reload_s": reload, "memory_mib": memory, "events": {}}
    for name, pairs in times.items():
        wall, cpu = (sorted(1e3 * pair[which] for pair in pairs) for which in (0, 1))
        last = [sorted(1e3 * pair[which] for pair in pairs[-len(pairs) // 10 :]) for which in (0, 1)]
        result["events"][name] = {
            "count": len(pairs),
            "median_ms": [statistics.median(wall), statistics.median(cpu)],
            "last_tenth_median_ms": [statistics.median(each) for each in last],
            "p99_ms": [each[int(0.99 * len(each))] for each in (wall, cpu)],
        }
    return result


def resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--method", nargs="*", default=["random", "tpe"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    for method in options.method:
        with tempfile.TemporaryDirectory() as folder:
            results.append(run(method, options.trials, Path(folder)))
        print(f"{method}: reload {results[-1]['reload_s']:.2f} s; MiB {[round(m) for m in results[-1]['memory_mib']]}")
        for name, row in results[-1]["events"].items():
            shown = [f"{key} {wall:7.2f} / {cpu:6.2f}" for key, (wall, cpu) in list(row.items())[1:]]
            print(f"  {name:7} count {row['count']:5}  " + "  ".join(shown))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
