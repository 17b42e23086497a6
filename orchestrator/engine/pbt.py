"""Population based training: after each generation the worst members go on from copies of the best, slightly changed.

A generation is the stretch to the next report step (`trainer.eval_every`). It turns once every member has reported
there, so that what happens is a function of the recorded reports, whatever the number of workers and however often the
sweep was interrupted (Jaderberg et al., arXiv 1711.09846, with truncation selection).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError
from orchestrator.ledger import TrialHistory
from orchestrator.space import Parameter
from orchestrator.spec import SweepSpec
from orchestrator.trials import TrialState
from orchestrator.worker import CheckpointStore

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger

QUANTILE = 0.25
"""The share of the population that is replaced, and the share that it is replaced from."""
RESAMPLE = 0.25
"""Chance that a value is drawn anew instead of moved."""
MOVE = 0.1
"""How far a value moves, as a share of its distribution; at least to the next choice or number."""
KEPT = ("data", "model", "ema", "trainer", "evaluation", "seed")
"""Sections that come with the copied weights and are never changed in mid-training."""
ATTEMPTS = 100


@dataclass(frozen=True)
class Exploit:
    """One member goes on from another's checkpoint with new values."""

    trial: str
    donor: str
    step: int
    values: dict[str, Any]
    checkpoint: str
    """Of the donor, at `step`."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict, an entry of the trial's `lineage`."""
        return asdict(self)


def turn_generation(ledger: Ledger, *, complete: bool) -> None:
    """Once the whole population stands at the same report, let its worst go on from copies of its best.

    Recorded first, copied after, and nobody goes on before both are done: a killed engine's successor finds the same
    members at the same step, decides the same, and copies again.

    Args:
        ledger: the sweep's ledger, open for writing; no runner holds a trial.
        complete: whether all members have been born.
    """
    spec = ledger.spec()
    searched = [history for history in ledger.histories() if not history.replicate]
    members = [history for history in searched if history.state in (TrialState.RUNNING, TrialState.WAITING)]
    steps = {history.last_step for history in members}
    step = max(steps, default=0)
    if not complete or len(steps) != 1 or step <= ledger.fact("generation", 0):
        return
    changes = exploits(spec, members, step)
    for change in changes:
        lineage = ledger.history(change.trial).labels.get("lineage", [])
        if not lineage or lineage[-1]["step"] < step:
            ledger.label(change.trial, "lineage", [*lineage, change.to_dict()])
    for change in changes:
        store = CheckpointStore.at(ledger.paths.trial(change.trial), spec.name, change.trial)
        store.adopt(step, change.checkpoint)
    ledger.note("generation", step)


def exploits(spec: SweepSpec, members: Sequence[TrialHistory], step: int) -> list[Exploit]:
    """Return who takes over from whom after the generation that ends at `step`.

    Args:
        spec: the sweep.
        members: the trials that have reported at `step` and go on.
        step: where they stand.
    """
    count = max(1, int(len(members) * QUANTILE)) if len(members) > 1 else 0
    sign = 1.0 if spec.metric.goal == "minimize" else -1.0

    def rank(member: TrialHistory) -> tuple[float, int]:
        value = float(member.points[step]["metrics"].get(spec.metric.name, math.nan))
        return (sign * value if math.isfinite(value) else math.inf, member.config_id)

    ranked = sorted(members, key=rank)
    best = [member for member in ranked[:count] if member.points[step]["checkpoint"]]
    found = []
    for member in ranked[len(ranked) - count :] if best else []:
        chance = random.Random(f"{spec.seed}:{member.id}:{step}")
        donor = chance.choice(best)
        values = explore(spec, donor.values, chance)
        found.append(Exploit(member.id, donor.id, step, values, str(donor.points[step]["checkpoint"])))
    return found


def explore(spec: SweepSpec, values: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return values near the given ones: each is moved by a tenth of its range, or drawn anew.

    What belongs to the weights themselves (`KEPT`) stays. Conditions and forbidden combinations are kept to; if nothing
    allowed is found, the values stay as they are.
    """

    def near(parameter: Parameter) -> Any:
        known = tuple(values[key] for key in parameter.keys if key in values)
        if len(known) == len(parameter.keys):
            value: Any = known if parameter.members else known[0]
            if parameter.name.partition(".")[0] in KEPT:
                return value
            if chance.random() >= RESAMPLE:
                return _moved(parameter, value, chance.choice((-1, 1)))
        return parameter.from_unit(chance.random())

    for _ in range(ATTEMPTS):
        found = spec.space.suggest(near)
        if not spec.space.allowed(found):
            continue
        try:
            spec.config_for(found)
        except ConfigError:
            continue  # the training configuration's own rules forbid it
        return found
    return dict(values)


def _moved(parameter: Parameter, value: Any, direction: int) -> Any:
    """Return the value a tenth of the distribution away, back from an end that it would leave."""
    step = max(MOVE, 1 / parameter.size) if parameter.discrete else MOVE
    u = parameter.to_unit(value)
    target = u + direction * step
    return parameter.from_unit(target if 0 < target < 1 else u - direction * step)
