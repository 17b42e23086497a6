"""Networks, data, conditions and metrics of one's own, in code and by name."""

import math

import pytest
import torch
from torch import nn

from meanflow_core.config import GuidanceConfig, ObjectiveConfig, load_config
from meanflow_core.errors import ConfigError
from meanflow_core.flow import ConditionSpec, null_condition, with_scale
from meanflow_core.nets.custom import fitted
from meanflow_core.nets.embedding import randomise_
from meanflow_core.objectives import meanflow_loss
from meanflow_core.sampling import fixed_noise
from meanflow_core.training.checkpoint import CheckpointError
from meanflow_core.training.exported import load_network
from meanflow_core.training.trainer import Trainer

LOOP = {
    "trainer": {"batch_size": 12, "log_every": 2, "device": "cpu", "steps": 20},
    "evaluation": {"samples": 16, "nfe": [1]},
    "ema.decays": [0.9],
}


class Net(nn.Module):
    """u of rows of any shape, from a class and a condition if it is told any."""

    def __init__(self, shape=(3,), num_classes=None, width=8, told=0):
        super().__init__()
        size = math.prod(shape)
        self.inlet, self.outlet = nn.Linear(size + 2 + told, width), nn.Linear(width, size)
        self.label = nn.Embedding((num_classes or 0) + 1, width)
        self.seen = []

    def forward(self, z, r, t, labels=None, condition=None):
        inputs = [z.flatten(1), t[:, None], (t - r)[:, None]]
        if condition is not None:
            inputs.append(condition.flatten(1))
            self.seen.append((labels, condition.detach().clone()))
        h = self.inlet(torch.cat(inputs, dim=1))
        return self.outlet(torch.tanh(h if labels is None else h + self.label(labels))).reshape(z.shape)


class Unlabelled(nn.Module):
    def forward(self, z, r, t):
        return z


def rows(count=30, shape=(3,), seed=0):
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))


def pairs(count=30):
    """Rows with labels, by name."""
    return rows(count), torch.arange(count) % 3


def with_condition(count=24, size=2):
    return rows(count), None, rows(count, (size,), seed=1)


def spread(judged):
    return judged.samples.std()


def texts(judged):
    return "high"


@pytest.mark.parametrize("shape", [(5,), (2, 16), (7, 4), (1, 6, 10)], ids=["table", "signal", "sequence", "image"])
def test_rows_of_any_shape_are_trained_judged_and_sampled(shape):
    trainer = Trainer(LOOP, net=Net(shape), data=rows(shape=shape))
    (step, row), *_ = trainer.train(2)
    assert step == 2
    assert math.isfinite(row["train/loss"])
    assert set(trainer.evaluate()) >= {"eval/sliced_wasserstein_1nfe", "eval/mmd_1nfe"}
    samples = trainer.sample(5, nfe=2)
    assert samples.shape == (5, *shape)
    torch.testing.assert_close(trainer.sample(3, nfe=2), samples[:3])
    assert not torch.equal(trainer.sample(3, nfe=2, seed=1), samples[:3])


def test_a_name_trains_what_the_same_module_and_tensors_train():
    named = Trainer({**LOOP, "model": {"name": f"{__name__}:Net", "width": 6}, "data.name": f"{__name__}:pairs"})
    net = Net((3,), 3, width=6)
    net.load_state_dict(named.net.state_dict())
    given = Trainer(LOOP, net=net, data=pairs())
    named.train(3)
    given.train(3)
    assert all(torch.equal(a, b) for a, b in zip(named.net.parameters(), given.net.parameters(), strict=True))
    assert named.config.hash() != given.config.hash()


def test_the_shape_and_the_classes_of_the_data_are_given_to_a_network_that_wants_them():
    trainer = Trainer({**LOOP, "model.name": f"{__name__}:Net", "data.name": f"{__name__}:pairs", "data.count": 9})
    assert trainer.net.label.num_embeddings == 4
    assert trainer.net.outlet.out_features == 3
    assert len(trainer.dataset) == 9


def test_samples_are_asked_for_one_class_or_each_or_all_in_turn():
    trainer = Trainer(LOOP, net=randomise_(Net((3,), 3)), data=pairs())
    in_turn = trainer.sample(6)
    assert torch.equal(trainer.sample(6, labels=[0, 1, 2, 0, 1, 2]), in_turn)
    assert torch.equal(trainer.sample(6, labels=1)[1], in_turn[1])
    assert not torch.equal(trainer.sample(6, labels=1)[0], in_turn[0])
    with pytest.raises(ValueError, match="labels are 0 to 2"):
        trainer.sample(2, labels=4)
    with pytest.raises(ValueError, match="one label"):
        trainer.sample(2, labels=[1, 0, 1])
    with pytest.raises(ValueError, match="these data have none"):
        Trainer(LOOP, net=Net(), data=rows()).sample(2, labels=1)
    with pytest.raises(ValueError, match="a condition was given"):
        trainer.sample(2, condition=torch.zeros(2))


@pytest.mark.parametrize("labelled", [False, True])
def test_each_row_is_told_its_own_condition_and_dropped_rows_the_null(labelled):
    x = rows(40)
    labels = torch.arange(40) % 3 if labelled else None
    condition = torch.cat([x[:, :2] * 2 + 5, x[:, :1]], dim=1)  # tells which row it is
    net = Net((3,), 3 if labelled else None, told=3)
    net.null_condition = nn.Parameter(torch.tensor([-9.0, -8.0, -7.0]))
    config = {**LOOP, "trainer": {**LOOP["trainer"], "batch_size": 40}, "objective.guidance.dropout": 0.25}
    trainer = Trainer(config, net=net, data=(x, labels, condition))
    (part,) = trainer._batches.parts(0, 0)
    net.seen.clear()
    trainer.net(part.x, part.r, part.t, part.labels)
    told, seen = net.seen[-1]
    assert (told is not None) == labelled
    torch.testing.assert_close(seen[:, 2], part.x[:, 0])
    trainer.train(1)
    dropped = [seen for _, seen in net.seen if len(seen) == 40][-1]
    assert int((dropped[:, 0] == -9).sum()) == 10
    if labelled:
        told = [told for told, seen in net.seen if len(seen) == 40][-1]
        assert (told == 3).tolist() == (dropped[:, 0] == -9).tolist()


def test_a_learnt_null_condition_learns():
    net = randomise_(Net((3,), told=2))
    net.null_condition = nn.Parameter(torch.zeros(2))
    Trainer({**LOOP, "objective.guidance.dropout": 0.5, "optimizer.lr": 0.01}, net=net, data=with_condition()).train(3)
    assert net.null_condition.abs().min() > 0


@pytest.mark.parametrize("derivative", ["auto", "jvp"])
def test_guidance_mixes_the_conditional_and_the_null_answer(derivative):
    net = randomise_(Net((3,), told=2), 1).double()
    module = fitted(net, "net", None, guided=False, condition=_spec(2))
    x, noise, c = rows(8).double(), rows(8, seed=5).double(), rows(8, (2,), seed=6).double()
    t = torch.linspace(0.2, 0.9, 8, dtype=torch.float64)
    r = torch.where(torch.arange(8) < 3, t / 2, t)
    objective = ObjectiveConfig(derivative=derivative, guidance=GuidanceConfig(scale=2.5, kappa=0.4))
    packed = module.spec.pack(None, c)
    found = meanflow_loss(module, x, noise, r, t, labels=packed, null_label=0, objective=objective)
    z = (1 - t)[:, None] * x + t[:, None] * noise
    omega = (1 - 0.4) * 2.5
    own, null = net(z, t, t, condition=c), net(z, t, t, condition=torch.zeros(8, 2, dtype=torch.float64))
    expected = omega * (noise - x) + 0.4 * own + (1 - omega - 0.4) * null
    torch.testing.assert_close(found.velocity, expected.detach(), rtol=0, atol=1e-12)


def _spec(size):
    return ConditionSpec((size,))


def test_null_and_scale_of_a_packed_condition():
    spec = _spec(2)
    packed = spec.pack(torch.tensor([4, 1]), torch.tensor([[0.5, 0.25], [1.5, 2.5]]))
    scaled = with_scale(packed, torch.tensor([3.0, 2.0]))
    classes, scales, absent, condition = spec.unpack(scaled)
    assert (classes.tolist(), scales.tolist(), absent.flatten().tolist()) == ([4, 1], [3, 2], [False, False])
    classes, scales, absent, condition = spec.unpack(null_condition(scaled, 7))
    assert (classes.tolist(), scales.tolist(), absent.flatten().tolist()) == ([7, 7], [1, 1], [True, True])
    assert condition.tolist() == [[0.5, 0.25], [1.5, 2.5]]


def test_a_model_with_conditions_samples_by_them_and_is_rebuilt_from_its_file(tmp_path):
    config = {**LOOP, "model": {"name": f"{__name__}:Net", "told": 2}, "data.name": f"{__name__}:with_condition"}
    trainer = Trainer(config)
    randomise_(trainer.net.inner, 3)
    trainer._ema.averages["ema_0.9"] = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    one = trainer.sample(4, condition=torch.tensor([1.0, -2.0]))
    other = trainer.sample(4, condition=torch.tensor([0.0, 2.0]))
    assert (one - other).abs().min() > 0
    trainer.evaluate()
    trainer.export(tmp_path / "w.safetensors")
    net, _, metadata = load_network(tmp_path / "w.safetensors")
    assert metadata["condition"] == {"shape": [2], "dtype": "float32"}
    noise = fixed_noise(0, (3,), 0, 4)
    again = noise - net(noise, torch.zeros(4), torch.ones(4), condition=torch.tensor([1.0, -2.0]).expand(4, 2))
    torch.testing.assert_close(again.detach(), one)


def test_weights_of_a_given_module_ask_for_the_module(tmp_path):
    net = randomise_(Net())
    trainer = Trainer(LOOP, net=net, data=rows())
    trainer.export(tmp_path / "w.safetensors", "raw")
    with pytest.raises(CheckpointError, match=r"load_network\(path, net=...\)"):
        load_network(tmp_path / "w.safetensors")
    found, _, _ = load_network(tmp_path / "w.safetensors", net=Net())
    assert torch.equal(found.inlet.weight, net.inlet.weight)


def test_own_metrics_are_logged_by_their_bare_name():
    trainer = Trainer({**LOOP, "evaluation.metrics": ["mmd", f"{__name__}:spread"]}, net=Net(), data=rows())
    values = trainer.evaluate()
    assert set(values) >= {"eval/mmd_1nfe", "eval/spread_1nfe", "eval/raw/spread_1nfe"}
    assert values["eval/spread_1nfe"] == pytest.approx(float(trainer.sample(16).std()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"model.name": f"{__name__}:Nett"}, "did you mean 'Net'"),
        ({"model.name": "no_such_module:Net"}, "there is no module 'no_such_module'"),
        ({"model": {"name": f"{__name__}:Net", "widht": 3}}, "model.widht: .*did you mean 'width'"),
        ({"model.name": f"{__name__}:Unlabelled"}, r"is called as net\(z, r, t, labels\)"),
        ({"model.name": f"{__name__}:rows"}, "must make a torch.nn.Module"),
        ({"model.name": "mlp", "data.name": f"{__name__}:with_condition"}, "takes no condition"),
        ({"model.name": "unet", "model.channels": 8}, "use `mlp`"),
        ({"evaluation.metrics": [f"{__name__}:spred"]}, "did you mean 'spread'"),
        ({"data.name": f"{__name__}:math"}, "must name a class or a function"),
        ({"model.name": "torch.nn:Linear"}, "model.in_features: is missing"),
    ],
)
def test_what_does_not_fit_is_said_before_training(words, message):
    usual = {"model.name": f"{__name__}:Net", "data.name": f"{__name__}:pairs"}
    if "model" in words:
        del usual["model.name"]
    with pytest.raises(ConfigError, match=message):
        Trainer({**LOOP, **usual, **words})


def test_a_metric_that_returns_no_number_is_named():
    trainer = Trainer({**LOOP, "evaluation.metrics": [f"{__name__}:texts"]}, net=Net(), data=rows())
    with pytest.raises(ConfigError, match="must return a number, and returned a str"):
        trainer.evaluate()


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="logged as 'mmd'"):
        load_config({"evaluation.metrics": ["mmd", "mine:mmd"]})


def test_arguments_are_read_back_and_are_part_of_the_identity():
    content = {"model": {"name": "a.b:C", "width": 3, "deep": {"x": [1, 2]}}, "data": {"name": "m:rows", "path": "p"}}
    config = load_config(content)
    assert load_config(config.to_dict()) == config
    assert config.to_dict()["model"] == content["model"]
    others = [{"model.deep.x": [1, 3]}, {"model.width": 4}, {"model.name": "a.b:D"}, {"data.path": "q"}]
    hashes = {load_config({**content, **change}).hash() for change in others}
    assert len(hashes | {config.hash()}) == 5
