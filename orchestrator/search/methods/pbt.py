"""`method: pbt`: after each generation the worst members go on from copies of the best, slightly changed.

Jaderberg et al., arXiv 1711.09846, with truncation selection.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from meanflow_core.errors import Problem
from orchestrator.search.draws import Exploit, Member, Observation
from orchestrator.search.method import Method
from orchestrator.search.rule import Rule
from orchestrator.search.sweep import Sweep
from orchestrator.space import Parameter, Space

QUANTILE = 0.25
"""The share of the population that is replaced, and the share that it is replaced from."""
RESAMPLE = 0.25
"""Probability that a value is drawn again instead of moved."""
MOVE = 0.1
"""How far a value moves, as a share of its distribution; at least to the next choice or number."""
KEPT = ("data", "model", "ema", "trainer", "evaluation", "seed")
"""Sections that come with the copied weights and are never changed in mid-training."""
ATTEMPTS = 100


class Pbt(Method):
    """Population based training; the population is drawn at random, `run_cap` members."""

    name = "pbt"
    about = "population based training"
    several_metrics = False
    population = True
    reuses = False  # a member that is at its end takes no part

    @classmethod
    def problems(cls, sweep: Sweep) -> Iterator[Problem]:
        """It needs a size, members that report at the same steps, and no other rule that ends them."""
        if not sweep.run_cap:
            yield Problem(key="run_cap", rule="is missing: with `pbt` it is the size of the population")
        for key in sorted({"trainer.steps", "trainer.eval_every"} & set(sweep.space.names)):
            rule = "must be the same in the whole population, which `pbt` compares step by step"
            yield Problem(key=f"parameters.{key}", rule=rule)
        if type(sweep.early_terminate) is not Rule:
            yield Problem(key="early_terminate", rule="`pbt` replaces bad trials by itself; leave this out")

    def propose(self, position: int, known: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Method`."""
        return self.free(position), {}

    def exploits(
        self, members: Sequence[Member], step: int, valid: Callable[[dict[str, Any]], bool]
    ) -> list[Exploit]:  # fmt: skip
        """See `Method`."""
        count = max(1, int(len(members) * QUANTILE)) if len(members) > 1 else 0
        sign = 1.0 if self.sweep.metrics[0].goal == "minimize" else -1.0

        def rank(member: Member) -> tuple[float, int]:
            return (sign * member.value if math.isfinite(member.value) else math.inf, member.number)

        ranked = sorted(members, key=rank)
        best = [member for member in ranked[:count] if member.checkpoint]
        found = []
        for member in ranked[len(ranked) - count :] if best else []:
            chance = random.Random(f"{self.sweep.seed}:{member.trial}:{step}")
            donor = chance.choice(best)
            values = explore(self.space, donor.values, chance, valid)
            found.append(Exploit(member.trial, donor.trial, step, values, str(donor.checkpoint)))
        return found


def explore(
    space: Space, values: Mapping[str, Any], chance: random.Random, valid: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Return values near the given ones: each is moved by a tenth of its range, or drawn again.

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
        found = space.suggest(near)
        if space.allowed(found) and valid(found):
            return found
    return dict(values)


def _moved(parameter: Parameter, value: Any, direction: int) -> Any:
    """Return the value a tenth of the distribution away, back from an end that it would leave."""
    step = max(MOVE, 1 / parameter.size) if parameter.discrete else MOVE
    u = parameter.to_unit(value)
    target = u + direction * step
    return parameter.from_unit(target if 0 < target < 1 else u - direction * step)
