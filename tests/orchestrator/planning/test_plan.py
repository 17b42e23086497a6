"""What a sweep is going to do and cost: counts, rungs, expected savings, measured costs, the budget."""

import itertools
import json
import math
import random
from fractions import Fraction

import pytest
import yaml

from orchestrator.planning.cost import expected_reaching
from orchestrator.planning.plan import against_actual, make_plan, render_plan, spoken_seconds
from orchestrator.planning.probe import Measurement, available_here, choose_probe_configs, measure, work_of
from orchestrator.search.curve import Curve
from orchestrator.spec.sweep import read_spec


def spec_of(tmp_path, **changes):
    content = {
        "base": {"model": {"name": "mlp", "width": 64}, "trainer": {"steps": 1000, "eval_every": 250}},
        "method": "random",
        "metric": {"name": "eval/fid_1nfe"},
        "run_cap": 10,
        "parameters": {"optimizer.lr": {"min": 1e-4, "max": 1e-2}},
        **changes,
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return read_spec(path)


def cost(work=1.0, **changes):
    found = {
        "work": work,
        "seconds_per_step": 0.01,
        "evaluation_seconds": 2.0,
        "startup_seconds": 5.0,
        "peak_memory": 2**30,
        "checkpoint_bytes": 2**20,
        "device": "NVIDIA",
    }
    return Measurement(**{**found, **changes})


# -------------------------------------------------------------------------------------------------- counts


def test_the_json_of_a_plan_has_the_words_of_the_contract(tmp_path):
    plan = json.loads(json.dumps(make_plan(spec_of(tmp_path)).to_dict()))
    contract = {
        "sweep",
        "trials",
        "grid_size",
        "parameters",
        "duplicates",
        "reused",
        "rungs",
        "concurrency",
        "estimate",
    }
    assert contract <= set(plan)
    assert (plan["sweep"], plan["trials"], plan["grid_size"]) == ("sweep", 10, None)
    assert plan["parameters"][0]["name"] == "optimizer.lr"
    assert plan["estimate"]["steps"] == 10 * 1000


def test_a_plan_says_what_is_trained_and_what_of_it_is_a_default(tmp_path):
    from meanflow_core.config import load_config
    from meanflow_core.nets import build_net

    parameters = {"model.width": {"values": [32, 64]}, "optimizer.lr": {"min": 1e-4, "max": 1e-2}}
    plan = make_plan(spec_of(tmp_path, parameters=parameters, set={"trainer.batch_size": 96}), thorough=True)
    nets = [build_net(load_config({"model.name": "mlp", "model.width": w}).model, (1, 8, 8), 10) for w in (32, 64)]
    low, high = (sum(p.numel() for p in net.parameters()) for net in nets)
    text = render_plan(plan)
    assert f"network         mlp, {low:,} to {high:,} parameters\n" in text
    assert "data            digits (rows of 1x8x8) (default)\n" in text
    assert "objective       meanflow (default)\n" in text
    assert "steps a trial   1000\n" in text
    assert "batch           96\n" in text
    assert "metric          minimize eval/fid_1nfe\n" in text
    assert "seed            0 (default)\n" in text
    assert json.loads(json.dumps(plan.to_dict()))["training"][0]["what"] == "data"


def test_a_plan_of_a_trainer_of_ones_own_says_which(tmp_path):
    base = {"x": 1, "trainer": {"steps": 10}}
    spec = spec_of(tmp_path, base=base, trainer="mine.train:T", parameters={"x": {"values": [1, 2]}})
    text = render_plan(make_plan(spec))
    assert "trainer         mine.train:T\n" in text
    assert "steps a trial   10\n" in text
    assert "network" not in text


def test_a_plan_says_what_ratio_its_seeds_can_tell(tmp_path):
    def told(replicates=None, spread=None):
        plan = make_plan(spec_of(tmp_path, replicates=replicates), spread=spread, thorough=True)
        return plan.power, next(line for line in render_plan(plan).splitlines() if line.startswith("seeds "))

    alone, text = told()
    assert (alone.seeds, alone.ratio) == (1, None)
    assert "no difference can be tested" in text
    four, text = told({"top": 2, "seeds": 3})
    assert four.ratio == pytest.approx(1.35, abs=0.005)  # noncentral t with 3 degrees of freedom, spread 0.1 sqrt 2
    assert "4 each of the best: finds that one is 1.35 times worse (spread from seed to seed 10 %, assumed)" in text
    seen, text = told({"top": 2, "seeds": 3}, ("digits", 0.2 * math.sqrt(2)))
    assert math.log(seen.ratio) == pytest.approx(2 * math.log(four.ratio))
    assert "spread from seed to seed 20 %, seen in digits" in text
    assert told({"top": 2, "seeds": 7})[0].ratio < four.ratio


def test_combinations_that_train_alike_are_duplicates(tmp_path):
    # kappa 0 written out is kappa left out
    parameters = {
        "objective.guidance.scale": {"values": [1.0, 2.0, 3.0]},
        "objective.guidance.dropout": {"values": [0.1, 0.2]},
        "objective.guidance.kappa": {"values": [0.0, 0.5], "when": {"objective.guidance.scale": "> 1"}},
    }
    spec = spec_of(tmp_path, parameters=parameters, method="grid", run_cap=None)
    plan = make_plan(spec)
    hashes = [spec.config_hash(spec.config_for(values)) for values in spec.space.grid()]
    assert plan.grid_size == len(hashes) == 10
    assert plan.trials == len(set(hashes)) == 10 - plan.duplicates


def test_a_conditional_key_at_its_default_is_no_new_configuration(tmp_path):
    parameters = {
        "optimizer.lr": {"values": [1e-4, 2e-4]},
        "optimizer.beta1": {"values": [0.8, 0.9], "when": {"optimizer.lr": 1e-4}},
        "optimizer.beta2": {"values": [0.95], "when": {"optimizer.beta1": 0.9}},
    }
    assert make_plan(spec_of(tmp_path, parameters=parameters, method="grid", run_cap=None)).trials == 3


def test_configurations_finished_elsewhere_are_reused_skipped_or_run_again(tmp_path):
    parameters = {"optimizer.lr": {"values": [1e-4, 2e-4, 3e-4, 4e-4]}}
    choices = {
        way: spec_of(tmp_path, parameters=parameters, method="grid", run_cap=None, on_duplicate=way)
        for way in ("reuse", "skip", "run")
    }
    spec = choices["reuse"]
    history = {spec.config_hash(spec.config_for({"optimizer.lr": lr}, seed=spec.seed)) for lr in (2e-4, 4e-4, 9e-4)}
    found = {way: make_plan(spec, history=history) for way, spec in choices.items()}
    assert {way: (p.trials, p.reused, p.estimate.trainings) for way, p in found.items()} == {
        "reuse": (4, 2, 2),
        "skip": (2, 2, 2),
        "run": (4, 0, 4),
    }


def test_run_cap_cuts_a_grid_and_a_finite_space_ends_a_search(tmp_path):
    parameters = {"optimizer.lr": {"values": [1e-4, 2e-4, 3e-4]}, "model.depth": {"values": [1, 2]}}
    assert make_plan(spec_of(tmp_path, parameters=parameters, method="grid", run_cap=5)).trials == 5
    assert make_plan(spec_of(tmp_path, parameters=parameters, method="grid", run_cap=7)).trials == 6
    plan = make_plan(spec_of(tmp_path, parameters=parameters, run_cap=40))
    assert plan.trials == 6
    assert "only 6 combinations exist" in plan.notes[0]
    assert make_plan(spec_of(tmp_path, parameters=parameters, run_cap=40, on_duplicate="run")).trials == 40
    assert make_plan(spec_of(tmp_path, run_cap=None, budget={"wall_clock": "1h"})).trials is None


def test_the_share_of_forbidden_combinations_is_estimated(tmp_path):
    parameters = {
        "objective.guidance.start": {"min": 0.0, "max": 1.0},
        "objective.guidance.end": {"min": 0.0, "max": 1.0},
    }
    forbid = [{"objective.guidance.start": "> objective.guidance.end"}, {"objective.guidance.end": "> 0.8"}]
    plan = make_plan(spec_of(tmp_path, parameters=parameters, forbid=forbid))
    assert plan.forbidden == pytest.approx(1 - 0.8**2 / 2, abs=0.04)  # what is left is a triangle
    assert make_plan(spec_of(tmp_path)).forbidden == 0


# ------------------------------------------------------------------------------------- steps and their saving


def test_the_expected_steps_are_those_that_the_rule_itself_leaves(tmp_path):
    spec = spec_of(tmp_path, early_terminate={"type": "asha", "min_iter": 100, "eta": 3, "brackets": 2}, run_cap=20)
    config = spec.config_for({})
    expected = dict(expected_reaching(spec, 20, config))
    assert list(expected) == [100, 300, 900, 1000]
    chance, sums, repeats = random.Random(1), dict.fromkeys(expected, 0), 300
    for _ in range(repeats):
        curves, order = {}, itertools.count()
        for number in range(20):  # one worker: a trial after the other, of constant value
            value, trial = chance.random(), str(number)
            curves[trial] = Curve(number=number, length=1000, rungs=(100, 300, 900))
            for step in expected:
                sums[step] += 1
                curves[trial].add(step, value, next(order))
                if spec.early_terminate.reason_to_stop("minimize", curves, trial):
                    break
    for step, total in sums.items():
        assert expected[step] == pytest.approx(total / repeats, rel=0.05)


PROMOTE = {"type": "asha", "min_iter": 100, "eta": 3, "promote": True}


@pytest.mark.parametrize("promote", [True, False])
def test_the_trials_that_no_rung_judges_are_planned_to_their_end(tmp_path, promote):
    kept, let = (
        dict(expected_reaching(spec, 60, spec.config_for({})))
        for audit in (0, 0.1)
        for spec in [spec_of(tmp_path, early_terminate={**PROMOTE, "promote": promote, "audit": audit}, run_cap=60)]
    )
    assert kept[100] == let[100] == 60
    assert let[1000] - kept[1000] == pytest.approx(6, abs=1)  # six of sixty


def test_with_promotion_about_one_in_eta_gets_to_the_next_rung(tmp_path):
    spec = spec_of(tmp_path, early_terminate={**PROMOTE, "audit": 0}, run_cap=81)
    reaching = dict(expected_reaching(spec, 81, spec.config_for({})))
    assert list(reaching) == [100, 300, 900, 1000]
    assert reaching[100] == 81
    assert 27 <= reaching[300] <= 33
    assert 9 <= reaching[900] <= 15
    assert 3 <= reaching[1000] <= 7
    (only,) = {count for _, count in expected_reaching(spec, 1, spec.config_for({}))}
    assert only == 1  # a single trial is trained to its end


def test_the_first_rung_passes_what_its_rule_gives_exactly(tmp_path):
    spec = spec_of(tmp_path, early_terminate={"type": "asha", "min_iter": 500, "eta": 2}, run_cap=4)
    # the first always goes on; the second with 1/2, the third with 2/3 (rounded up), the fourth with 2/4
    passing = 1 + Fraction(1, 2) + Fraction(2, 3) + Fraction(2, 4)
    estimate = make_plan(spec).estimate
    assert estimate.steps == pytest.approx(float(4 * 500 + passing * 500), rel=0.01)
    assert estimate.saved == pytest.approx(1 - estimate.steps / 4000)


def test_brackets_save_less_and_other_rules_are_not_predicted(tmp_path):
    def saved(**rule):
        return make_plan(spec_of(tmp_path, early_terminate=rule, run_cap=30)).estimate.saved

    one = saved(type="asha", min_iter=100)
    assert one > saved(type="asha", min_iter=100, brackets=3) > 0.1
    assert saved(type="median", min_iter=100) == 0


def test_a_very_long_sweep_is_planned_by_the_shares_of_a_long_one(tmp_path):
    spec = spec_of(tmp_path, early_terminate={"type": "asha", "min_iter": 100, "eta": 3, "audit": 0})
    config = spec.config_for({})
    long, very_long = (expected_reaching(spec, trials, config) for trials in (2000, 2_000_000_000))
    assert very_long[0][1] == 2_000_000_000
    assert [count for _, count in very_long] == pytest.approx([1e6 * count for _, count in long])


def test_replicates_are_trained_to_their_end(tmp_path):
    spec = spec_of(
        tmp_path,
        early_terminate={"type": "asha", "min_iter": 500, "eta": 2},
        run_cap=4,
        replicates={"top": 2, "seeds": 3},
    )
    estimate = make_plan(spec).estimate
    assert estimate.trainings == 10
    assert estimate.steps == pytest.approx(2000 + (1 + 1 / 2 + 2 / 3 + 1 / 2) * 500 + 6 * 1000, rel=0.01)


# ----------------------------------------------------------------------------------------------------- costs


def test_costs_follow_from_a_measurement(tmp_path):
    spec = spec_of(tmp_path, resources={"cpu": 1, "gpu": 0.5}, budget={"gpu_hours": 0.05})
    plan = make_plan(spec, probe=[cost()], resources_available={"cpu": 8, "gpu": 2})
    estimate = plan.estimate
    assert plan.concurrency == 4
    seconds = 10 * (5 + 1000 * 0.01 + 4 * 2)  # start-up, steps, evaluations at 250, 500, 750 and 1000
    assert estimate.work_seconds == pytest.approx(seconds)
    assert estimate.wall_seconds == pytest.approx(seconds / 4)
    assert estimate.gpu_hours == pytest.approx(seconds / 2 / 3600)
    assert estimate.disk_bytes == 10 * 2**20
    assert plan.over_budget == ()


def test_dearer_configurations_cost_more_and_the_range_is_told(tmp_path):
    parameters = {"model.width": {"values": [32, 64]}, "optimizer.lr": {"min": 1e-4, "max": 1e-2}}
    spec = spec_of(tmp_path, parameters=parameters, run_cap=40)
    cheap, dear = choose_probe_configs(spec)
    assert (cheap["model"]["width"], dear["model"]["width"]) == (32, 64)
    probe = [cost(work_of(cheap), seconds_per_step=0.01), cost(work_of(dear), seconds_per_step=0.03)]
    estimate = make_plan(spec, probe=probe).estimate
    low, high = estimate.wall_range
    assert low == pytest.approx(40 * (5 + 10 + 8))
    assert high == pytest.approx(40 * (5 + 30 + 8))
    assert low + (high - low) * 0.3 < estimate.wall_seconds < low + (high - low) * 0.7


def test_seconds_of_a_cpu_say_nothing_about_gpu_hours(tmp_path):
    spec = spec_of(tmp_path, resources={"gpu": 1})
    assert make_plan(spec, probe=[cost(device="cpu")]).estimate.gpu_hours is None


def test_what_does_not_fit_the_budget_is_said(tmp_path):
    spec = spec_of(
        tmp_path,
        resources={"gpu": 1},
        replicates={"top": 2, "seeds": 2},
        budget={"gpu_hours": 0.05, "wall_clock": "4m", "trials": 12},
    )
    plan = make_plan(spec, probe=[cost()], resources_available={"cpu": 1, "gpu": 1})
    assert [reason.split(",")[1].split()[0] for reason in plan.over_budget] == [
        "budget.trials",
        "budget.gpu_hours",
        "budget.wall_clock",
    ]
    assert all(f"does not fit: {reason}" in render_plan(plan) for reason in plan.over_budget)
    assert len(make_plan(spec).over_budget) == 1  # without a measurement only the count is known


def test_a_trial_that_fits_nowhere_is_said(tmp_path):
    plan = make_plan(spec_of(tmp_path, resources={"gpu": 1, "workers": 4}), resources_available={"cpu": 8, "gpu": 1})
    assert plan.concurrency == 0
    assert plan.over_budget == (
        "no trial fits: one needs 1 cpu, 1 gpu for each of 4 workers, and there is 8 cpu, 1 gpu",
    )


def test_concurrency_is_cut_by_max_concurrent_and_by_the_trials_there_are(tmp_path):
    available = {"cpu": 64, "gpu": 0}
    assert make_plan(spec_of(tmp_path, max_concurrent=3), resources_available=available).concurrency == 3
    assert make_plan(spec_of(tmp_path), resources_available=available).concurrency == 10
    assert make_plan(spec_of(tmp_path)).concurrency == 1


def test_planned_amounts_are_compared_with_what_was_spent(tmp_path):
    plan = make_plan(spec_of(tmp_path), probe=[cost()]).to_dict()
    rows = {row["what"]: row for row in against_actual(plan, {"steps": 12_000, "trials": 9, "unheard_of": 1})}
    assert set(rows) == {"steps", "trials"}
    assert rows["steps"] == {"what": "steps", "planned": 10_000, "actual": 12_000, "ratio": 1.2}


def test_the_text_tells_the_plan(tmp_path):
    spec = spec_of(
        tmp_path,
        parameters={
            "objective.time.law": {"values": ["uniform", "lognorm"]},
            "objective.time.mean": {"min": -1.0, "max": 0.5, "when": {"objective.time.law": "lognorm"}},
        },
        early_terminate={"type": "asha", "min_iter": 300},
    )
    text = render_plan(make_plan(spec, probe=[cost()]))
    assert text.startswith("sweep: random, 10 trials\n")
    for part in ("uniform -1 .. 0.5   when objective.time.law = lognorm", "steps 300, 900", "on NVIDIA", "MiB"):
        assert part in text
    assert "--probe" in render_plan(make_plan(spec))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.25, "3.25s"), (95, "1m35s"), (3599.7, "1h00m"), (5400, "1h30m"), (345600, "4.0d")]
)
def test_durations_are_spoken(seconds, text):
    assert spoken_seconds(seconds) == text


# ------------------------------------------------------------------------------------------------ measuring


class CountingTrainer:
    """Each step costs 0.5 s on the clock below, an evaluation 3 s, the start 7 s."""

    now = 0.0
    trained = 0

    def __init__(self, config):
        assert config["trainer"]["steps"] == 1000
        CountingTrainer.now += 7
        CountingTrainer.trained = 0

    def train(self, steps):
        CountingTrainer.now += 0.5 * steps
        CountingTrainer.trained += steps
        return []

    def evaluate(self):
        CountingTrainer.now += 3
        return {"loss": 1.0}

    def state_dict(self):
        import numpy as np

        return {"weights": {"a": np.zeros(100, dtype=np.float32)}, "step": 3}


def test_a_measurement_reads_the_clock(tmp_path):
    config = {"trainer": {"steps": 1000, "batch_size": 8}}
    found = measure(config, f"{__name__}:CountingTrainer", seconds=2.0, clock=lambda: CountingTrainer.now)
    assert (found.startup_seconds, found.seconds_per_step, found.evaluation_seconds) == (7.0, 0.5, 3.0)
    assert found.checkpoint_bytes == 408
    assert found.peak_memory > 2**20
    assert found.work == work_of(config)
    assert CountingTrainer.trained < 20


def test_a_measurement_trains_no_further_than_a_trial():
    config = {"trainer": {"steps": 1000}}

    class Short(CountingTrainer):
        def __init__(self, config):
            CountingTrainer.trained = 0

    globals()["Short"] = Short
    for steps in (1, 3):
        measure({**config, "trainer": {"steps": steps}}, f"{__name__}:Short", clock=lambda: CountingTrainer.now)
        assert CountingTrainer.trained <= steps


def test_work_grows_with_rows_network_and_guidance():
    def config(rows=64, guidance=None, **model):
        objective = {
            "time": {"ratio": 0.25},
            "guidance": {"omega": 1.0, "kappa": 0.0, "scale": None} | (guidance or {}),
        }
        data = {"name": "digits"}
        return {"trainer": {"batch_size": rows}, "data": data, "model": model, "objective": objective}

    mlp = {"name": "mlp", "width": 64, "depth": 2}
    base = work_of(config(**mlp))
    assert work_of(config(rows=128, **mlp)) == 2 * base
    assert 3 * base < work_of(config(**{**mlp, "width": 128})) < 4 * base  # its first and last layer only double
    guided = work_of(config(**mlp, guidance={"omega": 2.0}))
    assert base < guided < work_of(config(**mlp, guidance={"kappa": 0.5, "scale": 2.0}))
    assert work_of(config(**mlp, guidance={"scale": 1.0})) == base
    dit = {"name": "dit", "width": 64, "depth": 2, "heads": 4, "patch": 2}
    assert work_of(config(**dit)) < work_of(config(**{**dit, "patch": 1}))
    unet = {"name": "unet", "channels": 32, "blocks": 2, "channel_mult": [1, 2]}
    assert work_of(config(**unet)) < work_of(config(**{**unet, "channel_mult": [2, 2]}))


def test_this_machine_has_processors(monkeypatch):
    assert available_here()["cpu"] >= 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert available_here()["gpu"] == 0


@pytest.mark.parametrize(
    ("workers", "sharding", "memory", "said"),
    [(1, "fsdp", 100, "100 MiB"), (4, "none", 100, "100 MiB"), (4, "fsdp", 55, "55 MiB a worker at most")],
)
def test_workers_that_share_a_network_need_less_memory_each(tmp_path, workers, sharding, memory, said):
    spec = spec_of(tmp_path, resources={"cpu": 1, "workers": workers}, set={"trainer.sharding": sharding})
    plan = make_plan(spec, probe=[cost(peak_memory=100 * 2**20, checkpoint_bytes=60 * 2**20)])
    assert plan.estimate.peak_memory == memory * 2**20
    assert f"memory a trial  {said}" in render_plan(plan)


@pytest.mark.parametrize(
    ("shown", "gpus"),
    [
        (None, 4), ("", 0), ("-1", 0), ("NoDevFiles", 0), ("2", 1), ("0, 3", 2), ("1,-1,2", 1), ("0,1,2,3,4,5", 4),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,GPU-1", 2), ("MIG-66c4d3f0-7a8e-5b6f-9d5b-0c6b2f1f4a55", 1),
    ],
)  # fmt: skip
def test_the_gpus_of_this_machine_are_those_that_are_shown(monkeypatch, shown, gpus):
    monkeypatch.setattr("orchestrator.planning.probe._gpus_of_driver", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert available_here()["gpu"] == gpus


# ------------------------------------------------------------------------------------------------ objectives


def over_objectives(tmp_path, *names, **changes):
    parameters = {"objective.name": {"values": list(names)}, "optimizer.lr": {"min": 1e-4, "max": 1e-2}}
    return spec_of(tmp_path, parameters=parameters, run_cap=30, **changes)


def test_a_plan_over_objectives_says_what_a_step_of_each_costs(tmp_path):
    plan = make_plan(over_objectives(tmp_path, "meanflow", "imf", "soflow", "shortcut", "lsd"))
    quarter = 0.25 / 3
    assert plan.step_costs == pytest.approx({
        "meanflow": 1 + quarter, "soflow": 1 + quarter, "imf": 1 + 2 * quarter, "shortcut": 1 + 2 * quarter,
        "lsd": 1 + 2 * quarter,
    }, abs=1e-4)  # fmt: skip
    assert "cost of a step  meanflow 1.08, soflow 1.08, imf 1.17" in render_plan(plan)
    assert json.loads(json.dumps(plan.to_dict()))["step_costs"]["lsd"] == 1.1667
    guided = {"objective.guidance.scale": 2.0, "objective.guidance.kappa": 0.5}
    costs = make_plan(over_objectives(tmp_path, "meanflow", "shortcut", set=guided)).step_costs
    # 90 % of the rows ask for the null label, and of those with r < t for their own; no own leg asks for those rows
    assert costs["meanflow"] == pytest.approx(1 + (0.25 + 0.9 * 1.25) / 3, abs=1e-4)
    assert costs["shortcut"] == pytest.approx(1 + (0.5 + 0.9 * 0.75) / 3, abs=1e-4)
    told = {"objective.guidance.input": True, "evaluation.guidance": [1.0]}
    metric = {"name": "eval/best_fid_1nfe"}
    costs = make_plan(over_objectives(tmp_path, "meanflow", "imf", set=told, metric=metric)).step_costs
    assert costs["meanflow"] == pytest.approx(1 + (0.25 + 0.9 * 1.25) / 3, abs=1e-4)
    low = make_plan(over_objectives(tmp_path, "meanflow", "soflow", set={"trainer.precision": "bf16"})).step_costs
    assert low == pytest.approx({"meanflow": 1 + quarter, "soflow": 1 + 2 * quarter}, abs=1e-4)
    assert make_plan(spec_of(tmp_path)).step_costs == {}


ASHA = {"type": "asha", "min_iter": 250}


@pytest.mark.parametrize(
    ("names", "changes", "warned"),
    [
        (("meanflow", "alphaflow"), {"early_terminate": ASHA}, True),
        (("meanflow", "alphaflow"), {"early_terminate": {**ASHA, "promote": True}}, True),
        (("meanflow", "alphaflow"), {"early_terminate": {"type": "median"}}, True),
        (("meanflow", "alphaflow"), {"early_terminate": {**ASHA, "by": "objective.name"}}, False),
        (("meanflow", "alphaflow"), {"early_terminate": {"type": "patience"}}, False),
        (("meanflow", "alphaflow"), {}, False),
        (("meanflow", "shortcut", "split"), {"early_terminate": ASHA}, False),
        (("meanflow", "alphaflow"), {"early_terminate": ASHA, "set": {"objective.split.until": 0.25}}, False),
        (("alphaflow",), {"early_terminate": ASHA}, False),
    ],
)
def test_a_plan_warns_where_a_rung_would_judge_an_objective_that_still_anneals(tmp_path, names, changes, warned):
    notes = [note for note in make_plan(over_objectives(tmp_path, *names, **changes)).notes if "anneal" in note]
    assert len(notes) == warned
    if warned:
        assert "from step 250 on" in notes[0]
        assert "alphaflow until step 1000" in notes[0]
        assert "by: objective.name" in notes[0]
