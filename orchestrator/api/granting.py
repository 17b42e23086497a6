"""What there is to run trials on, and the GPUs that they get where the sweep file does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.formatting import count

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec


def with_grant(
    spec: SweepSpec, source: Path | str | Mapping[str, Any], words: Sequence[str], *, on_cluster: bool
) -> tuple[SweepSpec, Mapping[str, float]]:
    """Return the sweep with one GPU for each worker of a trial, where there are GPUs and its file does not say.

    A note among the sweep's says so.

    Args:
        spec: as read.
        source: the file it was read from, or its content.
        words: `key=value`, which replaced keys of it.
        on_cluster: whether to ask the cluster that $RAY_ADDRESS names what it has, and not this machine.

    Returns:
        The sweep, and `{cpu, gpu, <custom>}` of what was asked.
    """
    from orchestrator.spec import read_spec

    there = _available(on_cluster)
    if not there.get("gpu") or not wants_default(spec):
        return spec, there
    where = "the cluster" if on_cluster else "this machine"
    note = f"{where} has {count(int(there['gpu']), 'GPU')}: resources.gpu is 1 a worker, since the file does not say"
    spec = read_spec(source, [*words, "resources.gpu=1"])
    return replace(spec, notes=(note, *spec.notes)), there


def wants_default(spec: SweepSpec) -> bool:
    """Whether the file leaves open how many GPUs a trial gets, and does not want to train on CPUs."""
    said = "gpu" in (spec.source["sweep"].get("resources") or {})
    if spec.program is not None:
        return not said
    device = spec.set.get("trainer.device", (spec.base.get("trainer") or {}).get("device", "auto"))
    return not said and not str(device).startswith("cpu")


def _available(on_cluster: bool) -> Mapping[str, float]:
    if on_cluster:
        from orchestrator.runners import available_on_cluster

        return available_on_cluster()
    from orchestrator.planning import available_here

    return available_here()
