import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch

from meanflow_core.config import load_config
from meanflow_core.distributed import World
from meanflow_core.errors import ConfigError, TrainingDiverged
from meanflow_core.metrics.build import METRICS
from meanflow_core.objectives.loss import meanflow_loss
from meanflow_core.sampling.evaluation_samples import Sampling, image_grid
from meanflow_core.training.batches import Batches
from meanflow_core.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, take_snapshot
from meanflow_core.training.exported import load_network
from meanflow_core.training.graphs import compile_mode
from meanflow_core.training.meters import Meter
from meanflow_core.training.trainer import Trainer
from meanflow_core.training.training_loss import SUMS

SMALL = {
    "seed": 3,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 32, "depth": 2},
    "optimizer": {"lr": 1e-3, "warmup_steps": 5},
    "ema": {"decays": [0.9, 0.99]},
    "trainer": {"steps": 20, "batch_size": 32, "log_every": 5, "device": "cpu"},
    "evaluation": {"samples": 80, "nfe": [1, 3]},
    "objective": {"guidance": {"scale": 2.0, "kappa": 0.5}},
}


def small(**changes):
    return load_config(SMALL, [f"{key}={value}" for key, value in changes.items()])


def changed(words):
    return load_config(SMALL, words)


@pytest.fixture(scope="module")
def shared():
    return Trainer.shared_data(small())


def weights_of(trainer):
    return {name: {k: v.clone() for k, v in weights.items()} for name, weights in trainer.weights().items()}


def test_a_row_is_logged_at_every_interval_and_at_the_end(shared):
    seen = []
    trainer = Trainer(small(), shared=shared, on_log=lambda step, row: seen.append(step))
    rows = trainer.train(12)
    assert [step for step, _ in rows] == seen == [5, 10, 12]
    assert trainer.step == 12
    wanted = {"loss", "squared_error", "velocity_error", "grad_norm", "du_dt_norm", "steps_per_second"}
    wanted |= {"u_norm", "target_norm", "velocity_norm", "weight", "lr", "images_seen"}
    assert {f"train/{name}" for name in wanted} == set(rows[0][1])
    assert all(math.isfinite(value) for _, row in rows for value in row.values())
    assert rows[-1][1]["train/images_seen"] == 12 * 32


def test_training_learns(shared):
    config = changed(["objective.guidance.scale=null", "objective.guidance.kappa=0", "optimizer.lr=0.003"])
    rows = Trainer(config, shared=shared).train(150)
    assert rows[-1][1]["train/velocity_error"] < 0.8 * rows[0][1]["train/velocity_error"]


def test_equal_configurations_give_equal_bits(shared):
    one, two = (Trainer(small(), shared=shared) for _ in range(2))
    torch.manual_seed(11)  # the global generator plays no part
    one.train(6)
    torch.manual_seed(12)
    two.train(6)
    torch.testing.assert_close(weights_of(one), weights_of(two), rtol=0, atol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, shared, dropout):
    config = changed([f"model.dropout={dropout}", "optimizer.schedule=cosine", "optimizer.clip_norm=1"])
    whole = Trainer(config, shared=shared)
    whole.train(20)
    first = Trainer(config, shared=shared)
    first.train(10)
    save_checkpoint(tmp_path / "c", first.state_dict())
    del first
    torch.manual_seed(99)
    second = Trainer(config)
    second.load_state_dict(load_checkpoint(tmp_path / "c"))
    assert second.step == 10
    second.train(10)
    torch.testing.assert_close(weights_of(second), weights_of(whole), rtol=0, atol=0)
    assert second.evaluate() == whole.evaluate()


def test_accumulated_gradients_are_those_of_the_joint_batch(shared):
    found = []
    for parts in (1, 4):
        trainer = Trainer(changed([f"trainer.accumulation={parts}"]), shared=shared)
        trainer.train(1)
        trainer.train(3)  # from weights that are no longer the initial zeros
        found.append(weights_of(trainer)["raw"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_runs_of_one_seed_see_the_same_rows_noise_and_random_numbers(shared):
    plain, other = small(), changed(["objective.time.law=uniform", "objective.time.ratio=0.75", "model.width=48"])
    a, b = (next(Batches(c, shared.dataset, torch.device("cpu"), World()).parts(7, 224)) for c in (plain, other))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.noise, b.noise)
    assert torch.equal(a.dropped, b.dropped)
    assert (a.spanning_rows, b.spanning_rows, a.dropped_count) == (8, 24, 3)
    different = next(Batches(changed(["seed=4"]), shared.dataset, torch.device("cpu"), World()).parts(7, 224))
    assert not torch.equal(a.noise, different.noise)
    assert not torch.equal(a.x, different.x)


@pytest.mark.parametrize(("size", "accumulation"), [(1, 4), (2, 1), (4, 2)])
def test_the_parts_are_the_global_batch_whatever_their_number(shared, size, accumulation):
    whole = next(Batches(small(), shared.dataset, torch.device("cpu"), World()).parts(3, 96))
    config = changed([f"trainer.accumulation={accumulation}", "objective.time.ratio=0.3"])
    whole = next(
        Batches(changed(["objective.time.ratio=0.3"]), shared.dataset, torch.device("cpu"), World()).parts(3, 96)
    )
    parts = []
    for rank in range(size):
        parts += Batches(config, shared.dataset, torch.device("cpu"), World(rank, size)).parts(3, 96)
    assert sum(part.spanning_rows for part in parts) == whole.spanning_rows == 10
    assert sum(part.dropped_count for part in parts) == whole.dropped_count == 3
    assert max(part.spanning_rows for part in parts) - min(part.spanning_rows for part in parts) <= 1
    for part in parts:
        assert bool((part.r[: part.spanning_rows] < part.t[: part.spanning_rows]).all())
        assert torch.equal(part.r[part.spanning_rows :], part.t[part.spanning_rows :])
    for name in ("x", "noise", "t", "labels"):
        rows = torch.cat(
            [
                getattr(part, name).flatten(1) if name in ("x", "noise") else getattr(part, name)[:, None]
                for part in parts
            ]
        )
        expected = getattr(whole, name)
        expected = expected.flatten(1) if name in ("x", "noise") else expected[:, None]
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))


def test_a_batch_that_cannot_be_split_is_refused(shared):
    with pytest.raises(ConfigError, match="multiple of processes x accumulation = 3 x 1"):
        Batches(small(), shared.dataset, torch.device("cpu"), World(0, 3))


def test_low_precision_trains_on_nearly_the_same_gradients(shared):
    found = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(changed([f"trainer.precision={precision}"]), shared=shared)
        trainer.train(5)
        part = next(trainer._batches.parts(trainer.step, trainer.images_seen))
        trainer.net.load_state_dict(found[0][0] if found else trainer.net.state_dict())
        loss, _ = trainer._loss(part)
        loss.backward()
        assert loss.dtype == torch.float32
        gradient = torch.cat([p.grad.flatten() for p in trainer.net.parameters()])
        found.append((copy.deepcopy(trainer.net.state_dict()), gradient))
        assert all(p.dtype == torch.float32 for p in trainer.net.parameters())
    cosine = torch.cosine_similarity(found[0][1], found[1][1], dim=0)
    assert cosine > 0.99


def test_the_whole_loss_compiles_as_one_graph(shared, monkeypatch):
    plain = torch.nn.Module.compile  # Dynamo's trace is what can go wrong here; generating code takes minutes
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: plain(self, backend="eager", **options))
    eager = Trainer(small(), shared=shared)
    traced = Trainer(changed(["trainer.compile=true"]), shared=shared)
    found = [trainer.train(3)[-1][1] for trainer in (eager, traced)]
    for name in ("train/squared_error", "train/du_dt_norm", "train/grad_norm"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-5)
    assert list(traced.state_dict()["net"]) == list(eager.state_dict()["net"])


@torch._dynamo.config.patch(recompile_limit=1)  # as after torch's usual 8 trials
def test_compiled_trainings_have_a_graph_for_each_configuration_and_count_of_rows(shared, monkeypatch):
    graphs, plain = [], torch.nn.Module.compile

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: plain(self, backend=count, **options))
    words = ["trainer.accumulation=4", "trainer.compile=true", "objective.time.ratio=0.3", "model.depth=1"]
    torch.compiler.reset()
    trainer = Trainer(changed([*words, "objective.guidance.dropout=0.3"]), shared=shared)
    parts = list(trainer._batches.parts(0, 0))
    assert [part.spanning_rows for part in parts] == [3, 3, 2, 2]
    assert [part.dropped_count for part in parts] == [0] * 4  # 0 to 8 rows of 8 are dropped, in each part others
    trainer.train(3)
    assert len(graphs) == 2
    Trainer(changed([*words, "model.width=24"]), shared=shared).train(1)
    assert len(graphs) == 4


def test_cuda_graphs_serve_steps_whose_gradients_do_not_outlive_a_replay():
    assert compile_mode(torch.device("cuda"), 1) == "reduce-overhead"
    assert compile_mode(torch.device("cuda"), 2) == compile_mode(torch.device("cpu"), 1) == "default"


def test_half_precision_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"fp16 is refused: du/dt leaves its range"):
        changed(["trainer.precision=fp16"])


def test_evaluation_names_the_primary_weights_plainly_and_the_others_by_name(shared):
    trainer = Trainer(small(), shared=shared)
    trainer.train(3)
    values = trainer.evaluate()
    for key in ("fid_1nfe", "fid_3nfe", "accuracy_1nfe", "raw/fid_1nfe", "ema_0.99/fid_3nfe"):
        assert f"eval/{key}" in values
    assert not any("ema_0.9/" in key for key in values)
    assert values == trainer.evaluate()  # fixed noise and labels
    raw_only = Trainer(changed(["ema.decays=[]"]), shared=shared)
    assert set(raw_only.evaluate()) == {k for k in values if k.count("/") == 1}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["features", "metric"])
def test_a_value_that_is_not_finite_is_a_divergence_and_never_a_figure(shared, monkeypatch, where, bad):
    trainer = Trainer(small(), shared=copy.deepcopy(shared))
    evaluator = trainer.shared.evaluator
    if where == "features":
        monkeypatch.setattr(evaluator, "_features", lambda x: torch.full((len(x), 3), bad))
    else:
        monkeypatch.setitem(METRICS, "fid", lambda judged: bad)
    with pytest.raises(TrainingDiverged, match=r"features of the samples are not finite|the metric fid is"):
        trainer.evaluate()


def test_the_protocol_of_an_evaluation_is_on_record(shared):
    record = Trainer(small(), shared=shared).evaluation_record()
    assert record["samples"] == 80
    assert record["nfe"] == [1, 3]
    assert record["labels"] == "balanced"
    assert record["weights"] == ["ema_0.9", "ema_0.99", "raw"]
    assert record["data"]["name"] == "digits"


def test_how_the_derivative_was_had_is_on_record(shared, tmp_path):
    trainer = Trainer(small(), shared=shared)
    assert trainer.derivative_record() == []
    trainer.train(2)
    (line,) = trainer.derivative_record()
    assert line.startswith("du/dt by row_dual")
    assert trainer.evaluation_record()["derivative"] == [line]
    trainer.export(tmp_path / "weights.safetensors")
    assert load_network(tmp_path / "weights.safetensors")[2]["derivative"] == [line]


def test_what_a_network_draws_is_a_function_of_seed_and_step(shared):
    """Whatever draws it, and though the check at first use comes at another step in a training that was resumed."""

    def drawing(trainer):
        forward = trainer.net.forward
        trainer.net.forward = lambda z, r, t, y=None: forward(z + 0.1 * torch.randn_like(z) * random.random(), r, t, y)
        return trainer

    whole, part = (drawing(Trainer(small(), shared=shared)) for _ in range(2))
    whole.train(4)
    part.train(2)
    torch.rand(3)
    random.random()
    rest = drawing(Trainer(small(), shared=shared))
    rest.load_state_dict(copy.deepcopy(part.state_dict()))
    rest.train(2)
    for key, value in whole.net.state_dict().items():
        assert torch.equal(value, rest.net.state_dict()[key])


def test_sample_i_depends_on_no_batch_size_and_no_count(shared):
    a = Sampling(
        changed(["evaluation.samples=70", "evaluation.batch_size=9"]), shared.dataset, World(), torch.device("cpu")
    )
    assert torch.equal(a.noise(0, 200)[60:70], a.noise(60, 70))
    trainer = Trainer(small(), shared=shared)
    trainer.train(2)
    b = Sampling(changed(["evaluation.samples=100"]), shared.dataset, World(), torch.device("cpu"))
    weights = trainer.weights()["raw"]
    torch.testing.assert_close(a.draw(trainer.net, weights, 2), b.draw(trainer.net, weights, 2)[:70])
    assert torch.equal(a.labels, b.labels[:70])


def test_a_picture_has_a_row_for_each_class(shared):
    picture = Trainer(small(), shared=shared).sample_grid(nfe=2)
    assert picture.dtype == np.uint8
    assert picture.shape == (342, 342, 3)  # 10 x 10 digits of 32 pixels with gaps of 2
    assert image_grid(np.zeros((1, 5, 7, 3), np.uint8), 10).shape == (5, 7, 3)


def test_unlabelled_toy_data_train_too():
    config = load_config(
        {
            "data": {"name": "toy2d", "law": "checkerboard", "rows": 500},
            "model": {"name": "mlp", "width": 16, "depth": 1},
            "trainer": {"steps": 3, "batch_size": 16, "device": "cpu"},
            "evaluation": {"samples": 50, "nfe": [1]},
        }
    )
    trainer = Trainer(config)
    trainer.train(3)
    values = trainer.evaluate()
    assert all(math.isfinite(value) for value in values.values())
    assert "eval/wasserstein_1nfe" in values
    assert trainer.sample_grid().shape[2] == 3


def test_shared_data_travels_between_processes_and_gives_the_same_training(shared):
    copied = pickle.loads(pickle.dumps(shared))
    one, two = Trainer(small(), shared=copied), Trainer(small())
    assert one.fingerprint == two.fingerprint
    assert one.train(2)[-1][1]["train/loss"] == two.train(2)[-1][1]["train/loss"]
    assert Trainer(changed(["evaluation.samples=90"]), shared=shared).dataset is shared.dataset
    toy = load_config({"data": {"name": "toy2d", "rows": 64}, "model": {"name": "mlp", "width": 8, "depth": 1}})
    assert Trainer(toy, shared=shared).dataset.name != shared.dataset.name


def test_states_of_other_data_networks_or_averages_are_refused(shared):
    state = Trainer(small(), shared=shared).state_dict()
    with pytest.raises(CheckpointError, match="other data"):
        Trainer(small(), shared=shared).load_state_dict({**state, "fingerprint": "x"})
    with pytest.raises(CheckpointError, match="does not fit"):
        Trainer(changed(["model.width=48"]), shared=shared).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"ema_0\.5"):
        Trainer(changed(["ema.decays=[0.5]"]), shared=shared).load_state_dict(state)


def test_an_exported_network_is_rebuilt_from_its_file_alone(tmp_path, shared):
    trainer = Trainer(small(), shared=shared)
    trainer.train(2)
    trainer.export(tmp_path / "w.safetensors")
    net, config, metadata = load_network(tmp_path / "w.safetensors")
    assert config == trainer.config
    assert (metadata["weights"], metadata["step"], metadata["num_classes"]) == ("ema_0.9", 2, 10)
    torch.testing.assert_close(net.state_dict(), dict(trainer.weights()["ema_0.9"]), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ divergence


def test_a_learning_rate_of_a_thousand_diverges_with_step_reason_and_last_finite_values(shared):
    trainer = Trainer(changed(["optimizer.lr=1000", "optimizer.warmup_steps=0", "trainer.log_every=2"]), shared=shared)
    with pytest.raises(TrainingDiverged) as caught:
        trainer.train(20)
    error = caught.value
    assert 1 <= error.step <= 20
    assert error.reason
    assert error.last_finite["step"] <= error.step
    assert all(math.isfinite(value) for value in error.last_finite.values())
    assert pickle.loads(pickle.dumps(error)).last_finite == error.last_finite


def test_a_loss_that_is_not_finite_stops_at_its_step_and_spoils_no_weights(shared):
    trainer = Trainer(small(), shared=shared)
    trainer.train(4)
    before = weights_of(trainer)
    trainer._loss.register_forward_hook(lambda module, args, out: (out[0] * math.nan, out[1]))
    with pytest.raises(TrainingDiverged, match="diverged at step 5: the loss is not finite; last finite at step 4"):
        trainer.train(3)
    assert all(bool(tensor.isfinite().all()) for weights in weights_of(trainer).values() for tensor in weights.values())
    torch.testing.assert_close(weights_of(trainer)["raw"], before["raw"], rtol=0, atol=0)


def test_samples_that_are_not_finite_are_a_divergence(shared):
    trainer = Trainer(small(), shared=shared)
    with torch.no_grad():
        next(trainer.net.parameters()).fill_(math.nan)
    with pytest.raises(TrainingDiverged, match="raw: the samples are not finite"):
        trainer.evaluate()


def sums_of(*own, **values):
    return torch.tensor([float(values.get(name, 1.0)) for name in SUMS] + [float(value) for value in own])


def meter(**kwargs):
    ticks = iter(range(100))
    return Meter(
        8, kwargs.get("rows", 2), World(), torch.device(kwargs.get("device", "cpu")), clock=lambda: next(ticks)
    )


def test_a_row_holds_means_over_steps_and_rows():
    m = meter()
    for step, loss in ((1, 2.0), (2, 4.0)):
        sums = sums_of(6, squared_error=16, velocity_error=12, u_norm=8, target_norm=24, velocity_power=72, weight=2)
        m.add(step, torch.tensor(loss), sums, torch.tensor(5.0), ("du_dt_norm",))
    row = m.row(2)
    assert row.pop("train/steps_per_second") == pytest.approx(2.0)
    assert row == pytest.approx({
        "train/loss": 3.0, "train/squared_error": 2.0, "train/velocity_error": 2.0, "train/du_dt_norm": 3.0,
        "train/u_norm": 1.0, "train/target_norm": 3.0, "train/grad_norm": 5.0, "train/velocity_norm": 3.0,
        "train/weight": 0.25,
    })  # fmt: skip


def test_what_an_objective_reports_is_averaged_over_the_steps_that_report_it():
    m = meter()
    for step, (own, names) in enumerate((((1.0,), ("split",)), ((0.5,), ("split",)), ((8.0,), ("du_dt_norm",))), 1):
        m.add(step, torch.tensor(2.0), sums_of(*own, squared_error=24), torch.tensor(1.0), names)
    row = m.row(3)
    assert (row["train/split"], row["train/du_dt_norm"]) == (0.375, 4.0)
    assert (row["train/squared_error"], row["train/loss"]) == pytest.approx((3.0, 2.0))


def row_with(m, step, **values):
    m.add(step, torch.tensor(1.0), sums_of(velocity_power=80, **values), torch.tensor(1.0))
    return m.row(step)


def test_what_is_logged_is_what_the_loss_was_made_of(shared):
    trainer = Trainer(small(**{"trainer.log_every": 1, "objective.weight.power": 0.75}), shared=shared)
    trainer.train(3)
    (part,) = trainer._batches.parts(trainer.step, trainer.images_seen)
    with torch.no_grad():
        found = meanflow_loss(
            trainer.net, part.x, part.noise, part.r, part.t, labels=part.labels, dropped=part.dropped, null_label=10,
            objective=trainer.config.objective, rows=part.spanning_rows,
        )  # fmt: skip
    ((_, row),) = trainer.train(1)
    m = part.spanning_rows
    assert {name: row[f"train/{name}"] for name in ("loss", "squared_error", "velocity_error", "weight")} == {
        "loss": pytest.approx(float((found.weight * found.squared_error).mean()), rel=1e-4),
        "squared_error": pytest.approx(float(found.squared_error.mean()), rel=1e-4),
        "velocity_error": pytest.approx(float(found.squared_error[m:].mean()), rel=1e-4),
        "weight": pytest.approx(float(((found.squared_error + 1e-3) ** -0.75).mean()), rel=1e-4),
    }
    norms = {"u": found.u, "target": found.target, "du_dt": found.du_dt[:m]}
    for name, tensor in norms.items():
        assert row[f"train/{name}_norm"] == pytest.approx(float(tensor.flatten(1).norm(dim=1).mean()), rel=1e-4)
    power = float(found.velocity.square().flatten(1).sum(1).mean())
    assert row["train/velocity_norm"] == pytest.approx(power**0.5, rel=1e-4)


def test_an_error_far_above_its_least_is_an_explosion():
    m = meter()
    row_with(m, 1, velocity_error=60, squared_error=80)
    row_with(m, 2, velocity_error=6, squared_error=8)  # means of 1 a row each
    row_with(m, 3, velocity_error=6 * 99, squared_error=8 * 9999)  # spikes are borne
    with pytest.raises(TrainingDiverged, match=r"step 4: the loss exploded: train/velocity_error is 101, 101 times"):
        row_with(m, 4, velocity_error=6 * 101)
    m = meter()
    row_with(m, 1, squared_error=8)
    with pytest.raises(TrainingDiverged, match=r"train/squared_error is 1e\+04"):
        row_with(m, 2, squared_error=8 * 10001, velocity_error=6)


def test_the_first_row_is_compared_with_a_network_that_answers_zero():
    with pytest.raises(TrainingDiverged, match=r"the loss exploded: train/velocity_error"):
        row_with(meter(), 1, velocity_error=6 * 1001)  # the power is 10 a row
    row_with(meter(), 1, velocity_error=6 * 999)


def test_without_rows_of_a_kind_their_metric_is_left_out():
    assert "train/velocity_error" not in row_with(meter(rows=8), 1)
    m = meter(rows=0)
    m.add(1, torch.tensor(1.0), sums_of(3.0, velocity_power=80), torch.tensor(1.0), ("du_dt_norm",))
    assert "train/du_dt_norm" not in m.row(1)


def test_on_a_device_that_is_not_looked_at_the_flag_is_raised_with_the_right_step_at_the_next_row():
    m = Meter(8, 2, World(), torch.device("cpu"), look=False)
    row_with(m, 1)
    for step, loss in ((2, 1.0), (3, math.inf), (4, math.nan)):
        m.add(step, torch.tensor(loss), sums_of(), torch.tensor(1.0))
    with pytest.raises(TrainingDiverged) as caught:
        m.row(4)
    assert caught.value.step == 3
    assert caught.value.last_finite["step"] == 1


def switches():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "products", "convolutions"),
    [("float32", "highest", False), ("fp32", "highest", False), ("tf32", "high", True), ("bf16", "highest", False)],
)
def test_a_precision_means_the_same_on_every_kernel_and_only_for_this_trainer(
    shared, precision, products, convolutions
):
    seen = []
    trainer = Trainer(changed([f"trainer.precision={precision}"]), shared=shared)
    before = switches()
    trainer.net.register_forward_hook(lambda *_: seen.append(switches()))
    next(trainer.net.parameters()).register_hook(lambda *_: seen.append(switches()))  # in backward
    trainer.train(1)
    trainer.evaluate()
    trainer.sample_grid()
    assert len(seen) > 4
    assert set(seen) == {(products, convolutions)}
    assert switches() == before


def test_the_older_name_of_float32_is_the_same_configuration():
    old, new = changed(["trainer.precision=fp32"]), changed(["trainer.precision=float32"])
    assert old == new
    assert old.hash() == new.hash() != changed(["trainer.precision=tf32"]).hash()


def test_what_a_step_sees_is_drawn_on_no_device(shared):
    """Equal numbers on every device: none has a generator of its own in this (the meta device cannot have one)."""
    config = changed(["objective.guidance.dropout=0.2"])
    there = next(Batches(config, shared.dataset, torch.device("meta"), World()).parts(7, 224))
    here = next(Batches(config, shared.dataset, torch.device("cpu"), World()).parts(7, 224))
    for name in ("x", "noise", "r", "t", "labels", "dropped"):
        assert getattr(there, name).device.type == "meta"
        assert getattr(there, name).shape == getattr(here, name).shape


def test_an_evaluation_and_its_pictures_leave_the_state_as_it_was(shared):
    trainer = Trainer(small(), shared=shared)
    trainer.train(3)
    before = take_snapshot(trainer.state_dict())
    trainer.evaluate()
    trainer.sample_grid()
    after = take_snapshot(trainer.state_dict())
    assert not trainer.evaluation_changes_state
    assert before.plain == after.plain
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())
