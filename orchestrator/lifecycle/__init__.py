"""What becomes of sweeps that have ended: removed, pruned, put away as one file, brought back; trials deleted."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.lifecycle.access import LifecycleError as LifecycleError
    from orchestrator.lifecycle.access import closed as closed
    from orchestrator.lifecycle.archives import archive as archive
    from orchestrator.lifecycle.archives import restore as restore
    from orchestrator.lifecycle.belongings import survey as survey
    from orchestrator.lifecycle.pruning import Rule as Rule
    from orchestrator.lifecycle.pruning import choose as choose
    from orchestrator.lifecycle.pruning import prune as prune
    from orchestrator.lifecycle.removal import remove as remove
    from orchestrator.lifecycle.trials import delete_trial as delete_trial
    from orchestrator.lifecycle.trials import keep_only as keep_only
    from orchestrator.lifecycle.trials import others_than_best as others_than_best

__getattr__, __all__ = lazy_face(__name__, __file__)
