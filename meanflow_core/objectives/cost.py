"""What a step costs by its objective, counted in passes of the network. Reading it needs no torch."""

from __future__ import annotations

from meanflow_core.config import ObjectiveConfig

STEP = 3.0
"""A step of flow matching in forward passes of the batch: one forward, and a backward of two."""


def relative_cost(objective: ObjectiveConfig, *, low_precision: bool = False) -> float:
    """Return the cost of a training step in units of a flow-matching step of the same network.

    Passes are counted, each by its share of the rows; a tangent counts as a pass of its rows. Small networks pay more
    for a tangent (docs/performance.md has measured figures).

    Args:
        objective: `TrainConfig.objective`.
        low_precision: whether the network runs in bfloat16: the two ends of a finite split are float32 then.
    """
    spanning, guidance = objective.time.ratio, objective.guidance
    own = objective.preset.leg == "own"
    passes = 2.0 if own else 1.0  # two legs, or a tangent and u(X, r, r); one leg, or a tangent
    if objective.has_finite_split and not own and low_precision:
        passes += 1.0
    if not own and objective.direction:
        passes += 1.0
    asked = 0.0
    if guidance.active:
        share = (1.0 - guidance.dropout) * (guidance.end - guidance.start)
        rows = 1.0 - spanning if own else 1.0
        asks_null = guidance.input or guidance.effective_omega + guidance.kappa != 1.0
        asks_label = (guidance.input or guidance.kappa != 0.0) and not own
        asked = share * (rows * asks_null + spanning * asks_label)
    return (STEP + passes * spanning + asked) / STEP
