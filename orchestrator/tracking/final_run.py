"""A final training as a run in MLflow, beside the trials of the sweep that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.config import write_yaml
from orchestrator.paths import Home
from orchestrator.spec import flat
from orchestrator.tracking.mlflow_delivery import Delivery
from orchestrator.tracking.mlflow_store import Sent, Store
from orchestrator.tracking.mlflow_views import final_description
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.run_writer import FAILED, FINISHED, KILLED, RUNNING, RunWriter, as_text
from orchestrator.tracking.sender import Sender
from orchestrator.tracking.tracker import run_ids

if TYPE_CHECKING:
    from meanflow_core.config import TrainConfig

FINAL = "final"


class FinalRunLogger:
    """Shows a final training in MLflow, nested under its sweep's run. As a sweep's tracker: never waits, loses nothing.

    Args:
        folder: of the training, `HOME/final/NAME`; the outbox is in it.
        store: where to.
        name: of the training.
        config: its configuration, with the evidence for it; of an own program the mapping that it gets.
        interval: seconds between deliveries.
    """

    def __init__(
        self, folder: Path, store: Store, *, name: str, config: TrainConfig | Mapping[str, Any],
        interval: float = 1.0,
    ) -> None:  # fmt: skip
        self._outbox = Outbox(folder / "outbox", write=True)
        self._run = RunWriter(self._outbox, FINAL)
        facts = _facts(config)
        evidence = facts.evidence
        sweep, trial = str(evidence.get("sweep", "")), str(evidence.get("trial", ""))
        params, parent = _origin(Home(folder.parents[1]), sweep, trial, store)
        self._run.begin(f"final {name}", sweep or "final", parent_id=parent)
        self._run.params({**params, **facts.params})
        environment = evidence.get("environment") or {}
        self._run.common_tags(sweep, "final", f"meansweep train {name}", environment)
        self._run.tags(
            {
                "meansweep.trial": trial,
                "meansweep.config_hash": facts.hash,
                "meansweep.state": "running",
                "mlflow.note.content": final_description(evidence, facts.steps),
            }
        )
        self._run.text("config.yaml", facts.yaml)
        self._run.dataset(facts.data, str(environment.get("data", "")).rpartition(":")[2])
        self._run.set_status(RUNNING)
        self._sender = Sender(Delivery(self._outbox, store), interval=interval)
        self._sender.start()

    def report(self, step: int, metrics: Mapping[str, float], images: Mapping[str, str]) -> None:
        """Add metrics and pictures of a step; what was shown before a resume is not shown again."""
        self._run.points([(step, metrics)])
        self._run.images(step, images)

    def ended(self, state: str, reason: str = "") -> None:
        """Close the run.

        Args:
            state: `finished`, `failed` or `interrupted`; the next run of the same training goes on with it.
            reason: why.
        """
        self._run.tags({"meansweep.state": state, "meansweep.reason": reason})
        self._run.set_status({"finished": FINISHED, "failed": FAILED}.get(state, KILLED))

    def close(self, timeout: float = 30.0) -> int:
        """Stop; wait at most `timeout` seconds for what is to be sent. Returns the number of records left."""
        left = self._sender.close(timeout)
        if not self._sender.is_alive():
            self._outbox.close()
        return left


@dataclass(frozen=True)
class _Facts:
    """What is shown of a configuration."""

    evidence: Mapping[str, Any]
    params: dict[str, str]
    hash: str
    """Empty of a program, whose overrides are its own."""
    steps: int | None
    yaml: str
    data: Mapping[str, Any] | None


def _facts(config: TrainConfig | Mapping[str, Any]) -> _Facts:
    if isinstance(config, Mapping):
        given = flat({key: value for key, value in config.items() if key != "evidence"})
        shown = {key: as_text(value) for key, value in given.items()}
        return _Facts(config["evidence"], shown, "", None, write_yaml(config), None)
    params = {"seed": str(config.seed), "trainer.steps": str(config.trainer.steps)}
    content = config.to_dict()
    return _Facts(config.evidence, params, config.hash(), config.trainer.steps, config.to_yaml(), content["data"])


def _origin(home: Home, sweep: str, trial: str, store: Store) -> tuple[dict[str, str], str | None]:
    """Return the parameters that the sweep showed for a trial, and the id of the sweep's run in the store."""
    if not sweep:
        return {}, None
    paths = home.sweep(sweep)
    try:
        records = Outbox(paths.outbox).records()
    except FileNotFoundError:  # the configuration has come from elsewhere
        return {}, None
    shown = (record.data["params"] for record in records if (record.run, record.what) == (trial, "params"))
    return dict(next(shown, {})), run_ids(paths, store).get("sweep")


def final_run_id(folder: Path, store: Store) -> str | None:
    """Return MLflow's id of a final training's run; None: it has not been sent yet.

    Args:
        folder: of the training.
        store: where it was sent.
    """
    return Sent.load(folder / "outbox", store).runs.get(FINAL)
