"""What the sweep itself costs: seconds a trial that does nothing, throughput with real trials, and how it scales.

    python benchmarks/overhead.py                     # all three parts, about ten minutes on two cores
    python benchmarks/overhead.py --parts idle --trials 40 --plain-trials 20

idle:   trials that do nothing, through this engine (ledger, checkpoints, logs and all), through plain Ray Tune as its
        documentation shows it (a function, no reuse of actors), and through Tune with a class and reused actors, in
        interleaved rounds on one Ray.
busy:   trials that sleep, on two workers, against a bare loop on two processes.
scale:  many trials that do nothing: the time an event takes (hand-out, report, end; workers and disk included), the
        driver's own processor time of it, and its memory, as their number grows.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORKERS = 2


class Nothing:
    """A trainer that does nothing, or sleeps `seconds` a trial, and tells when."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.began = time.time()

    def train(self, steps: int) -> dict[str, float]:
        time.sleep(self.config.get("seconds", 0.0))
        return {}

    def evaluate(self) -> dict[str, float]:
        return {"score": float(self.config["x"]), "began": self.began, "ended": time.time()}

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.config["x"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


# ------------------------------------------------------------------------------------------------- contestants


def sweep(folder: Path, trials: int, *, seconds: float = 0.0, on_event: Callable[[Any], None] | None = None) -> Any:
    """Run a sweep of this project and return its closed ledger's trials."""
    from orchestrator.engine.engine import Engine
    from orchestrator.ledger.ledger import Ledger
    from orchestrator.paths import Home
    from orchestrator.runners.ray_tune import run_ray
    from orchestrator.spec.sweep import SweepSpec

    content = {
        "name": "bench",
        "trainer": "overhead:Nothing",
        "method": "random",
        "metric": {"name": "score"},
        "run_cap": trials,
        "parameters": {"x": {"min": 0.0, "max": 1.0}},
    }
    base = {"trainer": {"steps": 1}, "x": 0.5, "seed": 0, "seconds": seconds}
    spec = SweepSpec.from_source({"file": None, "sweep": content, "base": base})
    with Ledger.create(Home(folder).sweep("bench"), spec) as ledger:
        run_ray(Engine(ledger), on_event=on_event)
        return ledger.trials()


def plain_tune(folder: Path, trials: int) -> None:
    """Run Ray Tune as its documentation shows it."""
    from ray import tune

    def objective(config: dict[str, float]) -> None:
        tune.report({"score": config["x"]})

    tuner = tune.Tuner(
        objective,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=trials),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    tuner.fit()


def reusing_tune(folder: Path, trials: int) -> None:
    """Run Ray Tune with a class and reused actors."""
    from ray import tune

    class Objective(tune.Trainable):
        def setup(self, config: dict[str, float]) -> None:
            self.x = config["x"]

        def reset_config(self, new_config: dict[str, float]) -> bool:
            self.x = new_config["x"]
            return True

        def step(self) -> dict[str, float | bool]:
            return {"score": self.x, "done": True}

    tuner = tune.Tuner(
        Objective,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder), verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
        ),
    )
    tuner.fit()


def _bare_worker(seconds: float, trials: int, queue: Any) -> None:
    for number in range(trials):
        trainer = Nothing({"x": number, "seconds": seconds})
        trainer.train(1)
        found = trainer.evaluate()
        queue.put((found["began"], found["ended"]))


# ------------------------------------------------------------------------------------------------------- parts


def idle(trials: int, plain_trials: int, rounds: int) -> dict[str, Any]:
    """Seconds a trial that does nothing, start of the workers included."""
    seconds: dict[str, list[float]] = {"meansweep": [], "tune_plain": [], "tune_reuse": []}
    contestants: dict[str, tuple[Callable[[Path, int], Any], int]] = {
        "meansweep": (sweep, trials // rounds),
        "tune_plain": (plain_tune, plain_trials // rounds),
        "tune_reuse": (reusing_tune, trials // rounds),
    }
    for _ in range(rounds):
        for name, (run, count) in contestants.items():
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                run(Path(folder), count)
                seconds[name].append((time.perf_counter() - began) / count)
            print(f"  {name}: {count} trials, {seconds[name][-1]:.3f} s each", file=sys.stderr, flush=True)
    mean = {name: sum(found) / len(found) for name, found in seconds.items()}
    return {
        "trials": trials,
        "plain_trials": plain_trials,
        "rounds": rounds,
        "seconds_per_trial": mean,
        "by_round": seconds,
        "faster_than_plain": mean["tune_plain"] / mean["meansweep"],
        "faster_than_reuse": mean["tune_reuse"] / mean["meansweep"],
    }


def busy(trials: int, seconds: float) -> dict[str, Any]:
    """Trials an hour on two workers, from the first one's start to the last one's end."""
    queue: Any = multiprocessing.get_context("spawn").Queue()
    share = trials // WORKERS
    processes = [
        multiprocessing.get_context("spawn").Process(target=_bare_worker, args=(seconds, share, queue))
        for _ in range(WORKERS)
    ]
    for process in processes:
        process.start()
    bare = [queue.get() for _ in range(share * WORKERS)]
    for process in processes:
        process.join()
    with tempfile.TemporaryDirectory() as folder:
        records = sweep(Path(folder), share * WORKERS, seconds=seconds)
    ours = [(r.reports[1]["began"], r.reports[1]["ended"]) for r in records]

    def per_hour(spans: list[tuple[float, float]]) -> float:
        # Not the first trial of each worker: two processes do not start at the same moment in either of them.
        return 3600 * len(spans) / (max(end for _, end in spans) - min(began for began, _ in spans))

    return {
        "trials": share * WORKERS,
        "seconds": seconds,
        "bare_per_hour": per_hour(bare),
        "meansweep_per_hour": per_hour(ours),
        "throughput": per_hour(ours) / per_hour(bare),
    }


def scale(trials: int) -> dict[str, Any]:
    """The driver's memory, and its seconds an event (hand-out, report, end), by number of trials."""
    points: list[tuple[int, float, float, float]] = []

    def watch(engine: Any) -> None:
        done = sum(1 for history in engine.ledger.histories() if history.state.ended)
        if done >= (len(points) + 1) * trials // 10:
            points.append((done, time.perf_counter(), time.thread_time(), _resident_mib()))

    began, busy = time.perf_counter(), time.thread_time()
    with tempfile.TemporaryDirectory() as folder:
        sweep(Path(folder), trials, on_event=watch)
    rows = []
    before = (0, began, busy, points[0][3])
    for point in points:
        events = 3 * (point[0] - before[0])
        wall, cpu = (1e3 * (point[which] - before[which]) / events for which in (1, 2))
        rows.append({"trials": point[0], "ms_per_event": wall, "cpu_ms_per_event": cpu, "mib": point[3]})
        before = point
    return {"trials": trials, "rows": rows, "growth_mib": points[-1][3] - points[0][3]}


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# ------------------------------------------------------------------------------------------------------ output


def table(result: dict[str, Any]) -> str:
    """Return the result for people."""
    lines = []
    if "idle" in result:
        found = result["idle"]
        lines.append(f"{'a trial that does nothing':32} seconds")
        names = {
            "meansweep": "this engine",
            "tune_plain": "Ray Tune, as documented",
            "tune_reuse": "Ray Tune, reused actors",
        }
        lines += [f"  {names[name]:30} {value:.3f}" for name, value in found["seconds_per_trial"].items()]
        lines.append(f"  {found['faster_than_plain']:.1f} times faster than plain Ray Tune")
    if "busy" in result:
        found = result["busy"]
        lines.append(f"{found['trials']} trials of {found['seconds']:g} s on {WORKERS} workers")
        lines.append(f"  {100 * found['throughput']:.1f} % of the throughput of a bare loop")
    if "scale" in result:
        lines.append(f"{'trials so far':>14} {'ms an event':>12} {'of it driver':>13} {'driver, MiB':>12}")
        lines += [
            f"{r['trials']:14} {r['ms_per_event']:12.1f} {r['cpu_ms_per_event']:13.1f} {r['mib']:12.0f}"
            for r in result["scale"]["rows"]
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["idle", "busy", "scale"], choices=["idle", "busy", "scale"])
    parser.add_argument("--trials", type=int, default=200, help="idle: trials of this engine and of reusing Tune")
    parser.add_argument("--plain-trials", type=int, default=200, help="idle: trials of plain Tune")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="busy: length of a trial")
    parser.add_argument("--busy-trials", type=int, default=20)
    parser.add_argument("--scale-trials", type=int, default=1000)
    parser.add_argument("-o", "--out", type=Path, help="JSON file")
    options = parser.parse_args()

    import ray

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # It says at each start that it has a token.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    ray.init(
        address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, configure_logging=False,
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    result: dict[str, Any] = {"machine": platform.platform(), "cores": os.cpu_count(), "ray": ray.__version__}
    try:
        if "idle" in options.parts:
            result["idle"] = idle(options.trials, options.plain_trials, options.rounds)
        if "busy" in options.parts:
            result["busy"] = busy(options.busy_trials, options.seconds)
        if "scale" in options.parts:
            result["scale"] = scale(options.scale_trials)
    finally:
        ray.shutdown()
    print(table(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
