"""One network judged at several scales of guidance, and the best of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from meanflow_core.metrics.build import HIGHER_IS_BETTER


def by_scale(
    judged: Mapping[float | None, Mapping[str, float]], suffix: str, higher: Collection[str] = HIGHER_IS_BETTER
) -> dict[str, float]:
    """Name the metrics of samples at several scales of guidance, and the best of each.

    Args:
        judged: the metrics by their bare names, at each scale; at None alone where guidance is no input.
        suffix: of every name, e.g. `1nfe`.
        higher: metrics whose larger values are better.
    """
    if None in judged:
        return {f"{metric}_{suffix}": value for metric, value in judged[None].items()}
    found = {f"{m}_{suffix}_w{scale:g}": value for scale, values in judged.items() for m, value in values.items()}
    for metric in next(iter(judged.values())):
        choose = max if metric in higher else min
        scale = choose(judged, key=lambda scale: judged[scale][metric])
        assert scale is not None
        found |= {f"best_{metric}_{suffix}": judged[scale][metric], f"best_{metric}_{suffix}_w": scale}
    return found
