"""Under bf16 a step casts each weight once, whatever its passes, and has the bits of one that casts at each use."""

from contextlib import nullcontext

import pytest
import torch

from meanflow_core import half_precision
from meanflow_core.config import load_config
from meanflow_core.nets.embedding import randomise_
from meanflow_core.training import training_loss
from meanflow_core.training.trainer import Trainer
from scripts.gpu_check.casts import Casts

GUIDED = ["objective.guidance.omega=1.3", "objective.guidance.kappa=0.45", "objective.guidance.dropout=0.2"]
MLP = ["model.name=mlp", "model.width=8", "model.depth=2"]
DIT = ["model.name=dit", "model.width=8", "model.depth=2", "model.heads=2", "model.patch=4"]
UNET = ["model.name=unet", "model.channels=8", "model.blocks=1", "model.channel_mult=[1,2]", "model.attention=[4]"]
STEPS = {
    "guided": [*DIT, *GUIDED],
    "plain": [*DIT, "objective.guidance.dropout=0"],
    "convolutions and dropout": [*UNET, *GUIDED, "model.dropout=0.3"],
    "two parts": [*MLP, *GUIDED, "trainer.accumulation=2"],
    "recomputed activations": [*DIT, *GUIDED, "model.checkpoint_activations=true"],
    "a second pass": [*MLP, *GUIDED, "objective.derivative=jvp"],
    "a teacher": [*MLP, *GUIDED, "objective.name=split", "objective.teacher=0.9"],
    "its own teacher": [*MLP, *GUIDED, "objective.name=lsd"],
}


def trainer(*words, precision="bf16"):
    common = ["trainer.batch_size=16", "trainer.device=cpu", f"trainer.precision={precision}", "optimizer.lr=1e-2"]
    made = Trainer(load_config({}, [*common, *words]))
    torch.manual_seed(3)
    randomise_(made.net)
    return made


def casts_of_a_step(made):
    made.train(1)  # in which the derivative is examined
    with Casts() as counted:
        made._train_step()
    return counted.of_weights(made.net, *([] if made._teacher is None else [made._teacher.net]))


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_casts_each_weight_once(kind):
    assert set(casts_of_a_step(trainer(*STEPS[kind]))) == {1}


@pytest.mark.parametrize("kind", STEPS)
def test_its_numbers_are_those_of_weights_cast_at_each_use(kind, monkeypatch):
    ends = []
    for held in (True, False):
        if not held:
            monkeypatch.setattr(training_loss, "cast_once", lambda *arguments: nullcontext())
        made = trainer(*STEPS[kind])
        made.train(3)
        ends.append(made.state_dict()["net"] | made.state_dict()["ema"]["ema_0.9999"])
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_every_weight_in_float32_gets_its_gradient():
    gradients = []
    for precision in ("float32", "bf16"):
        made = trainer(*STEPS["guided"], precision=precision)
        made._optimizer.zero_grad = lambda: None
        made.train(1)
        gradients.append({name: p.grad for name, p in made.net.named_parameters()})
    exact, rounded = gradients
    for name, gradient in exact.items():
        assert rounded[name].dtype == torch.float32
        assert (rounded[name] - gradient).norm() < 0.1 * gradient.norm(), name


def test_casts_end_with_the_step_where_the_caller_has_autocast_on():
    ends = []
    for around in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        made = trainer(*STEPS["guided"])
        with around:
            for _ in range(3):
                made._train_step()
        ends.append(made.state_dict()["net"])
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


@pytest.mark.parametrize("shape", [(), (3,), (3, 4), (3, 4, 2), (3, 4, 2, 2), (0, 4)], ids=str)
def test_a_weight_of_any_shape_is_cast_with_its_gradient(shape):
    weight = torch.randn(shape, requires_grad=True)
    casts = []
    for around in (nullcontext(), half_precision.cast_once(torch.device("cpu"), [weight])):
        with around, torch.autocast("cpu", torch.bfloat16), Casts() as seen:
            half_precision._cast(weight)
        casts.append(seen.casts)
    assert casts == [1, 0]


def test_a_weight_of_a_pass_without_gradient_is_not_cut_off_by_it():
    weight = torch.randn(3, 3, requires_grad=True)
    x = torch.randn(2, 3)
    with half_precision.cast_once(torch.device("cpu"), [weight]), torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            torch.matmul(x, weight)
            half_precision.forget_casts(torch.device("cpu"))
        loss = torch.matmul(x, weight).float().sum()
    loss.backward()
    torch.testing.assert_close(weight.grad, x.sum(0)[:, None].expand(3, 3), rtol=2e-2, atol=2e-2)
