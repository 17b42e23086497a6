"""What there is to run trials on, and the GPUs that they get where the sweep file does not say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.formatting import count

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec


def read_with_grant(file: Path, words: Sequence[str], *, inline: bool = False) -> tuple[SweepSpec, Mapping[str, float]]:
    """Read a sweep's file. Where there are GPUs and it does not say, each worker of a trial gets one; a note says so.

    Args:
        file: the sweep's.
        words: `key=value`, which replace keys of it.
        inline: whether trials run in this process, whatever cluster $RAY_ADDRESS names.

    Returns:
        The sweep, and `{cpu, gpu, <custom>}` of the cluster that $RAY_ADDRESS names, or of this machine.

    Raises:
        ConfigError: everything that is wrong with the file.
        ConnectionError: the cluster does not answer.
    """
    from orchestrator.spec import read_spec

    spec = read_spec(file, words)
    on_cluster = bool(os.environ.get("RAY_ADDRESS")) and not inline
    there = _available(on_cluster)
    if not there.get("gpu") or not wants_default(spec):
        return spec, there
    where = "the cluster" if on_cluster else "this machine"
    note = f"{where} has {count(int(there['gpu']), 'GPU')}: resources.gpu is 1 a worker, since the file does not say"
    spec = read_spec(file, [*words, "resources.gpu=1"])
    return replace(spec, notes=(note, *spec.notes)), there


def wants_default(spec: SweepSpec) -> bool:
    """Whether the file leaves open how many GPUs a trial gets, and does not want to train on CPUs."""
    said = "gpu" in (spec.source["sweep"].get("resources") or {})
    device = spec.set.get("trainer.device", (spec.base.get("trainer") or {}).get("device", "auto"))
    return not said and not str(device).startswith("cpu")


def _available(on_cluster: bool) -> Mapping[str, float]:
    if on_cluster:
        from orchestrator.runners import available_on_cluster

        return available_on_cluster()
    from orchestrator.planning import available_here

    return available_here()
