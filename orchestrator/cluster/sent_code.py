"""What code of the user's own goes to a cluster with a sweep or a training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.cluster.packaging import trainer_of
from orchestrator.source_files import own_packages, packages_of
from orchestrator.spec import SweepSpec


def own_code(spec: SweepSpec) -> list[str]:
    """Return the packages of the user's own that a sweep needs: what its trainer imports, networks, data, metrics."""
    trainer = trainer_of(spec)
    reached = packages_of(trainer.partition(":")[0]) if trainer else []
    return sorted({*own_packages(spec.named_code), *reached})


def packages_of_configs(files: Iterable[Path]) -> list[str]:
    """Return the packages of the user's own that training configurations name."""
    from meanflow_core.config import load_config

    configs = [load_config(file) for file in files if file.suffix in (".yaml", ".yml")]
    return own_packages(
        name
        for config in configs
        for name in (
            config.model.name,
            config.data.name,
            *(config.evaluation.metrics or ()),
            config.evaluation.features,
        )
    )
