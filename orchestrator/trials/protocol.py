"""What the engine and its runners say to each other: small frozen values that survive JSON.

An `Assignment` goes to a worker, `Report`s come back one by one, each answered by a `Decision`; an `Outcome` says how
the worker's run ended. `Wait` and `Done` are the engine's other answers when a runner asks for work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Literal, Self

OutcomeKind = Literal["finished", "stopped", "diverged", "oom", "lost", "infrastructure", "bug"]


@dataclass(frozen=True, kw_only=True)
class _Message:
    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict; `from_dict` of it gives an equal message."""
        return asdict(self)

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> Self:
        """Rebuild the message from `to_dict()`, also after a trip through JSON."""
        return cls(**dict(source))


@dataclass(frozen=True, kw_only=True)
class Assignment(_Message):
    """One piece of work: train this configuration from `start` to the last of `steps`, reporting at each of them."""

    trial: str
    """The trial's id: "7", or "7.2" for the second replicate of configuration 7."""
    sweep: str
    """The sweep's name."""
    config: dict[str, Any]
    """The complete nested training configuration."""
    trainer: str
    """`package.module:Class`."""
    steps: list[int]
    """Every step at which this trial reports, ascending; the last one ends it. Those up to `start` are done."""
    sweep_id: str = ""
    """No other sweep has it."""
    start: int = 0
    """The step of `checkpoint`; 0 without one."""
    checkpoint: str | None = None
    folder: str = ""
    """The trial's folder: config.yaml, log, checkpoints, images."""
    attempt: int = 0
    """0 for the first run of this trial, one more for each continuation or retry."""
    resources: dict[str, Any] = field(default_factory=dict)
    """`{"cpu": 1.0, "gpu": 0.25, "custom": {...}}`."""
    keep_checkpoints: bool = True
    """Whether reports should carry checkpoints."""
    metric: str = ""
    """The sweep's first metric: its best checkpoint is kept beside the last."""
    metrics: list[str] = field(default_factory=list)
    """Every metric of the sweep: one that is not finite ends the trial. Empty: any of the evaluation's."""
    goal: str = "minimize"
    """`minimize` or `maximize`."""
    program: dict[str, Any] | None = None
    """What runs instead of a trainer's class; see `orchestrator.spec.Program`. It reports where it likes."""

    @property
    def remaining(self) -> list[int]:
        """The report steps that are still to be reached."""
        return [step for step in self.steps if step > self.start]


@dataclass(frozen=True, kw_only=True)
class Report(_Message):
    """What a trial has reached at one report step. Its checkpoint is on disk before the report is sent."""

    step: int
    metrics: dict[str, float]
    """The evaluation's metrics at `step`, e.g. `eval/fid_1nfe`."""
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Training metrics since the last report, as (step, metrics)."""
    images: dict[str, str] = field(default_factory=dict)
    """Name to path of the pictures made at this step."""
    checkpoint: str | None = None
    seconds: float = 0.0
    """Time the worker spent on this stretch, since its start or its last report: training, evaluating, writing."""
    images_seen: int | None = None
    """Training images consumed from step 0 to `step`."""
    facts: dict[str, str] = field(default_factory=dict)
    """What only the worker can know, with the first report of a run: `device`, the data's `fingerprint`, and the code
    that was `loaded` by computed names (`orchestrator.source_files.loaded_here`)."""

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> Self:
        """Rebuild the report; JSON has made lists of the rows' pairs."""
        rows = [(int(step), dict(metrics)) for step, metrics in source.get("rows", [])]
        return cls(**{**source, "rows": rows})


@dataclass(frozen=True, kw_only=True)
class Outcome(_Message):
    """How one run of a trial on a worker ended."""

    kind: OutcomeKind
    reason: str = ""
    traceback: str | None = None
    last_step: int | None = None
    last_finite: dict[str, float] = field(default_factory=dict)
    """For a divergence: the last metrics that were finite."""


class Decision(Enum):
    """The answer to a report: go on, end here for good, or end here and keep the checkpoint for later."""

    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"


@dataclass(frozen=True, kw_only=True)
class Wait(_Message):
    """Nothing to hand out before something that runs has reported or ended, or a command has arrived."""

    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Done(_Message):
    """Nothing will be handed out any more: the runner lets what runs come to its end and leaves."""

    reason: str = ""
    failed: bool = False
    """Whether the sweep ended because of an error, `reason` with its traceback."""
