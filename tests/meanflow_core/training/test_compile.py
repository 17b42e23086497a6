"""torch.compile of the whole loss as one graph gives the numbers of eager mode; no tangent gets lost on the way."""

import gc
import shutil
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

from meanflow_core.config import (
    PRESETS,
    DiTConfig,
    GuidanceConfig,
    MLPConfig,
    ObjectiveConfig,
    UNetConfig,
    load_config,
)
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import randomise_
from meanflow_core.objectives.loss import meanflow_loss
from meanflow_core.objectives.scalars import KERNELS_OF_THEIR_OWN, with_scalars
from meanflow_core.training import graphs
from meanflow_core.training.trainer import Trainer
from tests.meanflow_core.small_nets import batch

ROWS, DROPS = 3, 2
NETS = {
    "mlp": (MLPConfig(width=8, depth=1), (2,)),
    "dit": (DiTConfig(width=8, depth=1, heads=2, patch=4), (1, 8, 8)),
    "unet": (UNetConfig(channels=8, blocks=1, channel_mult=[1], attention=[], dropout=0.0), (1, 4, 4)),
}
GUIDED = ObjectiveConfig(guidance=GuidanceConfig(omega=1.0, kappa=0.5), derivative="dual")
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler on CPU"
)


class Tiny(torch.nn.Module):
    """As little as has a norm, an activation and a product of two tangents: each kernel takes seconds to compile."""

    def __init__(self):
        super().__init__()
        self.inlet, self.outlet = torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)

    def forward(self, z, r, t, labels=None):
        x = F.layer_norm(self.inlet(torch.cat([z, (t - r).unsqueeze(-1)], dim=-1)), (8,))
        return self.outlet(F.silu(x) * t.unsqueeze(-1))


def check_compiled_equals_eager(net, shape, objective, *, device="cpu", calls=1, low=False, split=None, **options):
    net = net.to(device)
    x, noise, r, t = (value.to(device) for value in batch(shape, dtype=torch.float32))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0], device=device)
    dropped = torch.tensor([False, True, False, False, False, True, False], device=device)
    arguments = {"labels": labels, "dropped": dropped, "null_label": 3, "rows": ROWS, "drops": DROPS}
    arguments["split"] = split

    def step(x, noise, r, t):
        with torch.autocast(device, torch.bfloat16, enabled=low, cache_enabled=False):
            return meanflow_loss(net, x, noise, r, t, objective=objective, **arguments)

    def run(step):
        result = step(x, noise, r, t)
        gradients = torch.autograd.grad(result.loss, list(net.parameters()), allow_unused=True)
        return vars(result), [gradient for gradient in gradients if gradient is not None]

    torch.compiler.reset()
    eager, gradients = run(step)
    if split is None:
        assert eager["du_dt"][:ROWS].abs().max() > 0.05  # a dropped tangent would show
    compiled = torch.compile(step, fullgraph=True, **options)  # fullgraph: a graph break is an error
    for _ in range(calls):
        fast, fast_gradients = run(compiled)
        for key, value in eager.items():
            torch.testing.assert_close(fast[key], value, rtol=1e-5, atol=1e-5 * value.abs().max().item())
        for one, other in zip(gradients, fast_gradients, strict=True):
            assert (one - other).norm() <= 1e-5 * one.norm() + 1e-7


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_the_compiled_loss_is_one_graph_with_the_numbers_of_eager_mode():
    torch.manual_seed(1)
    check_compiled_equals_eager(Tiny(), (2,), ObjectiveConfig(derivative="dual"))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore")
def test_the_guided_loss_of_every_network_is_traced_to_one_graph(name):
    config, shape = NETS[name]
    net = randomise_(build_net(config, shape, 3))
    low = name == "dit"  # one of them under bfloat16 autocast
    check_compiled_equals_eager(net, shape, GUIDED, low=low, backend="aot_eager")


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "meanflow"])
@pytest.mark.filterwarnings("ignore")
def test_every_objective_is_traced_to_one_graph(name):
    config, shape = NETS["mlp"]
    net, chosen = randomise_(build_net(config, shape, 3)), ObjectiveConfig(name=name, guidance=GUIDED.guidance)
    split = None if name in ("imf", "lsd") else torch.linspace(0.2, 0.8, 7)
    check_compiled_equals_eager(net, shape, chosen, split=split, backend="aot_eager")


@pytest.mark.filterwarnings("ignore")
def test_a_split_that_moves_makes_no_new_graph_until_it_reaches_its_limit(monkeypatch):
    words = ["objective.name=alphaflow", "model.name=mlp", "model.width=8", "model.depth=1", "trainer.steps=10"]
    counter, plain = CompileCounter(), torch.nn.Module.compile

    def compiled(self, *, mode, **options):
        plain(self, backend=counter, **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    torch.compiler.reset()
    trainer = Trainer(load_config({}, [*words, "trainer.batch_size=16", "trainer.device=cpu", "trainer.compile=true"]))
    graphs = []
    for _ in range(10):
        trainer.train(1)
        graphs.append(counter.frame_count)
    # a = 1 until 0.29 of the training, then a number for each step, then 0 from 0.72
    assert graphs == [1, 1, 1, 2, 2, 2, 2, 2, 3, 3]


@pytest.mark.filterwarnings("ignore")
def test_a_guided_loss_under_autocast_asks_a_graph_for_nothing_it_cannot_trace(monkeypatch):
    """Some releases of torch cannot trace the clearing of autocast's cache, which a graph does not have."""

    def untraceable():
        torch._dynamo.graph_break()

    monkeypatch.setattr(torch, "clear_autocast_cache", untraceable)
    config, shape = NETS["mlp"]
    check_compiled_equals_eager(randomise_(build_net(config, shape, 3)), shape, GUIDED, low=True, backend="eager")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETS)
def test_cuda_graphs_replay_the_step(name):
    config, shape = NETS[name]
    net = randomise_(build_net(config, shape, 3))
    check_compiled_equals_eager(net, shape, GUIDED, device="cuda", calls=3, mode="reduce-overhead")


def test_graphs_are_kept_for_the_same_structure_and_let_go_for_another(monkeypatch):
    resets = []
    monkeypatch.setattr(graphs, "_structure", None)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(graphs._structure))

    def begin(*overrides):
        config = load_config({"model": {"name": "mlp", "width": 8, "depth": 1}}, overrides)
        graphs.begin_graphs(graphs.structure_of(config.to_dict(), (1, 8, 8)))

    begin("optimizer.lr=1e-3")
    begin("optimizer.lr=1e-4", "seed=2", "objective.weight.power=0.7", "objective.guidance.omega=1.5")
    assert resets == []
    begin("model.width=16")
    begin("trainer.batch_size=512", "model.width=16")
    assert len(resets) == 2


SWEPT = [
    ["objective.guidance.omega=1.3", "objective.guidance.kappa=0.45", "objective.weight.power=0.7"],
    ["objective.guidance.scale=2.5", "objective.guidance.kappa=0.2", "objective.weight.power=0.31"],
    ["objective.guidance.omega=1.0", "objective.guidance.kappa=0.5", "objective.weight.power=1.2", "optimizer.lr=1e-4"],
    ["objective.guidance.omega=0.7", "objective.guidance.kappa=0.9", "objective.weight.power=0.9", "seed=3"],
]
FURTHER = [
    [
        "objective.weight.eps=0.02",
        "objective.guidance.start=0.2",
        "objective.guidance.end=0.8",
        "optimizer.clip_norm=1",
    ],
    ["objective.weight.eps=0.3", "objective.guidance.start=0.1", "optimizer.warmup_steps=3", "ema.decays=[0.5]"],
    ["objective.weight.eps=1.0", "objective.guidance.end=0.6", "objective.time.mean=0.3"],
    [],
]
SMALL = ["model.name=mlp", "model.width=8", "model.depth=1", "trainer.batch_size=16", "trainer.device=cpu"]
OWN = {  # an objective's own numbers, each once more swept
    "imf": [["objective.direction=0.3"], ["objective.direction=0.9"]],
    "soflow": [["objective.clip=3.5", "objective.gap_weight=0.5"], ["objective.clip=4", "objective.gap_weight=1.5"]],
    "split": [[f"objective.teacher={decay}", f"objective.weight.power={decay / 5}"] for decay in (0.9, 0.99)],
}


@pytest.fixture
def compilations(monkeypatch):
    """Weak references to the graphs that were compiled, in their order."""
    found, plain = [], torch.nn.Module.compile

    def run(graph, inputs):
        found.append(weakref.ref(graph))
        return graph.forward

    def compiled(self, *, mode, **options):
        plain(self, backend=run, **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    monkeypatch.setattr(graphs, "_structure", None)
    torch.compiler.reset()
    yield found
    torch.compiler.reset()


def alive(references):
    gc.collect()
    return sum(reference() is not None for reference in references)


@pytest.mark.filterwarnings("ignore")
def test_trials_that_differ_in_numbers_share_a_graph_and_another_structure_lets_it_go(compilations):
    for words, others in zip(SWEPT, FURTHER, strict=True):
        Trainer(load_config({}, [*SMALL, "trainer.compile=true", *words, *others])).train(2)
    assert len(compilations) == 1
    Trainer(load_config({}, [*SMALL, "trainer.compile=true", "model.width=12", *SWEPT[0]])).train(1)
    assert len(compilations) == 2
    assert alive(compilations) == 1
    Trainer(load_config({}, [*SMALL, *SWEPT[1]])).train(1)  # not compiled: it needs no graph, and none is kept
    assert len(compilations) == 2
    assert alive(compilations) == 0


@pytest.mark.parametrize("name", OWN)
@pytest.mark.filterwarnings("ignore")
def test_the_numbers_of_an_objective_of_its_own_share_its_graph(compilations, name):
    for words in OWN[name]:
        made = [f"objective.name={name}", *SWEPT[0], *words]
        Trainer(load_config({}, [*SMALL, "trainer.compile=true", *made])).train(1)
    assert len(compilations) == 1


CASES = [
    *(words for words in [*SWEPT, *FURTHER]),
    *([f"objective.name={name}", *SWEPT[1], *words] for name, pair in OWN.items() for words in pair),
    *([f"objective.weight.power={power}", *SWEPT[0][:2]] for power in (0, 0.5, 1, 2)),
    ["objective.guidance.kappa=0.25", "objective.guidance.scale=1"],  # nothing is left for the null label
    ["objective.guidance.omega=3"],
    ["objective.name=imf", "objective.guidance.input=true", "evaluation.guidance=[1]"],
]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_objective_of_scalars_has_the_bits_of_one_of_numbers(words, dtype):
    objective = load_config({}, [*SMALL, *words]).objective
    net = randomise_(build_net(MLPConfig(width=8, depth=1), (3,), 3, guided=objective.guidance.input)).to(dtype)
    x, noise, r, t = (value.to(dtype) for value in batch((3,), dtype=torch.float32))
    further = {"split": torch.linspace(0.2, 0.8, 7).to(dtype)} if objective.has_finite_split else {}
    if objective.guidance.input:
        further["scales"] = torch.linspace(1, 4, 7).to(dtype)
    found = []
    for chosen in (objective, with_scalars(objective, "cpu")):
        result = meanflow_loss(
            net, x, noise, r, t, labels=torch.tensor([0, 1, 2, 0, 1, 2, 0]), null_label=3, objective=chosen,
            dropped=torch.tensor([False, True, False, False, False, True, False]), rows=ROWS, **further,
        )  # fmt: skip
        found.append((vars(result), torch.autograd.grad(result.loss, list(net.parameters()), allow_unused=True)))
    power = objective.weight.power
    rounding = 0 if power in KERNELS_OF_THEIR_OWN else 8 * torch.finfo(dtype).eps  # of a power by another kernel
    for key, value in found[0][0].items():
        exact = key not in ("loss", "weighted", "weight")
        torch.testing.assert_close(found[1][0][key], value, rtol=0 if exact else rounding, atol=0)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one is None and other is None) or (one - other).norm() <= rounding * one.norm()
    assert found[1][0]["loss"].dtype == dtype
