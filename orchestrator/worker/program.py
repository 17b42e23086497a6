"""A trial that is an own program: its process, what it reports, and its folder for checkpoints.

The program's reports stay in the trial's folder, each step is passed on once. So nothing is lost where a worker or the
driver is killed: what was written and not recorded is passed on by the next run, and what a program that knows no
checkpoints repeats is recognised.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import site
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orchestrator
from meanflow_core.errors import TrainingDiverged, nearest
from orchestrator import reporting
from orchestrator.paths import TrialPaths
from orchestrator.spec import Program
from orchestrator.trials import Assignment, Report
from orchestrator.worker.program_checkpoints import ProgramCheckpoints
from orchestrator.worker.program_process import ProgramProcess
from orchestrator.worker.program_reports import Collected, Lines, end_line, last_object, parse
from orchestrator.worker.trainer_answers import as_metrics

POLL = 0.1
"""Seconds between two looks at what a program has reported."""
LAST_LINES = 30
"""Lines of its log that go into the message when it fails."""
STDOUT = "stdout.txt"


class ProgramFailed(RuntimeError):
    """A program ended by itself before it was done, or without a result."""


def run_program(assignment: Assignment, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """Run a trial's program and yield a report for each step that it reports with the sweep's metrics.

    It comes to its end when the program does, with exit code 0. Closed before that, it ends the program.

    Args:
        assignment: its `program` and `config` make the command; up to `start`, what it reports is a repetition.
        clock: seconds, for the reports' durations.

    Raises:
        ProgramFailed: it ended with another exit code, by a signal, or without having reported the sweep's metrics.
        TrainingDiverged: it reported a metric of the sweep that is not finite.
    """
    run = _Run(assignment, clock)
    try:
        yield from run.reports()
    finally:
        run.close()


class _Run:
    def __init__(self, assignment: Assignment, clock: Callable[[], float]) -> None:
        assert assignment.program is not None
        self._work = assignment
        self._clock = clock
        self._program = Program.from_dict(assignment.program)
        self._paths = paths = TrialPaths(Path(assignment.folder))
        paths.root.mkdir(parents=True, exist_ok=True)
        self._checkpoints = ProgramCheckpoints.of(assignment)
        self._file, self._stdout = paths.root / "reports.jsonl", paths.root / STDOUT
        self._parameters = paths.root / "parameters.json"
        self._collected = Collected(assignment.metrics or [assignment.metric], assignment.start)
        self._reports = Lines(self._file)
        self._printed = Lines(self._stdout)
        self._prints = self._program.metrics == "stdout-json"
        self._process: ProgramProcess | None = None
        self._began = clock()

    def reports(self) -> Iterator[Report]:
        self._say(f"trial {self._work.trial}, attempt {self._work.attempt}: from step {self._work.start}")
        self._checkpoints.fetch()
        self._read_earlier()
        self._log_from = end_line(self._paths.log)
        process = self._process = self._start()
        yield from self._ready()
        while True:
            ended = process.wait(POLL)
            self._read()  # after the look at the process: all that it has written is there
            yield from self._ready()
            if ended is not None:
                break
        self._check(ended)
        if self._collected.last == 0 and self._prints:
            self._read_at_the_end()
            yield from self._ready()
        final = self._collected.at_the_end()
        if final is not None:
            yield self._report(*final)
        elif self._collected.last == 0:
            raise ProgramFailed(self._without_result())

    def close(self) -> None:
        """End the program, if it runs, and keep its checkpoints."""
        if self._process is None:
            return
        self._process.end()
        self._read()
        self._checkpoints.keep({})

    def _start(self) -> ProgramProcess:
        folder = self._program.place()
        given = self._program.parameters(self._work.config)
        self._parameters.write_text(json.dumps(given, indent=2), encoding="utf-8")
        arguments = self._paths.root / "arguments.json"  # the same under the names that the sweep file has
        arguments.write_text(json.dumps(self._program.as_spelled(given)), encoding="utf-8")
        words = self._program.words(self._work.config, json_file=arguments.absolute())
        self._say("$ " + " ".join(words))
        return ProgramProcess(
            words,
            folder,
            self._environment(),
            stdout=self._stdout if self._prints else self._paths.log,
            stderr=self._paths.log,
        )

    def _environment(self) -> dict[str, str]:
        found = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",  # what it prints is seen when it prints it
            reporting.REPORTS: str(self._file.absolute()),
            reporting.CHECKPOINTS: str(self._checkpoints.folder.absolute()),
            reporting.PARAMETERS: str(self._parameters.absolute()),
            reporting.FOLDER: str(self._paths.root.absolute()),
            reporting.SEED: str(self._work.config.get("seed", 0)),
            reporting.TRIAL: self._work.trial,
            reporting.SWEEP: self._work.sweep,
        }
        ours = str(Path(orchestrator.__file__).resolve().parents[1])
        if ours not in map(os.path.realpath, (*site.getsitepackages(), sysconfig.get_path("purelib"))):
            # for `from orchestrator import report`, where it is not installed
            found["PYTHONPATH"] = os.pathsep.join(filter(None, [found.get("PYTHONPATH"), ours]))
        return found

    # ------------------------------------------------------------------------------------------- reports

    def _read_earlier(self) -> None:
        """Take in what earlier runs have written; what of it is recorded is passed over."""
        end_line(self._file)
        for found in map(parse, self._reports.read()):
            if found is not None:
                self._collected.add(*found)
        self._stdout_from = end_line(self._stdout)
        for found in map(parse, self._printed.read()):
            if found is not None and found[0] is not None:  # a line without a step is numbered within its run
                self._collected.add(*found)

    def _read(self) -> None:
        """Take in what the program has written since the last look."""
        for line in self._reports.read():
            found = parse(line)
            if found is not None:
                self._collected.add(*found)
            elif line.strip():
                self._say(f"no report: one JSON object a line is read, with numbers by name: {line[:200]}")
        printed = self._printed.read() if self._prints else []
        if printed:
            with self._paths.log.open("a", encoding="utf-8") as log:
                log.write("".join(f"{line}\n" for line in printed))
        for found in map(parse, printed):
            if found is not None:
                self._collected.add(*found)

    def _read_at_the_end(self) -> None:
        """Take in a result that was printed over several lines."""
        with self._stdout.open("rb") as stream:
            stream.seek(self._stdout_from)
            found = last_object(stream.read().decode(errors="replace"))
        if found is not None:
            self._collected.add(*found)

    def _ready(self) -> Iterator[Report]:
        while (found := self._collected.next()) is not None:
            yield self._report(*found)

    def _report(self, step: int, metrics: dict[str, float]) -> Report:
        rows = self._collected.take_rows()
        try:
            metrics = as_metrics(metrics, step, rows, self._work.metrics)
        except TrainingDiverged:
            self._set_aside()
            raise
        place = self._checkpoints.keep({self._work.metric: metrics[self._work.metric]})
        now = self._clock()
        seconds, self._began = now - self._began, now
        return Report(step=step, metrics=metrics, rows=rows, checkpoint=place, seconds=seconds)

    # ------------------------------------------------------------------------------------------------ end

    def _check(self, ended: str) -> None:
        kind, _, rest = ended.partition(" ")
        if kind == "exit" and rest == "0":
            return
        if kind == "error":
            raise ProgramFailed(f"{self._program.name} could not be started: {rest}")
        if kind == "gone":
            said = "and its supervisor were killed by SIGKILL"
        elif int(rest) < 0:
            number = -int(rest)
            name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
            said = f"was killed by {name}" + (
                " (by hand, or by the system, which had no memory left)" if name == "SIGKILL" else ""
            )
        else:
            said = f"ended with exit code {rest}"
        last = self._last_lines()
        reason = next((line for line in reversed(last) if line.strip()), "").strip()
        lines = "".join(f"\n{line}" for line in last)
        raise ProgramFailed(f"{self._program.name} {said}{': ' + reason if reason else ''}{lines}")

    def _last_lines(self) -> list[str]:
        """Return the last lines that this run's program has written."""
        with self._paths.log.open("rb") as log:
            log.seek(self._log_from)
            lines = log.read().decode(errors="replace").splitlines()
        return [line.rpartition("\r")[2] for line in lines][1:][-LAST_LINES:]  # the first is the command

    def _without_result(self) -> str:
        wanted, names = sorted(self._collected.wanted), sorted(self._collected.names)
        lacking = [name for name in wanted if name not in names] or wanted
        call = f"`from orchestrator import report; report(step, **{{{lacking[0]!r}: value}})`"
        if lacking[0].isidentifier():
            call = f"`from orchestrator import report; report(step, {lacking[0]}=value)`"
        close = nearest(lacking[0], names)
        said = f"it reported {', '.join(names)}" if names else "it reported nothing"
        hint = f" (did you mean {close!r}?)" if close else ""
        how = f"; {call}" + ("" if self._prints else ", or `trainer: {metrics: stdout-json}` if it prints JSON")
        return f"{self._program.name} ended without having reported {lacking[0]!r}: {said}{hint}{how}"

    def _set_aside(self) -> None:
        """Put away what has led to a number that is not finite: another run starts without it."""
        if self._process is not None:
            self._process.end()
        for file in (self._file, self._stdout):
            with contextlib.suppress(FileNotFoundError):
                file.replace(file.with_name(f"diverged-{file.name}"))
        self._checkpoints.set_aside()

    def _say(self, text: str) -> None:
        with self._paths.log.open("a", encoding="utf-8") as log:
            print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=log, flush=True)
