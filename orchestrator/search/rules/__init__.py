"""The rules of early stopping, by their word in the sweep file."""

from orchestrator.search.rule import Rule
from orchestrator.search.rules.asha import Asha, Hyperband
from orchestrator.search.rules.median import Median, Percentile
from orchestrator.search.rules.patience import Patience
from orchestrator.search.rules.threshold import Threshold

RULES: dict[str, type[Rule]] = {
    rule.name: rule for rule in (Asha, Hyperband, Median, Percentile, Patience, Threshold, Rule)
}
