"""Every objective trains, goes on after a stop as if there had been none, and does not care how a batch is cut."""

import math

import numpy as np
import pytest
import torch

from meanflow_core.config import PRESETS, load_config
from meanflow_core.errors import ConfigError
from meanflow_core.objectives import draw_split
from meanflow_core.training.checkpoint import load_checkpoint, save_checkpoint
from meanflow_core.training.exported import load_network
from meanflow_core.training.trainer import Trainer

SMALL = {
    "seed": 3,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 16, "depth": 1},
    "optimizer": {"lr": 1e-3, "warmup_steps": 2},
    "ema": {"decays": [0.9]},
    "trainer": {"steps": 12, "batch_size": 32, "log_every": 3, "device": "cpu"},
    "evaluation": {"samples": 40, "nfe": [1]},
    "objective": {"guidance": {"scale": 2.0, "kappa": 0.5}, "time": {"ratio": 0.5}},
}
KINDS = [*([name] for name in PRESETS), *(["shortcut", "objective.teacher=0.9"], ["lsd", "objective.teacher=0.9"])]


def config(name, *words):
    return load_config(SMALL, [f"objective.name={name}", *words])


@pytest.fixture(scope="module")
def shared():
    return Trainer.shared_data(config("meanflow"))


def equal(one, other):
    states = [trainer.state_dict() for trainer in (one, other)]
    for name in ("config", "fingerprint"):
        assert states[0].pop(name) == states[1].pop(name)
    for state in states:
        del state["last_finite"]["train/steps_per_second"]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("word", ["model.dropout=0", "model.dropout=0.2", "trainer.precision=bf16"])
@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, shared, kind, word):
    chosen = config(*kind, word)
    whole, first = Trainer(chosen, shared=shared), Trainer(chosen, shared=shared)
    rows = whole.train(12)
    assert all(math.isfinite(value) for _, row in rows for value in row.values())
    first.train(5)
    save_checkpoint(tmp_path / "c", first.state_dict())
    second = Trainer(chosen, shared=shared)
    second.load_state_dict(load_checkpoint(tmp_path / "c"))
    assert second.train(7)[-1][1]["train/loss"] == rows[-1][1]["train/loss"]
    equal(second, whole)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_a_batch_in_parts_is_the_whole_batch(shared, kind):
    whole, parts = (Trainer(config(*kind, f"trainer.accumulation={n}"), shared=shared) for n in (1, 4))
    one, other = whole.train(6)[-1][1], parts.train(6)[-1][1]
    names = [name for name in one if name not in ("train/steps_per_second",) and "memory" not in name]
    assert set(one) == set(other)
    assert {name: other[name] for name in names} == pytest.approx({name: one[name] for name in names}, rel=1e-3)


LOGGED = {"meanflow": "du_dt_norm", "imf": "du_dt_norm", "lsd": "du_dr_norm"}


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_logged_follows_from_the_objective(shared, name):
    (first, *_, last) = Trainer(config(name), shared=shared).train(12)
    own = {"train/du_dt_norm", "train/du_dr_norm", "train/split"}
    wanted = "train/" + LOGGED.get(name, "split")
    assert own & set(first[1]) == {wanted}
    assert own & set(last[1]) == ({"train/du_dt_norm"} if name == "alphaflow" else {wanted})
    assert "train/velocity_error" in first[1]


def test_a_teacher_lags_behind_and_starts_from_the_network_where_a_state_has_none(shared):
    taught = Trainer(config("shortcut", "objective.teacher=0.99"), shared=shared)
    start = {name: tensor.clone() for name, tensor in taught.net.state_dict().items()}
    taught.train(3)
    teacher = taught.state_dict()["teacher"]
    for name, tensor in taught.net.state_dict().items():
        if tensor.is_floating_point() and not torch.equal(tensor, start[name]):
            assert (teacher[name] - start[name]).norm() < (tensor - start[name]).norm()
            assert not torch.equal(teacher[name], tensor)
    plain = Trainer(config("meanflow"), shared=shared)
    plain.train(3)
    assert "teacher" not in plain.state_dict()
    taught.load_state_dict(plain.state_dict())
    torch.testing.assert_close(taught.state_dict()["teacher"], plain.net.state_dict(), rtol=0, atol=0)


def drawn(name, progress, *words, n=4):
    generator = torch.Generator().manual_seed(0)
    return draw_split(n, config(name, *words).objective.split, progress, generator=lambda: generator)


def test_alphaflow_falls_from_one_to_exactly_zero_in_the_middle_of_the_training():
    assert [drawn("alphaflow", p) for p in (0.0, 0.28, 0.72, 1.0, 3.0)] == [1.0, 1.0, 0.0, 0.0, 0.0]
    values = [drawn("alphaflow", p)[0].item() for p in (0.4, 0.5, 0.6)]
    assert values == pytest.approx([0.924, 0.5, 0.076], abs=5e-4)
    late = ("objective.split.after=0.5", "objective.split.until=0.9")
    assert [drawn("alphaflow", p, *late) for p in (0.0, 0.5, 0.9)] == [1.0, 1.0, 0.0]
    assert drawn("alphaflow", 0.7, *late)[0].item() == pytest.approx(0.5)


def test_soflow_falls_by_equal_factors():
    assert [drawn("soflow", p)[0].item() for p in (0.0, 0.5, 1.0, 2.0)] == pytest.approx(
        [0.1, 0.0002**0.5, 0.002, 0.002]
    )
    cosine = [
        drawn("soflow", p, "objective.split.law=cosine", "objective.split.start=0.4", "objective.split.end=0.2")
        for p in (0, 0.25, 0.5)
    ]
    assert [a[0].item() for a in cosine] == pytest.approx([0.4, 0.3 + 0.1 * 0.5**0.5, 0.3])


def test_a_drawn_split_differs_from_row_to_row_within_its_bounds():
    values = drawn("split", 0.3, "objective.split.start=0.2", "objective.split.end=0.6", n=2000)
    assert 0.2 <= values.min() < 0.21
    assert 0.59 < values.max() <= 0.6
    assert values.mean().item() == pytest.approx(0.4, abs=0.01)


def test_the_schedule_is_one_of_the_whole_training_wherever_it_is_cut(shared):
    """A trial that is stopped early has trained on the same splits as one that is not."""
    trainer = Trainer(config("soflow", "trainer.log_every=1"), shared=shared)
    splits = [row["train/split"] for _, row in [*trainer.train(4), *trainer.train(2)]]
    assert splits == pytest.approx([0.1 * 0.02 ** (step / 12) for step in range(6)], rel=1e-5)


def test_consistency_training_spans_down_to_the_data(shared):
    (part,) = Trainer(config("consistency"), shared=shared)._batches.parts(0, 0)
    (other,) = Trainer(config("soflow"), shared=shared)._batches.parts(0, 0)
    assert part.spanning_rows == 16
    assert part.r[:16].abs().max() == 0
    assert torch.equal(part.t, other.t)
    assert torch.equal(part.r[16:], part.t[16:])
    assert torch.equal(part.noise, other.noise)  # runs that share a seed stay paired


def test_under_compile_a_finite_split_cannot_share_dropout_between_its_ends():
    words = ("trainer.compile=true", "model.dropout=0.1")
    with pytest.raises(ConfigError, match=r"model\.dropout: .*`soflow`.*compile"):
        config("soflow", *words)
    for name in ("meanflow", "shortcut", "lsd"):
        config(name, *words)


TOLD = [
    "objective.guidance.scale=null", "objective.guidance.kappa=0", "objective.guidance.input=true",
    "objective.guidance.scale_max=4", "evaluation.guidance=[1, 2.5]",
]  # fmt: skip


def test_one_network_is_judged_at_every_scale_and_the_best_is_named(tmp_path, shared):
    trainer = Trainer(config("imf", *TOLD), shared=shared)
    trainer.train(12)
    found = trainer.evaluate()
    for prefix in ("eval/", "eval/raw/"):
        fids = {scale: found[f"{prefix}fid_1nfe_w{scale:g}"] for scale in (1.0, 2.5)}
        assert fids[1.0] != fids[2.5]
        best = min(fids, key=fids.get)
        assert (found[f"{prefix}best_fid_1nfe"], found[f"{prefix}best_fid_1nfe_w"]) == (fids[best], best)
        accuracies = [found[f"{prefix}accuracy_1nfe_w{scale}"] for scale in ("1", "2.5")]
        assert found[f"{prefix}best_accuracy_1nfe"] == max(accuracies)
    assert not any(name.endswith("_1nfe") and "best" not in name for name in found)
    assert trainer.evaluation_record()["guidance"] == [1, 2.5]
    assert np.array_equal(trainer.sample_grid(), trainer.sample_grid(guidance=1.0))
    assert not np.array_equal(trainer.sample_grid(), trainer.sample_grid(guidance=2.5))
    trainer.export(tmp_path / "weights.safetensors")
    net, _, _ = load_network(tmp_path / "weights.safetensors")
    assert any("scale" in name for name in net.state_dict())


def test_scales_are_drawn_for_the_global_batch_and_take_nothing_from_other_draws(shared):
    whole, parts = (Trainer(config("imf", *TOLD, f"trainer.accumulation={n}"), shared=shared) for n in (1, 4))
    (part,) = whole._batches.parts(5, 0)
    (plain,) = Trainer(config("imf"), shared=shared)._batches.parts(5, 0)
    assert torch.equal(part.noise, plain.noise)
    assert torch.equal(part.t, plain.t)
    assert plain.scales is None
    assert len(part.scales.unique()) == 32
    assert torch.equal(part.scales[1::4], list(parts._batches.parts(5, 0))[1].scales)
    one, other = (trainer.train(3)[-1][1]["train/squared_error"] for trainer in (whole, parts))
    assert other == pytest.approx(one, rel=1e-4)


def test_a_training_with_guidance_as_an_input_resumes_bit_for_bit(shared):
    whole, first, second = (Trainer(config("imf", *TOLD), shared=shared) for _ in range(3))
    whole.train(6)
    first.train(3)
    second.load_state_dict(first.state_dict())
    second.train(3)
    equal(second, whole)
