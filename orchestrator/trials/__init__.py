"""What a trial is, and what driver and worker tell each other about it."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.trials.failures import BAD_REGION as BAD_REGION
    from orchestrator.trials.failures import goes_on as goes_on
    from orchestrator.trials.failures import sweep_breaking_bug as sweep_breaking_bug
    from orchestrator.trials.protocol import Assignment as Assignment
    from orchestrator.trials.protocol import Decision as Decision
    from orchestrator.trials.protocol import Done as Done
    from orchestrator.trials.protocol import Outcome as Outcome
    from orchestrator.trials.protocol import OutcomeKind as OutcomeKind
    from orchestrator.trials.protocol import Report as Report
    from orchestrator.trials.protocol import Wait as Wait
    from orchestrator.trials.scoring import LAST as LAST
    from orchestrator.trials.scoring import MEAN as MEAN
    from orchestrator.trials.scoring import At as At
    from orchestrator.trials.scoring import best_of as best_of
    from orchestrator.trials.scoring import score as score
    from orchestrator.trials.scoring import scores as scores
    from orchestrator.trials.seeds import BadSeed as BadSeed
    from orchestrator.trials.seeds import Group as Group
    from orchestrator.trials.seeds import group_by_config as group_by_config
    from orchestrator.trials.seeds import value_of as value_of
    from orchestrator.trials.trial import Failure as Failure
    from orchestrator.trials.trial import TrialRecord as TrialRecord
    from orchestrator.trials.trial import TrialState as TrialState
    from orchestrator.trials.trial import best_first as best_first
    from orchestrator.trials.trial import better as better

__getattr__, __all__ = lazy_face(__name__, __file__)
