"""A Ray cluster seen from a laptop: send a sweep there, and run commands on it there, as Ray jobs.

What travels is the code of this installation and of the sweep's trainer, and the sweep file with its base configuration
inside; data and results stay on the cluster's storage. The cluster needs the same packages, nothing else of ours.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.cluster.entrypoint import DRIVING, read_result, redirect_out
from orchestrator.cluster.jobs import (
    ID_TAG,
    PACKAGES_TAG,
    SWEEP_TAG,
    TRAINING_TAG,
    UNDER_WAY,
    ClusterError,
    JobTaken,
    connect,
    drivers_of,
    exit_code,
    follow_job,
    job_server,
    next_number,
    output_of,
    start,
    trainings_of,
    variables_of,
    wait,
)
from orchestrator.cluster.packaging import SWEEP_FILE, staged, trainer_of, write_sweep
from orchestrator.cluster.remote_args import from_here, positional, value_of
from orchestrator.cluster.sent_code import own_code, packages_of_configs
from orchestrator.provenance import new_id
from orchestrator.results import trained_as, training_name
from orchestrator.spec import Program, read_spec

WRITES = {"sample": "samples.png", "report": "report.html"}
"""Commands that write a file here if no name is given."""
PROGRAM_TAG = "program"
"""Of a driver's job: its sweep's own program, so that `resume` can send it again."""
SIGN_OF_LIFE = 15.0
"""Seconds in which a new driver is asked whether it has opened its sweep."""


def submit(
    file: Path | str,
    address: str,
    overrides: Sequence[str] = (),
    *,
    home: str | None = None,
    follow: bool = False,
) -> str:
    """Send a sweep to a cluster and return its name, as soon as the cluster has accepted it.

    Args:
        file: the sweep file; it is read and checked here.
        address: of the cluster's job server, e.g. http://127.0.0.1:8265.
        overrides: `key=value` words that replace keys of the file.
        home: folder of all state on the cluster, on storage that every node shares. By default what
            $MEANSWEEP_HOME says there, or else ~/meansweep-data.
        follow: print what the driver prints until it ends; Ctrl-C leaves it running.

    Raises:
        ConfigError: the sweep file is wrong, or a sweep of this name runs there already, or starts in this moment.
        ClusterError: the cluster cannot be reached, or (with `follow`) the sweep failed.
    """
    spec = read_spec(file, overrides)
    address = job_server(address)
    client = connect(address)
    drivers = drivers_of(client, spec.name)
    running = [job for job in drivers if job.status in UNDER_WAY]
    if running:
        rule = f"runs on {address} already (job {running[-1].submission_id}); give this one another `name`"
        raise ConfigError([Problem(key="name", value=spec.name, rule=rule, file=str(file))])
    packages = own_code(spec)
    with staged(trainer_of(spec), packages=packages, program=spec.program) as folder:
        write_sweep(spec, folder)
        sweep_id, trainer = new_id(), trainer_of(spec) or ""
        tags = {SWEEP_TAG: spec.name, ID_TAG: sweep_id, "trainer": trainer, PACKAGES_TAG: ",".join(packages)}
        if spec.program is not None:
            tags[PROGRAM_TAG] = json.dumps(spec.program.to_dict())
        words = ["--follow", "run", SWEEP_FILE, "--id", sweep_id]
        try:
            job = start(client, folder, words, home, tags=tags, number=next_number(drivers, spec.name))
        except JobTaken as taken:
            rule = f"was sent to {address} by somebody else in this moment (job {taken}); give this one another `name`"
            raise ConfigError([Problem(key="name", value=spec.name, rule=rule, file=str(file))]) from taken
    if follow:
        leaving = f"it runs on; meansweep logs {spec.name} -f --address {address}"
        code = follow_job(client, job, leaving=leaving, show=partial(from_here, address=address))
        if code:
            raise ClusterError(f"the sweep {spec.name} ended with exit code {code}; its output is above")
    return spec.name


def run_remotely(address: str, words: Sequence[str], home: str | None = None) -> int:
    """Run `meansweep WORDS` on the cluster, where the sweep's folder is, and print its output here.

    `resume` starts a driver there and returns at once, `train` starts a training and follows it. A file asked for with
    `-o` is written here.

    Args:
        address: of the cluster's job server.
        words: of the command.
        home: folder of all state there; None: that of the sweep's driver.

    Returns:
        The command's exit code.

    Raises:
        ConfigError: what is sent along is wrong.
        ClusterError: the cluster cannot be reached, or the command could not be run there.
    """
    return _Remote(address, list(words), home).run()


class _Remote:
    """One command that runs on the cluster."""

    def __init__(self, address: str, words: list[str], home: str | None) -> None:
        self.address, self.words = job_server(address), words
        self.named = home and (home.rstrip("/") or "/")
        self.client = connect(self.address)
        self.following = bool({"-f", "--follow"} & set(words))
        self.said = positional(words[1:])
        drivers = drivers_of(self.client, None)
        known = {job.metadata[SWEEP_TAG] for job in drivers}
        self.sweep = next((word for word in self.said if word in known), None)
        mine = self._of_home([job for job in drivers if self.sweep in (None, job.metadata[SWEEP_TAG])])
        self.driver = mine[-1] if mine else None
        self._know(mine or self._of_home(trainings_of(self.client, None)))

    def _of_home(self, jobs: Sequence[Any]) -> list[Any]:
        """Return those of the jobs that are of the home that was named: others may have sweeps of the same name.

        Where there is none, those for which none was named: it may be that of the cluster itself.
        """
        if self.named is None:
            return list(jobs)
        by_home = {home: [job for job in jobs if (job.metadata.get("home") or "") == home] for home in (self.named, "")}
        return by_home[self.named] or by_home[""]

    def _know(self, jobs: Sequence[Any]) -> None:
        """Take the home and the variables of the last of these jobs."""
        last = jobs[-1] if jobs else None
        self.home = self.named or (last.metadata.get("home") if last is not None else None) or None
        self.variables = {} if last is None else variables_of(last)

    def _show(self, text: str) -> str:
        """Return what is printed here of a text from there."""
        return from_here(text, self.address, None if self.driver is not None else self.named)

    def run(self) -> int:
        """Run it and return its exit code."""
        match self.words[0]:
            case "resume":
                return self._resume()
            case "train":
                return self._train()
            case "logs" if self.driver is not None and not [word for word in self.said if word != self.sweep]:
                return self._driver_output(self.driver)
            case _ if self.following:
                with staged() as folder:
                    job = self._start(folder, ["--follow", *self.words])
                try:
                    return follow_job(self.client, job, show=self._show)
                except KeyboardInterrupt:
                    self.client.stop_job(job)  # it only looks on
                    raise
        return self._ask()

    def _start(self, folder: Path, words: Sequence[str], tags: Mapping[str, str] | None = None) -> str:
        return start(self.client, folder, words, self.home, tags=tags, variables=self.variables)

    def _resume(self) -> int:
        words = [word for word in self.words if word not in ("-f", "--follow")]
        running = self.driver if self.driver is not None and self.driver.status in UNDER_WAY else None
        tags = dict(self.driver.metadata) if self.driver is not None else {}
        tags[SWEEP_TAG] = self.sweep or next(iter(self.said), "") or tags.get(SWEEP_TAG, "")
        packages = [name for name in tags.get(PACKAGES_TAG, "").split(",") if name]
        program = Program.from_dict(json.loads(tags[PROGRAM_TAG])) if tags.get(PROGRAM_TAG) else None
        with staged(tags.get("trainer") or None, packages=packages, program=program) as folder:
            job = self._start(folder, ["--follow", *words], tags)
        there = f"{tags[SWEEP_TAG]} --address {self.address}".lstrip()
        leaving = f"it runs on; meansweep logs {there} -f"
        if self._drives(job):
            if self.following:
                return follow_job(self.client, job, leaving=leaving, show=self._show)
            print(f"resumed; next: meansweep status {there}")
            return 0
        code = exit_code(self.client, job)
        print(self._show(output_of(self.client, job)), end="", file=sys.stderr if code else sys.stdout)
        self.client.delete_job(job)  # or it would be taken for the sweep's last driver
        if self.following and running is not None and not code:
            return follow_job(self.client, running.submission_id, leaving=leaving, show=self._show)
        return code

    def _drives(self, job: str) -> bool:
        """Whether a job becomes its sweep's driver: it says so, or does not end soon."""
        deadline = time.monotonic() + SIGN_OF_LIFE
        while True:
            under_way = self.client.get_job_status(job) in UNDER_WAY
            if any(line.startswith(DRIVING) for line in output_of(self.client, job).splitlines()):
                return True
            if not under_way or time.monotonic() > deadline:
                return under_way
            time.sleep(0.2)

    def _train(self) -> int:
        """Train on the cluster's workers; a training that runs there already is followed, not started again."""
        files = {word: Path(word) for word in self.said if Path(word).is_file()}
        name = value_of(self.words, "--name") or next(iter(self.said), "")
        if files:
            evidence = self._check_training(next(iter(files.values())))
            name = value_of(self.words, "--name") or training_name(name, evidence)
        running = [job for job in trainings_of(self.client, name) if job.status in UNDER_WAY]
        if running:
            print(f"{name} is being trained there; this is what it prints", file=sys.stderr)
            job = running[-1].submission_id
        else:
            words = [files[word].name if word in files else word for word in self.words]
            if not value_of(words, "--workers"):
                words += ["--workers", "1"]  # none: it would train beside the driver
            with staged(files=list(files.values()), packages=packages_of_configs(files.values())) as folder:
                job = self._start(folder, ["--follow", *words], {TRAINING_TAG: name})
        return follow_job(self.client, job, leaving="it trains on; the same command shows it again", show=self._show)

    def _check_training(self, file: Path) -> Mapping[str, Any]:
        """Find a mistake here, where it costs nothing, and the home of the sweep that the configuration comes from.

        Returns:
            What speaks for the configuration.
        """
        from meanflow_core.config import load_config

        evidence = load_config(file, [word for word in self.said if "=" in word]).evidence
        found = self._of_home(drivers_of(self.client, str(evidence.get("sweep", ""))))
        if found:
            self._know(found)
        return evidence

    def _driver_output(self, driver: Any) -> int:
        job = driver.submission_id
        if self.following and driver.status in UNDER_WAY:
            return follow_job(self.client, job, leaving="it runs on", show=self._show)
        lines = self._show(output_of(self.client, job)).splitlines()
        most = int(value_of(self.words, "-n") or 50)
        for line in lines[-most:] if most else lines:
            print(line)
        if not lines:
            print(f"its driver (job {job}, {driver.status}) has printed nothing yet", file=sys.stderr)
        return 0

    def _ask(self) -> int:
        words = list(self.words)
        if words[0] == "sample":  # a configuration lies here, its training there
            words = [trained_as(word) or word for word in words]
        if words[0] in WRITES and redirect_out(words, "")[1] is None:
            words += ["-o", WRITES[words[0]]]
        spec = read_spec(self.said[0]) if words[0] == "edit" and self.said else None  # a mistake is found here
        packages = own_code(spec) if spec else []
        with staged(trainer_of(spec), packages=packages, program=spec.program if spec else None) as folder:
            if spec is not None:
                write_sweep(spec, folder)
                words = [SWEEP_FILE if word == self.said[0] else word for word in words]
                if self.sweep is None:
                    drivers = drivers_of(self.client, spec.name) or drivers_of(self.client, None)
                    self._know(self._of_home(drivers))
            result = run_there(self.client, folder, words, self.home, self.variables)
        _, asked = redirect_out(words, "")
        if result["file"] is not None and asked is not None:
            Path(asked).write_bytes(base64.b64decode(result["file"]))
        sys.stdout.write(self._show(result["out"]))
        sys.stderr.write(self._show(result["err"]))
        if (
            result["code"] == 2
            and "no such sweep" in result["err"]
            and self.driver is not None
            and self.sweep is not None
        ):
            sys.stderr.write(self._why_not_there(self.driver))
        return int(result["code"])

    def _why_not_there(self, driver: Any) -> str:
        """Say what became of a driver that has not made its sweep's folder."""
        job = driver.submission_id
        if driver.status in UNDER_WAY:
            age = max(0.0, time.time() - (driver.start_time or 0) / 1000)
            return f"its driver (job {job}) started {age:.0f} s ago and has not opened it yet; try again in a moment\n"
        return (
            f"its driver (job {job}) has ended, {driver.status}; it printed:\n{output_of(self.client, job).strip()}\n"
        )


def run_json(address: str, words: Sequence[str], home: str | None = None) -> Any:
    """Run a command with `--json` on the cluster behind a job server and return what it printed.

    Raises:
        ClusterError: it could not be run there, or printed no JSON.
    """
    with staged() as folder:
        result = run_there(connect(address), folder, words, home)
    try:
        return json.loads(result["out"])
    except ValueError as error:
        raise ClusterError(f"`meansweep {' '.join(words)}` failed there: {result['err'].strip()}") from error


def run_there(
    client: Any, folder: Path, words: Sequence[str], home: str | None, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a command in a copy of `folder` on the cluster to its end; return its exit code, output and file.

    Raises:
        ClusterError: it could not be run there.
    """
    job = start(client, folder, words, home, variables=variables)
    wait(client, job)
    log = client.get_job_logs(job)
    result = read_result(log)
    if result is None:
        raise ClusterError(f"`meansweep {' '.join(words)}` could not be run on the cluster:\n{log.strip()}")
    client.delete_job(job)  # a question that was answered; the cluster would list it forever
    return result
