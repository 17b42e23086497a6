"""A sweep as an object, for programs and notebooks: run it, look at it, change it."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.api.driving import SweepFailed, begin, drive, go_on
from orchestrator.api.opening import find_sweep, home_at, read_sweep, sweep_rows
from orchestrator.api.reporting import report_sweep
from orchestrator.api.same_sweep import demand_same
from orchestrator.api.winning import winner
from orchestrator.formatting import number
from orchestrator.paths import Home, SweepPaths

if TYPE_CHECKING:
    import pandas
    from optuna.study import Study

    from meanflow_core.config import TrainConfig


def run(
    sweep: str | Path | Mapping[str, Any],
    *,
    name: str | None = None,
    home: str | Path | None = None,
    inline: bool = False,
    resume: bool = False,
    **overrides: Any,
) -> Sweep:
    """Run a new sweep to its end, with its live table, and return it.

    Args:
        sweep: a sweep file, or its content as a dict (its `base` is then relative to the current folder).
        name: another name than the file's.
        home: folder of all state; None: $MEANSWEEP_HOME, or ./meansweep-data.
        inline: in this process, one trial after the other, without Ray.
        resume: where a sweep of this name is there, go on with it, if it is still the same: for a cell of a notebook
            that is run again. One that has finished is returned as it is.
        overrides: what replaces keys of the file: `run_cap=8`; of dotted keys `**{"trainer.steps": 200}`.

    Raises:
        ConfigError: what is wrong with the file, all of it; a sweep of this name exists (with `resume`: another one).
        SweepFailed: the sweep failed.
        KeyboardInterrupt: it was interrupted; `open_sweep(name).resume()` goes on.
    """
    _hush()
    given = {**overrides, **({"name": name} if name else {})}
    words = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    if resume and (there := _there(home_at(home), sweep, words)):
        return there.resume(inline=inline)
    engine = begin(home_at(home), sweep, words, inline=inline)
    made = Sweep(engine.ledger.paths)
    made._drive(engine, inline=inline)
    return made


def open_sweep(name: str | None = None, home: str | Path | None = None) -> Sweep:
    """Return a sweep that exists, running or not.

    Args:
        name: the sweep; None where it is the only one.
        home: folder of all state; None: $MEANSWEEP_HOME, or ./meansweep-data.

    Raises:
        ConfigError: there is none of this name (with the nearest).
    """
    _hush()
    return Sweep(find_sweep(home_at(home), name))


def list_sweeps(home: str | Path | None = None) -> pandas.DataFrame:
    """Return a row for each sweep of a home: `sweep`, `state`, `metric`, `best`, its `trial`, trials by state, ...

    Args:
        home: folder of all state; None: $MEANSWEEP_HOME, or ./meansweep-data.
    """
    from orchestrator.api.frames import sweeps_frame

    return sweeps_frame(sweep_rows(home_at(home)), time.time())


def _there(home: Home, source: str | Path | Mapping[str, Any], words: Sequence[str]) -> Sweep | None:
    """Return the sweep of this name, if it is there and the file still says what its own does."""
    from orchestrator.spec import read_spec

    spec = read_spec(source, words)
    paths = home.sweep(spec.name)
    if not paths.journal.is_file():
        return None
    demand_same(home, source, words, spec)
    return Sweep(paths)


def _hush() -> None:
    """Keep Ray and tqdm from asking a notebook to install ipywidgets, which nothing here uses."""
    logging.getLogger("ray.widgets").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "IProgress not found")


class Sweep:
    """A sweep, as its ledger has it at the moment of each call. Made by `run` and `open_sweep`.

    Frames have a column `sweep`, so that those of several sweeps can be put below each other, and the swept
    parameters as columns by their dotted keys; what does not exist is missing (NaN).
    """

    def __init__(self, paths: SweepPaths) -> None:
        self._paths = paths

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self._paths.name

    @property
    def folder(self) -> Path:
        """The folder with all that is kept of it."""
        return self._paths.root

    # ------------------------------------------------------------------------------------------ looking

    def status(self) -> pandas.DataFrame:
        """Return one row: state, trials by state, the best so far, what was spent, seconds left."""
        from orchestrator.api.frames import status_frame
        from orchestrator.results import status_of

        _, ledger, spec, _ = self._read()
        return status_frame(spec, status_of(ledger))

    def leaderboard(self) -> pandas.DataFrame:
        """Return a row for each configuration, best first.

        Each metric is the mean over `n` seeds, `low` and `high` the 95 % interval of the first one; `worse` is how
        many times (of a metric that goes below zero: how much) worse than the best it is on the seeds they share,
        with `worse_low`, `worse_high`, the corrected `p_value`, and whether it is `separable` from the best.
        """
        from orchestrator.api.frames import leaderboard_frame
        from orchestrator.results import leaderboard
        from orchestrator.tracking import run_ids

        _, _, spec, trials = self._read()
        return leaderboard_frame(spec, leaderboard(spec, trials, run_ids(self._paths)))

    def trials(self) -> pandas.DataFrame:
        """Return a row for each run, replicates too: state, the metrics at its last report, values, times."""
        from orchestrator.api.frames import trials_frame

        _, _, spec, trials = self._read()
        return trials_frame(spec, trials)

    def curves(self) -> pandas.DataFrame:
        """Return a row for each report of each run: `step`, its metrics, and the run's values."""
        from orchestrator.api.frames import curves_frame

        _, _, spec, trials = self._read()
        return curves_frame(spec, trials)

    def importance(self) -> pandas.DataFrame:
        """Return a row for each parameter: its share in being among the best, and that share's 90 % interval.

        Fewer than ten configurations with a result tell nothing: the frame is empty then.
        """
        from orchestrator.api.frames import importance_frame
        from orchestrator.results import importance

        _, _, spec, trials = self._read()
        return importance_frame(importance(spec, trials))

    def best(self, trial: str | None = None) -> TrainConfig | dict[str, Any]:
        """Return the training configuration of the best trial, at the length of the sweep's base, with its evidence.

        A `TrainConfig`; of another trainer than MeanFlow's the dict that this trainer gets.

        Args:
            trial: this trial instead of the best.

        Raises:
            ConfigError: nothing has a result yet, or there is no such trial.
        """
        _, ledger, _, _ = self._read()
        return winner(ledger, trial).config

    def study(self) -> Study:
        """Return the search as an Optuna study in memory, with intermediate values, for Optuna's own plots.

        A copy: what is done to it does not change the sweep. Replicates are left out.
        """
        from orchestrator.results import study_of

        _, _, spec, trials = self._read()
        return study_of(spec, trials)

    def report(self, out: str | Path | None = None) -> Path:
        """Write one HTML file with everything about the sweep and return it.

        Args:
            out: the file; None: `report.html` in the sweep's folder.
        """
        return report_sweep(self._home, self.name, None if out is None else Path(out))

    # ----------------------------------------------------------------------------------------- changing

    def extend(self, n: int) -> str:
        """Let it run `n` more trials; returns what happened, in words. Of one that has ended, `resume` runs them.

        Raises:
            ConfigError: it cannot be extended so.
        """
        from orchestrator.engine import control

        return control.request(self._paths, control.extend(n))

    def stop(self) -> str:
        """End it if it runs; returns what happened, in words. What runs stops at its next report."""
        from orchestrator.engine import control

        return control.request(self._paths, control.stop())

    def resume(self, *, inline: bool = False) -> Sweep:
        """Go on with it, to its end, with its live table: interrupted trials first, from their checkpoints.

        Args:
            inline: in this process, without Ray.

        Raises:
            SweepFailed: another process drives it, or it failed.
        """
        engine = go_on(self._home, self._paths, inline=inline)
        if isinstance(engine, str):
            print(engine)
        else:
            self._drive(engine, inline=inline)
        return self

    # ------------------------------------------------------------------------------------------ helpers

    def __repr__(self) -> str:
        row = self.status().iloc[0]
        metric = self._read()[2].metric.name
        best = "no result yet" if row["best"] is None else f"best {metric} {number(float(row[metric]))}"
        return f"<Sweep {self.name}: {row['state']}, {row['finished']} trials finished, {best}>"

    def _repr_html_(self) -> str:
        return f"<p>{self.name}: {self.status().iloc[0]['state']}</p>{self.leaderboard().head(10).to_html(index=False)}"

    @property
    def _home(self) -> Home:
        return Home(self._paths.root.parents[1])

    def _read(self) -> Any:
        return read_sweep(self._home, self.name)

    def _drive(self, engine: Any, *, inline: bool) -> None:
        # As the command does: threads that spin while they wait are slow beside other processes.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        drive(engine, inline=inline)
        _, ledger, _, _ = self._read()
        state = ledger.state()
        if state.state == "failed":
            raise SweepFailed(f"the sweep failed: {state.reason}")
