"""The search methods, by their word in the sweep file."""

from orchestrator.search.method import Method
from orchestrator.search.methods.cmaes import CmaEs
from orchestrator.search.methods.gp import GaussianProcess
from orchestrator.search.methods.grid import Grid
from orchestrator.search.methods.nsga2 import Nsga2
from orchestrator.search.methods.pbt import Pbt
from orchestrator.search.methods.qmc import Qmc
from orchestrator.search.methods.random_draws import Random
from orchestrator.search.methods.tpe import Tpe

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Grid, Random, Qmc, Tpe, CmaEs, GaussianProcess, Nsga2, Pbt)
}
ALIASES = {"bayes": "tpe"}
"""Other words for a method, as W&B has them."""
