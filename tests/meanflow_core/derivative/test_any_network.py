"""Whatever a network is written in, u, du/dt and the gradients are right, or it is refused with a sentence."""

import logging
import random
import warnings

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow_core.config import GuidanceConfig, ObjectiveConfig, WeightConfig
from meanflow_core.derivative import DerivativeError, predict, record
from meanflow_core.derivative.methods import METHODS, TANGENTS
from meanflow_core.derivative.query import Query
from meanflow_core.objectives import meanflow_loss
from meanflow_core.rng import RandomState
from tests.meanflow_core.derivative.idioms import DRAWING, IDIOMS, MIXING, Checkpointed, Function, network, of

N, M = 8, 3  # neither is a size of the networks' own
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
TRANSPARENT = {
    "checkpoint, its default": lambda: Direct(),
    "checkpoint, reentrant": lambda: Direct(),
    "autograd.Function": of(lambda x: torch.log1p(torch.exp(x))),
    "detached": of(lambda h: h * h),  # du/dt is how u changes: it goes through what stops gradients
}
"""What torch.func.jvp cannot differentiate, as something it can."""
ALL = {**IDIOMS, **DRAWING, **MIXING}
pytestmark = pytest.mark.filterwarnings("ignore:torch.utils.checkpoint", "ignore:None of the inputs")


class Direct(Checkpointed):
    def forward(self, h):
        return h + self.layers(h)


def batch(n=N, m=M, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    z, dz = torch.randn(2, n, 6, generator=generator, dtype=dtype)
    t = 0.3 + 0.6 * torch.rand(n, generator=generator, dtype=dtype)
    return z, dz, torch.where(torch.arange(n) < m, 0.4 * t, t), t


def gradients(net, u):
    net.zero_grad()
    u.mul(torch.linspace(-1, 2, u.numel(), dtype=u.dtype).reshape(u.shape)).sum().backward()
    return {name: p.grad for name, p in net.named_parameters()}


def check(name, u, du, net, n=N, m=M, kind=ALL):
    """Hold a prediction and its derivative against a plain pass and torch.func.jvp of the whole network."""
    z, dz, r, t = batch(n, m)
    labels = LABELS[torch.arange(n) % 8]
    got = gradients(net, u)
    random.seed(2)
    torch.manual_seed(2)
    plain = net(z, r, t, labels)
    torch.testing.assert_close(u, plain, rtol=0, atol=1e-11)
    for key, gradient in gradients(net, plain).items():
        assert (gradient is None) == (got[key] is None), key
        if gradient is not None:
            torch.testing.assert_close(got[key], gradient, rtol=1e-9, atol=1e-9)
    torch.manual_seed(2)
    random.seed(2)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        if name in DRAWING or name in MIXING:  # torch.func.jvp draws others, and refuses batch norm's buffers
            with forward_ad.dual_level():
                inputs = (forward_ad.make_dual(z, dz), r, forward_ad.make_dual(t, torch.ones_like(t)))
                again, expected = forward_ad.unpack_dual(net(*inputs, labels))
        else:
            twin = network(TRANSPARENT.get(name, kind[name]))
            twin.load_state_dict(net.state_dict())
            tangents = (dz, torch.zeros_like(r), torch.ones_like(t))
            again, expected = torch.func.jvp(lambda z, r, t: twin(z, r, t, labels), (z, r, t), tangents)
    torch.testing.assert_close(again, plain, rtol=0, atol=1e-11)
    assert expected[:m].abs().max() > 0.05
    torch.testing.assert_close(du, expected[:m], rtol=1e-9, atol=1e-9)


def predicted(net, n=N, m=M, **options):
    z, dz, r, t = batch(n, m)
    random.seed(2)
    torch.manual_seed(2)
    labels = LABELS[torch.arange(n) % 8]
    return predict(net, z, r, t, labels, direction=dz[:m], others=lambda rest: dz[m:], **options)


@pytest.mark.parametrize("name", ALL)
def test_it_is_right_by_whatever_way_is_chosen(name):
    net = network(ALL[name])
    check(name, *predicted(net), net)
    (line,) = record(net)
    assert ("jvp_of_batch" in line and "rows influence each other" in line) if name in MIXING else " by " in line
    assert name in MIXING or "dual (" in line  # none of these needs a second pass


@pytest.mark.parametrize("name", [*IDIOMS, *DRAWING])
def test_the_tensor_that_carries_the_tangent_serves_every_one_of_them(name):
    net = network(ALL[name])
    z, dz, r, t = batch()
    torch.manual_seed(2)
    check(name, *METHODS["dual"](net, Query(z, r, t, LABELS, dz[:M], *TANGENTS["v01"])), net)


@pytest.mark.parametrize("name", [*DRAWING, "timm's qkv"])
def test_jvp_is_right_too_with_the_random_numbers_of_the_prediction(name):
    net = network(ALL[name])
    check(name, *predicted(net, method="jvp"), net)


@pytest.mark.parametrize("name", ["dropout", "DropPath", "label drop by torch.rand", "noise and dropout"])
def test_finite_differences_draw_the_random_numbers_of_the_prediction(name):
    net = network(ALL[name])
    z, dz, r, t = batch()
    results = {}
    for method in ("auto", "finite_difference"):
        torch.manual_seed(2)
        results[method] = predict(net, z, r, t, LABELS, direction=dz[:M], method=method)
    torch.testing.assert_close(results["auto"], results["finite_difference"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("m", [4, 3, 12], ids=["a size of the network", "another", "all rows"])
@pytest.mark.parametrize("name", ["timm's qkv", "merged heads", "a buffer made in the forward", "a mask for each row"])
def test_it_is_right_where_the_batch_is_as_large_as_something_else(name, m):
    net = network(IDIOMS[name])
    check(name, *predicted(net, 12, m), net, 12, m)


class Foreign(torch.autograd.Function):
    """The square, by NumPy: torch knows its backward and nothing of its forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        with torch._C.DisableTorchFunctionSubclass():
            return torch.from_numpy(x.detach().numpy() ** 2)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_a_network_that_is_wrong_at_one_size_of_the_batch_alone_is_found_out_there():
    net = network(of(lambda h: h.roll(1, 0) if len(h) == 12 else h.sin()))
    predicted(net)
    assert "dual" in record(net)[0]
    predicted(net, 12, 5)
    assert "in a batch of 12 rows" in record(net)[0]


# ------------------------------------------------------------------------------- hooks, random state, buffers


def test_backward_hooks_of_modules_fire_once_a_step():
    net = network(of(lambda h: torch.sin(h)))
    seen = []
    net.middle.layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0].clone()))
    u, du = predicted(net)
    assert seen == []
    check_hooked = gradients(net, u)
    assert len(seen) == 1
    assert seen[0].abs().max() > 0
    assert check_hooked["middle.layer.weight"] is not None
    net.middle.layer._backward_hooks.clear()
    torch.testing.assert_close(du, predicted(net)[1], rtol=1e-12, atol=1e-12)


def test_a_hook_that_comes_later_is_served_too():
    net = network(of(lambda h: torch.sin(h)))
    predicted(net)
    seen = []
    net.middle.layer.register_forward_hook(lambda module, inputs, output: seen.append(isinstance(output, torch.Tensor)))
    predicted(net)
    assert seen
    assert all(seen)


@pytest.mark.parametrize("name", ["BatchNorm in training mode", "dropout", "timm's qkv"])
def test_the_check_leaves_generators_buffers_and_gradients_as_they_were(name):
    nets = [network(ALL[name]) for _ in range(2)]
    weights = {key: value.clone() for key, value in nets[0].state_dict().items()}
    predicted(nets[0])  # checked
    after = {key: value for key, value in nets[0].state_dict().items()}
    plain, (z, _, r, t) = nets[1], batch()
    torch.manual_seed(2)
    plain(z, r, t, LABELS)
    passes = 2 if name in MIXING else 1  # the second pass of jvp_of_batch
    if passes == 2:
        plain(z, r, t, LABELS)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(after[key], value, rtol=1e-12, atol=1e-12)
    for key, p in nets[0].named_parameters():
        assert torch.equal(p, weights[key])
        assert p.grad is None


def test_the_step_in_which_the_check_is_made_draws_what_a_later_one_does():
    net = network(DRAWING["noise and dropout"])
    torch.testing.assert_close(predicted(net), predicted(net), rtol=0, atol=0)
    quiet, (z, dz, r, t) = network("einsum"), batch()
    before = RandomState.now(torch.device("cpu"))
    predict(quiet, z, r, t, LABELS, direction=dz[:M])
    assert not before.moved()


def test_what_python_and_numpy_draw_is_drawn_once_too():
    def layer_drop(h):
        return h * h if random.random() < 0.5 else torch.sin(h)

    net = network(of(layer_drop))
    for seed in range(6):
        z, dz, r, t = batch()
        random.seed(seed)
        _, du = predict(net, z, r, t, LABELS, direction=dz[:M], method="jvp")
        random.seed(seed)
        _, expected = torch.func.jvp(lambda z, t: net(z, r, t, LABELS), (z, t), (dz, torch.ones_like(t)))  # noqa: B023
        torch.testing.assert_close(du, expected[:M], rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------- closures, refusals


class Conditioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network(of(torch.sin))
        self.condition = nn.Linear(2, 6, dtype=torch.float64)

    def forward(self, z, r, t, labels, condition):
        return self.net(z + self.condition(condition), r, t, labels)


@pytest.mark.parametrize("short", [False, True], ids=["for its batch alone", "for any number of rows"])
def test_a_condition_given_by_a_closure_stays_with_its_row(short):
    torch.manual_seed(0)
    net, condition = Conditioned(), torch.randn(N, 2).double()
    x, noise, _, t = batch()
    r = torch.where(torch.arange(N) % 3 == 1, 0.4 * t, t)
    objective = ObjectiveConfig(weight=WeightConfig(power=0))
    held = (
        (lambda z, r, t, y: net(z, r, t, y, condition[: len(z)]))
        if short
        else (lambda z, r, t, y: net(z, r, t, y, condition))
    )
    result = meanflow_loss(held, x, noise, r, t, labels=LABELS, objective=objective)
    z, v = (1 - t)[:, None] * x + t[:, None] * noise, noise - x
    u, du = torch.func.jvp(
        lambda z, r, t: net(z, r, t, LABELS, condition), (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t))
    )
    torch.testing.assert_close(result.u, u.detach(), rtol=0, atol=1e-12)
    target = torch.where((r == t)[:, None], v, v - (t - r)[:, None] * du).detach()
    torch.testing.assert_close(result.target, target, rtol=0, atol=1e-12)


def test_guidance_with_a_condition_given_by_a_closure_is_refused():
    net, condition = Conditioned(), torch.randn(N, 2).double()
    x, noise, r, t = batch()
    objective = ObjectiveConfig(guidance=GuidanceConfig(omega=1.0, kappa=0.5))
    held = lambda z, r, t, y: net(z, r, t, y, condition)  # noqa: E731
    with pytest.raises(DerivativeError, match=r"condition of each row.*`labels`"):
        meanflow_loss(held, x, noise, r, t, labels=LABELS, null_label=4, objective=objective)


def test_finite_differences_of_times_a_thousand_fold_are_refused_and_auto_is_right():
    class Fast(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network(of(torch.sin)).float()

        def forward(self, z, r, t, labels=None):
            return self.net(z + torch.cos(1000 * t)[:, None], r, torch.sin(1000 * t), labels)

    z, dz, r, t = batch(dtype=torch.float32)
    with pytest.raises(DerivativeError, match=r"finite_difference.*off by .*derivative: auto"):
        predict(Fast(), z, r, t, LABELS, direction=dz[:M], method="finite_difference")
    net = Fast()
    _, du = predict(net, z, r, t, LABELS, direction=dz[:M])
    _, expected = torch.func.jvp(lambda z, t: net(z, r, t, LABELS), (z, t), (dz, torch.ones_like(t)))
    assert (du - expected[:M]).norm() < 1e-4 * expected[:M].norm()


def test_a_network_that_draws_from_a_generator_of_its_own_is_refused():
    generator = torch.Generator()
    net = network(of(lambda h: h * torch.randn(h.shape, generator=generator, dtype=h.dtype)))
    with pytest.raises(DerivativeError, match=r"generator of its own"):
        predicted(net)


def test_a_network_that_torch_cannot_differentiate_is_refused_with_the_reason():
    with pytest.raises(DerivativeError, match=r"auto.*central differences.*kernel"):
        predicted(network(of(Foreign.apply)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "scale",
    [
        lambda h: float(h.detach().std()),
        lambda h: 1 + 0.1 * float(h.detach()[0, 0, 0]),
        lambda h: h.detach().mean().item() + 1,
    ],
)
def test_a_network_of_numbers_that_torch_does_not_see_is_refused(scale, dtype):
    net = network(of(lambda h: 0.3 * h * scale(h))).to(dtype)
    z, dz, r, t = batch(dtype=dtype)
    with pytest.raises(DerivativeError, match=r"auto.*off by 0\.[01]\d* of what central differences.*number"):
        predict(net, z, r, t, LABELS, direction=dz[:M], others=lambda rest: dz[M:])


class LaterOperation(nn.Module):
    """From its fifth call in training on it uses an operation that has no rule, as caches and schedules do."""

    def __init__(self, operation):
        super().__init__()
        self.layer, self.operation, self.calls = nn.Linear(4, 4), operation, 0

    def forward(self, h):
        return self.operation(self.layer(h)) if self.calls >= 5 else torch.sin(self.layer(h))


@pytest.mark.parametrize(
    ("operation", "way"),
    [
        (lambda h: torch.lerp(h, h.sin(), 0.3), "dual"),
        (lambda h: h.contiguous().as_strided(h.shape, h.contiguous().stride()).sin(), "jvp"),
    ],
)
def test_an_operation_that_first_comes_up_in_a_later_step_is_served_by_another_way(operation, way, caplog):
    net = network(lambda: LaterOperation(operation))
    predicted(net)
    assert "du/dt by row_dual" in record(net)[0]
    net.middle.calls = 5
    check("later", *predicted(net), net, kind={"later": lambda: _at_call_five(operation)})
    assert f"du/dt by {way} " in record(net)[0]
    assert "in a later step" in caplog.text


def _at_call_five(operation):
    module = LaterOperation(operation)
    module.calls = 5
    return module


def test_a_dual_that_is_wrong_is_refused_where_it_was_asked_for():
    net = network(MIXING["softmax over the batch"])
    with pytest.raises(DerivativeError, match=r"`objective.derivative: dual` is not right.*rows influence each other"):
        predicted(net, method="dual")


@pytest.mark.parametrize(
    ("wrap", "said"), [(lambda u: (u, None), "returns a tuple"), (lambda u: {"sample": u}, "returns a dict")]
)
def test_a_network_that_returns_no_tensor_gets_a_sentence(wrap, said):
    net = network(of(torch.sin))
    with pytest.raises(DerivativeError, match=said):
        predicted(lambda *given: wrap(net(*given)))


def test_a_network_that_returns_another_shape_gets_a_sentence():
    net = network(of(torch.sin))
    with pytest.raises(DerivativeError, match=r"\(\d+, 5\), but u must be like z"):
        predicted(lambda *given: net(*given)[:, :5])


def test_what_was_chosen_is_logged_once_and_recorded(caplog):
    net = network(MIXING["BatchNorm in training mode"])
    with caplog.at_level(logging.INFO):
        predicted(net)
        predicted(net)
    assert [message for message in caplog.messages if "du/dt by jvp_of_batch" in message] == record(net)


def test_each_mode_is_checked_for_itself():
    net = network(MIXING["BatchNorm in training mode"])
    predicted(net)
    predicted(net.eval())
    assert sorted(line.split(" (")[0] for line in record(net)) == ["du/dt by dual", "du/dt by jvp_of_batch"]


def test_a_zero_initialised_network_is_checked_with_other_weights():
    net = network(MIXING["softmax over the batch"])
    nn.init.zeros_(net.outlet.weight)
    nn.init.zeros_(net.outlet.bias)
    predicted(net)
    assert "rows influence each other" in record(net)[0]
    assert net.outlet.weight.abs().max() == 0


def test_under_autocast_it_is_checked_without_it_too():
    net = network(MIXING["centred over the batch"]).float()
    z, dz, r, t = batch(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        predict(net, z, r, t, LABELS, direction=dz[:M])
    assert "jvp_of_batch" in record(net)[0]
    net = network("timm's qkv").float()
    exact = predict(net, z, r, t, LABELS, direction=dz[:M])[1]
    with torch.autocast("cpu", torch.bfloat16):
        _, du = predict(net, z, r, t, LABELS, direction=dz[:M])
    assert du.dtype == torch.float32
    assert (du - exact).norm() < 0.05 * exact.norm()
    assert len(record(net)) == 1
    assert "jvp" not in record(net)[0]


@pytest.mark.parametrize("way", ["a method", "a partial", "a function of a global", "a closure"])
def test_a_function_of_a_network_is_checked_once_however_often_it_is_made(way):
    from functools import partial

    net, z, dz, r, t = network("einsum"), *batch()
    calls = []
    inner = net.forward

    def counted(*given, **named):
        calls.append(1)
        return inner(*given, **named)

    net.forward = counted
    made = {
        "a method": lambda: net.__call__,
        "a partial": lambda: partial(net, labels=LABELS),
        "a closure": lambda: lambda z, r, t, y: net(z, r, t, y),
        "a function of a global": lambda: by_global,
    }[way]
    globals()["GLOBAL"] = net
    labels = LABELS if way != "a partial" else None
    for _ in range(2):
        function = made()
        if way == "a partial":
            wrapped = function
            function = partial(called, wrapped)
        calls.clear()
        predict(function, z, r, t, labels, direction=dz[:M])
    assert len(calls) == 1


GLOBAL = None


def by_global(z, r, t, labels):
    return GLOBAL(z, r, t, labels)


def called(function, z, r, t, labels):
    return function(z, r, t)


def test_a_network_in_ddp_is_served(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for name in ("timm's qkv", "checkpoint, not reentrant", "dropout in attention", "softmax over the batch"):
            net, twin = network(ALL[name]), network(ALL[name])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wrapped = nn.parallel.DistributedDataParallel(net)
            u, du = predicted(wrapped)
            expected, expected_du = predicted(twin)
            torch.testing.assert_close((u, du), (expected, expected_du), rtol=1e-12, atol=1e-12)
            for key, gradient in gradients(twin, expected).items():
                torch.testing.assert_close(gradients(net, predicted(wrapped)[0])[key], gradient, rtol=1e-9, atol=1e-9)
    finally:
        torch.distributed.destroy_process_group()


def test_memory_of_tangents_is_free_once_the_prediction_is_made():
    import gc
    import weakref

    tangents = []
    kept = []

    def spy(h):
        h = torch.sin(h)
        kept.append(h)
        tangents.append(weakref.ref(h.tangent))
        return torch.exp(h)

    net = network(lambda: Function(spy))
    z, dz, r, t = batch()
    u, _ = METHODS["dual"](net, Query(z, r, t, LABELS, dz[:M], *TANGENTS["v01"]))
    kept.clear()
    gc.collect()
    assert u.requires_grad
    assert tangents[0]() is None


@pytest.mark.parametrize("tangent", TANGENTS)
def test_every_tangent_is_carried(tangent):
    net, (z, dz, r, t) = network("timm's qkv"), batch()
    dr, dt = TANGENTS[tangent]
    _, du = predict(net, z, r, t, LABELS, direction=dz[:M], tangent=tangent)
    tangents = (dz, torch.full_like(r, dr), torch.full_like(t, dt))
    with sdpa_kernel(SDPBackend.MATH):
        _, expected = torch.func.jvp(lambda z, r, t: net(z, r, t, LABELS), (z, r, t), tangents)
    torch.testing.assert_close(du, expected[:M], rtol=1e-9, atol=1e-9)


def test_functional_forms_have_no_rows_of_their_own():
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = network(of(lambda h: F.linear(h, weight).softmax(-1) @ weight))
    check("x", *predicted(net), net, kind={"x": of(lambda h: F.linear(h, weight).softmax(-1) @ weight)})
