"""Other tools' searches over the space of benchmarks/search_on_curves.py, asked through their own classes."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

from record_curves import STEPS

LENGTH, FIRST, ETA = STEPS[-1], 100, 4
METRIC = "fid"


class Peer:
    """A search as `search_on_curves.trained` asks it; its trials report at all recorded steps."""

    needs: tuple[str, ...] = ()

    @classmethod
    def installed(cls) -> bool:
        """Whether its packages are there."""
        return all(importlib.util.find_spec(name) is not None for name in cls.needs)

    def __init__(self, seed: int) -> None:
        self._count = 0

    def next(self) -> tuple[str, dict[str, Any], list[int]]:
        """Return (trial, values, steps at which it reports)."""
        trial, self._count = str(self._count), self._count + 1
        values = self.suggest(trial)
        if values["objective.time.law"] == "uniform":
            values = {key: value for key, value in values.items() if key != "objective.time.mean"}
        return trial, values, list(STEPS)

    def suggest(self, trial: str) -> dict[str, Any]:
        """Return the values of a new trial."""
        raise NotImplementedError

    def report(self, trial: str, step: int, value: float) -> bool:
        """Take in a report; return whether the trial goes on."""
        raise NotImplementedError

    def incumbent(self, ended: dict[str, float]) -> str:
        """Return the trial of the best value at its end, as these tools do."""
        return min(ended, key=lambda trial: ended[trial])

    def close(self) -> None:
        """Nothing is open."""


def _asked(trial: Any) -> dict[str, Any]:
    """Define the space by running, as Optuna does; the mean exists where the law has one."""
    values = {"objective.time.law": trial.suggest_categorical("objective.time.law", ["lognorm", "uniform"])}
    if values["objective.time.law"] == "lognorm":
        values["objective.time.mean"] = trial.suggest_float("objective.time.mean", -1.6, 0.8)
    return values | {
        "objective.time.ratio": trial.suggest_float("objective.time.ratio", 0.0, 1.0),
        "objective.guidance.scale": trial.suggest_float("objective.guidance.scale", 1.0, 3.0),
        "objective.guidance.kappa": trial.suggest_categorical("objective.guidance.kappa", [0.0, 0.5, 0.8]),
        "objective.weight.power": trial.suggest_float("objective.weight.power", 0.0, 1.5),
        "optimizer.lr": trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True),
    }


class OptunaTpe(Peer):
    """Optuna's grouped multivariate TPE with its successive halving."""

    needs = ("optuna",)

    def __init__(self, seed: int) -> None:
        import optuna

        super().__init__(seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(sampler=self._sampler(seed), pruner=self._pruner())
        self._trials: dict[str, Any] = {}

    def _sampler(self, seed: int) -> Any:
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, multivariate=True, group=True)

    def _pruner(self) -> Any:
        from optuna.pruners import SuccessiveHalvingPruner

        return SuccessiveHalvingPruner(min_resource=FIRST, reduction_factor=ETA)

    def suggest(self, trial: str) -> dict[str, Any]:
        """See `Peer`."""
        self._trials[trial] = self._study.ask()
        return _asked(self._trials[trial])

    def report(self, trial: str, step: int, value: float) -> bool:
        """See `Peer`."""
        from optuna.trial import TrialState

        asked = self._trials[trial]
        asked.report(value, step)
        if step >= LENGTH:
            self._study.tell(asked, value)
            return False
        if asked.should_prune():
            self._study.tell(asked, state=TrialState.PRUNED)
            return False
        return True


class OptunaHyperband(OptunaTpe):
    """The same with Optuna's Hyperband."""

    def _pruner(self) -> Any:
        from optuna.pruners import HyperbandPruner

        return HyperbandPruner(min_resource=FIRST, max_resource=LENGTH, reduction_factor=ETA)


class RayAsha(Peer):
    """Ray Tune's ASHA with its searcher over Optuna."""

    needs = ("ray", "optuna")

    def __init__(self, seed: int) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(seed)
        self._search = OptunaSearch(_asked_by_ray, metric=METRIC, mode="min", seed=seed)
        self._scheduler = AsyncHyperBandScheduler(
            time_attr="step", metric=METRIC, mode="min", max_t=LENGTH, grace_period=FIRST, reduction_factor=ETA
        )
        self._trials: dict[str, Any] = {}

    def suggest(self, trial: str) -> dict[str, Any]:
        """See `Peer`."""
        found = dict(self._search.suggest(trial))
        self._trials[trial] = SimpleNamespace(trial_id=trial, config=found)
        self._scheduler.on_trial_add(None, self._trials[trial])
        return found

    def report(self, trial: str, step: int, value: float) -> bool:
        """See `Peer`."""
        result = {"step": step, METRIC: value, "training_iteration": STEPS.index(step) + 1}
        decision = self._scheduler.on_trial_result(None, self._trials[trial], result)
        self._search.on_trial_result(trial, result)
        if step < LENGTH and decision == "CONTINUE":
            return True
        self._scheduler.on_trial_complete(None, self._trials[trial], result)
        self._search.on_trial_complete(trial, result=result)
        return False


def _asked_by_ray(trial: Any) -> None:
    _asked(trial)


class SyneTuneBohb(Peer):
    """Syne Tune's BOHB: ASHA with kernel densities."""

    needs = ("syne_tune",)
    kind = "BOHB"

    def __init__(self, seed: int) -> None:
        import logging

        import numpy as np
        from syne_tune.config_space import choice, loguniform, uniform
        from syne_tune.optimizer import baselines

        super().__init__(seed)
        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        np.random.seed(seed)  # its brackets are drawn from it
        space = {
            "objective.time.law": choice(["lognorm", "uniform"]),
            "objective.time.mean": uniform(-1.6, 0.8),
            "objective.time.ratio": uniform(0.0, 1.0),
            "objective.guidance.scale": uniform(1.0, 3.0),
            "objective.guidance.kappa": choice([0.0, 0.5, 0.8]),
            "objective.weight.power": uniform(0.0, 1.5),
            "optimizer.lr": loguniform(1e-4, 1e-2),
        }
        self._scheduler = getattr(baselines, self.kind)(
            config_space=space, metric=METRIC, time_attr="step", max_t=LENGTH, random_seed=seed,
            grace_period=FIRST, reduction_factor=ETA,
        )  # fmt: skip
        self._trials: dict[str, Any] = {}

    def suggest(self, trial: str) -> dict[str, Any]:
        """See `Peer`."""
        from datetime import datetime

        from syne_tune.backend.trial_status import Trial

        found = dict(self._scheduler.suggest().config)
        self._trials[trial] = Trial(int(trial), found, datetime.now())
        self._scheduler.on_trial_add(self._trials[trial])
        return found

    def report(self, trial: str, step: int, value: float) -> bool:
        """See `Peer`."""
        result = {"step": step, METRIC: value}
        if step >= LENGTH:
            self._scheduler.on_trial_complete(self._trials[trial], result)
            return False
        if self._scheduler.on_trial_result(self._trials[trial], result) == "CONTINUE":
            return True
        self._scheduler.on_trial_remove(self._trials[trial])
        return False


class SyneTuneAshaBore(SyneTuneBohb):
    """Syne Tune's ASHA with BORE."""

    kind = "ASHABORE"


PEERS: dict[str, type[Peer]] = {
    "Optuna group TPE + halving 4": OptunaTpe,
    "Optuna group TPE + Hyperband 4": OptunaHyperband,
    "Ray ASHA 4 + OptunaSearch": RayAsha,
    "Syne Tune BOHB 4": SyneTuneBohb,
}
