"""What the demonstration plays on: a cluster, an MLflow server with a password, a laptop; what can be seen there."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from orchestrator.ledger.driver_lock import driver_of
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home, SweepPaths
from orchestrator.tracking.mlflow_store import Store
from orchestrator.trials.trial import TrialRecord, TrialState
from scripts.cluster_demo.claims import ClaimFailed, meanwhile, say
from scripts.cluster_demo.laptop import SHORT, SWEEP, Laptop, Size, write_sweeps
from scripts.cluster_demo.postgres import postgres, postgres_missing
from tests.cluster.local_cluster import MARK, LocalCluster, command_of, descendants
from tests.orchestrator.mlflow_stores import PASSWORD, USER, password_server

LEADING = ("ray::TrialWorker", "ray::ResourceTrainable")
"""Ray's titles of the process that leads a trial: by its class, or by what `tune.with_resources` makes of it."""
CREDENTIALS = f"MLFLOW_TRACKING_USERNAME={USER}\nMLFLOW_TRACKING_PASSWORD={PASSWORD.replace('%40', '@')}\n"


class Stage:
    """Starts it all; what it has started ends with the stack.

    Args:
        scratch: a folder with a short path.
        size: how much will be done.
        stack: closes it.
    """

    def __init__(self, scratch: Path, size: Size, stack: ExitStack) -> None:
        self.size, self.stack, self.scratch = size, stack, scratch
        self.cluster = LocalCluster(scratch)
        stack.callback(self.cluster.close)
        self.sweep: SweepPaths = Home(self.cluster.home).sweep(SWEEP)
        self.mlflow_folder, laptop = scratch / "mlflow", scratch / "laptop"
        laptop.mkdir()
        write_sweeps(laptop, size)
        write_credentials(Home(self.cluster.home), CREDENTIALS)
        say("a Ray cluster of a head without CPUs and two nodes, and an MLflow server")
        self.backend = self._backend()
        self.mlflow = stack.enter_context(ExitStack())
        with meanwhile(self._start_cluster):
            self.url = self.mlflow.enter_context(password_server(self.mlflow_folder, mark=MARK, backend=self.backend))
        self.laptop = Laptop(laptop, self.cluster, self.url)
        self.store = Store(self.url.replace("http://", f"http://{USER}:{PASSWORD.replace(' ', '%20')}@"))

    def _start_cluster(self) -> None:
        self.cluster.start_head()
        self.nodes = self.cluster.add_nodes(2)

    def _backend(self) -> str:
        """The data base below MLflow; empty for the server's own file."""
        if self.size is SHORT:
            return ""
        missing = postgres_missing()
        say(f"MLflow keeps its runs in {'SQLite: ' + missing if missing else 'PostgreSQL'}")
        return self.stack.enter_context(postgres()) if missing is None else ""

    def start_mlflow_again(self) -> None:
        """Start the MLflow server that was stopped: the same store, at the same address."""
        port = int(self.url.rpartition(":")[2])
        self.mlflow.enter_context(password_server(self.mlflow_folder, port, mark=MARK, backend=self.backend))

    def lose(self, node: int) -> None:
        """Kill a node, and have a new one join."""
        self.cluster.kill(self.nodes[node])
        [self.nodes[node]] = self.cluster.add_nodes(1)

    # ------------------------------------------------------------------------------------------ what is there

    def trials(self, sweep: SweepPaths | None = None) -> list[TrialRecord]:
        """Return the trials that a sweep's ledger knows."""
        try:
            return Ledger.open(sweep or self.sweep).trials()
        except LedgerError:  # not there yet
            return []

    def at_work(self, count: int) -> bool:
        """Whether so many trials are on their way, each with a report."""
        running = [t for t in self.trials() if t.state is TrialState.RUNNING and 0 < t.steps < self.size.steps]
        return len(running) >= count

    def driver(self) -> int:
        """Return the process that drives the sweep."""
        found = driver_of(self.sweep.lock)
        if found is None or found[0] is None:
            raise ClaimFailed("a driver is at work; found: none")
        return found[0]

    def pair_by_node(self) -> list[tuple[int, ...]]:
        """How many leading and other processes of a trial each node has; nothing before there is one of each."""
        found = []
        for node in self.nodes:
            names = [command_of(pid) for pid in descendants(node.pid)]
            found.append(tuple(sum(each.startswith(titles) for each in names) for titles in (LEADING, "ray::Rank")))
        return found if [sum(column) for column in zip(*found, strict=True)] == [1, 1] else []


def write_credentials(home: Home, lines: str) -> None:
    """Give a home its file of passwords and keys."""
    home.root.mkdir(parents=True, exist_ok=True)
    home.credentials.touch(mode=0o600)
    home.credentials.write_text(lines)
