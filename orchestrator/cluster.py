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
from pathlib import Path
from typing import Any

from meanflow_core.errors import ConfigError, Problem
from meanflow_core.yamlfile import write_yaml
from orchestrator.cluster_jobs import (
    SWEEP_TAG,
    TRAINING_TAG,
    UNDER_WAY,
    ClusterError,
    connect,
    drivers_of,
    follow_job,
    output_of,
    start,
    trainings_of,
    variables_of,
    wait,
)
from orchestrator.remote import read_result, redirect_out
from orchestrator.spec import read_spec
from orchestrator.staging import staged, sweep_content

WRITES = {"sample": "samples.png", "report": "report.html"}
"""Commands that write a file here if no name is given."""
VALUED = ("-n", "-o", "--out", "--csv", "--home", "--name", "--sweep", "--trial", "--workers", "--gpus", "--top")
"""Options that are followed by a value."""


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
        ConfigError: the sweep file is wrong, or a sweep of this name runs there already.
        ClusterError: the cluster cannot be reached, or (with `follow`) the sweep failed.
    """
    spec = read_spec(file, overrides)
    client = connect(address)
    running = [job for job in drivers_of(client, spec.name) if job.status in UNDER_WAY]
    if running:
        rule = f"runs on {address} already (job {running[-1].submission_id}); give this one another `name`"
        raise ConfigError([Problem(key="name", value=spec.name, rule=rule, file=str(file))])
    with staged(spec.trainer) as folder:
        content = write_yaml(sweep_content(spec.source))
        (folder / "sweep.yaml").write_text(content, encoding="utf-8")
        tags = {SWEEP_TAG: spec.name, "trainer": spec.trainer}
        job = start(client, folder, ["--follow", "run", "sweep.yaml"], home, tags=tags)
    if follow:
        code = follow_job(client, job, leaving=f"it runs on; meansweep logs {spec.name} -f --address {address}")
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
        self.address, self.words, self.named = address, words, home
        self.client = connect(address)
        self.following = bool({"-f", "--follow"} & set(words))
        self.said = positional(words[1:])
        drivers = drivers_of(self.client, None)
        known = {job.metadata[SWEEP_TAG] for job in drivers}
        self.sweep = next((word for word in self.said if word in known), None)
        self._know([job for job in drivers if self.sweep in (None, job.metadata[SWEEP_TAG])])

    def _know(self, drivers: Sequence[Any]) -> None:
        """Take the home and the variables of the sweep's last driver."""
        self.driver = drivers[-1] if drivers else None
        self.home = self.named or (self.driver.metadata.get("home") if self.driver is not None else None) or None
        self.variables = {} if self.driver is None else variables_of(self.driver)

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
                    return follow_job(self.client, job)
                except KeyboardInterrupt:
                    self.client.stop_job(job)  # it only looks on
                    raise
        return self._ask()

    def _start(self, folder: Path, words: Sequence[str], tags: Mapping[str, str] | None = None) -> str:
        return start(self.client, folder, words, self.home, tags=tags, variables=self.variables)

    def _resume(self) -> int:
        words = [word for word in self.words if word not in ("-f", "--follow")]
        tags = dict(self.driver.metadata) if self.driver is not None else {}
        tags[SWEEP_TAG] = self.sweep or next(iter(self.said), "") or tags.get(SWEEP_TAG, "")
        with staged(tags.get("trainer") or None) as folder:
            job = self._start(folder, ["--follow", *words], tags)
        there = f"{tags[SWEEP_TAG]} --address {self.address}".lstrip()
        if self.following:
            return follow_job(self.client, job, leaving=f"it runs on; meansweep logs {there} -f")
        print(f"resumed; next: meansweep status {there}")
        return 0

    def _train(self) -> int:
        """Train on the cluster's workers; a training that runs there already is followed, not started again."""
        files = {word: Path(word) for word in self.said if Path(word).is_file()}
        name = value_of(self.words, "--name") or Path(self.said[0] if self.said else "").stem
        if files:
            self._check_training(next(iter(files.values())))
        running = [job for job in trainings_of(self.client, name) if job.status in UNDER_WAY]
        if running:
            print(f"{name} is being trained there; this is what it prints", file=sys.stderr)
            job = running[-1].submission_id
        else:
            words = [files[word].name if word in files else word for word in self.words]
            words += (
                [] if value_of(words, "--workers") else ["--workers", "1"]
            )  # none: it would train beside the driver
            with staged(files=list(files.values())) as folder:
                job = self._start(folder, ["--follow", *words], {TRAINING_TAG: name})
        return follow_job(self.client, job, leaving="it trains on; the same command shows it again")

    def _check_training(self, file: Path) -> None:
        """Find a mistake here, where it costs nothing, and the home of the sweep that the configuration comes from."""
        from meanflow_core.config import load_config

        config = load_config(file, [word for word in self.said if "=" in word])
        found = drivers_of(self.client, str(config.evidence.get("sweep", "")))
        if found:
            self._know(found)

    def _driver_output(self, driver: Any) -> int:
        if self.following and driver.status in UNDER_WAY:
            return follow_job(self.client, driver.submission_id, leaving="it runs on")
        lines = output_of(self.client, driver.submission_id).splitlines()
        most = int(value_of(self.words, "-n") or 50)
        print("\n".join(lines[-most:] if most else lines))
        return 0

    def _ask(self) -> int:
        words = list(self.words)
        if words[0] in WRITES and redirect_out(words, "")[1] is None:
            words += ["-o", WRITES[words[0]]]
        result = run_there(self.client, words, self.home, self.variables)
        _, asked = redirect_out(words, "")
        if result["file"] is not None and asked is not None:
            Path(asked).write_bytes(base64.b64decode(result["file"]))
        sys.stdout.write(result["out"])
        sys.stderr.write(result["err"])
        if result["code"] == 2 and "no such sweep" in result["err"] and self.sweep is not None:
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


def positional(words: Sequence[str]) -> list[str]:
    """Return the words that are neither options nor values of options."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("-") and before not in VALUED
    ]


def value_of(words: Sequence[str], option: str) -> str | None:
    """Return the value of an option, None where it is not given."""
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{option}=") and option.startswith("--"):
            return word.partition("=")[2]
    return None


def run_json(client: Any, words: Sequence[str], home: str | None = None) -> Any:
    """Run a command with `--json` on the cluster and return what it printed.

    Raises:
        ClusterError: it could not be run there, or printed no JSON.
    """
    result = run_there(client, words, home)
    try:
        return json.loads(result["out"])
    except ValueError as error:
        raise ClusterError(f"`meansweep {' '.join(words)}` failed there: {result['err'].strip()}") from error


def run_there(
    client: Any, words: Sequence[str], home: str | None, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a command on the cluster to its end and return its exit code, output and file.

    Raises:
        ClusterError: it could not be run there.
    """
    with staged() as folder:
        job = start(client, folder, words, home, variables=variables)
    wait(client, job)
    log = client.get_job_logs(job)
    result = read_result(log)
    if result is None:
        raise ClusterError(f"`meansweep {' '.join(words)}` could not be run on the cluster:\n{log.strip()}")
    return result
