import pytest
import torch
import torch.nn.functional as F

from meanflow_core.derivative.dual import RowDual, UnsupportedOperation
from meanflow_core.derivative.rules import attention  # noqa: F401 (importing registers the rules of layers)

N, M = 5, 2
W = torch.randn(4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
ROWS = torch.randn(N, 3, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)

# Each takes x [N, 3, 4] and y [N, 3, 4], both with a tangent, and plain tensors from above.
OPERATIONS = {
    "add": lambda x, y: x + y,
    "add plain, a scalar, reflected": lambda x, y: 1 + (x + W[0]) + (ROWS[: len(x)] + y),
    "sub": lambda x, y: (x - y) * (1 - x) - (W[:3] - y) - (y - 2),
    "mul": lambda x, y: 3 * x * y * 2 * W[:3] * ROWS[: len(x)],
    "mul broadcast": lambda x, y: x * y[:, :1] + x[:, :, :1] * torch.ones(1, 3, 4).double(),
    "addcmul": lambda x, y: torch.addcmul(x[:, :1], y[..., :1], x) + torch.addcmul(ROWS[: len(x)], x, W[:3]),
    "addcmul with plain": lambda x, y: torch.addcmul(x, ROWS[: len(x)], W[:3]) + torch.addcmul(W[:3], W[:3], y),
    "div": lambda x, y: x / (3 + y * y) + 1 / (4 + x * x) + W[:3] / (2 + y * y) + y / 3,
    "pow": lambda x, y: x**3 - (y * y + 1) ** 0.5,
    "neg": lambda x, y: -x,
    "inplace operator": lambda x, y: add_in_place(x, y),
    "matmul": lambda x, y: torch.matmul(x, W) + torch.matmul(torch.matmul(x, y.transpose(1, 2)), y) @ W,
    "matmul plain batch": lambda x, y: torch.matmul(ROWS[: len(x)].mT, y),
    "linear": lambda x, y: F.linear(x, W, W[0]) + F.linear(y, W),
    "pointwise": lambda x, y: F.silu(x) + F.relu(y) + torch.sigmoid(x) + torch.tanh(y) + F.softplus(x),
    "gelu": lambda x, y: F.gelu(x) + F.gelu(y, approximate="tanh"),
    "functions": lambda x, y: x.exp() + (y * y + 1).log() + x.sin() * torch.cos(y) + torch.square(x).add(1).sqrt(),
    "rsqrt": lambda x, y: torch.rsqrt(1 + x.square()) * y,
    "layer norm": lambda x, y: F.layer_norm(x, (4,)) + F.layer_norm(y, (3, 4), eps=0.1),
    "layer norm affine": lambda x, y: F.layer_norm(x, (4,), W[0], W[1]),
    "rms norm": lambda x, y: F.rms_norm(x, (4,), W[0], 1e-3) + F.rms_norm(y, (3, 4)),
    "group norm": lambda x, y: F.group_norm(torch.cat([x, y[:, :1]], 1), 2, W[0], W[1]),
    "group norm of vectors": lambda x, y: F.group_norm(x.flatten(1), 3) * F.group_norm(y.unsqueeze(-1), 3).flatten(1),
    "softmax": lambda x, y: torch.softmax(x, -1) + F.softmax(y, dim=1) + x.softmax(2),
    "attention": lambda x, y: F.scaled_dot_product_attention(
        *(part.unflatten(-1, (2, 2)).transpose(1, 2) for part in (x, y, x * y))
    ).transpose(1, 2),
    "attention scale": lambda x, y: F.scaled_dot_product_attention(x, y, y, scale=0.3),
    "conv": lambda x, y: F.conv2d(x.unsqueeze(1), W[None, None, :3, :3], W[0, :1], padding=1) * y.unsqueeze(1),
    "conv1d": lambda x, y: F.conv1d(x, W[:2, :3, None]),
    "pool and interpolate": lambda x, y: F.interpolate(
        F.avg_pool2d(x.unsqueeze(1), 2), scale_factor=2.0, mode="nearest"
    ).mean(dim=(1, 2)),
    "pad": lambda x, y: F.pad(x, (1, 2)) - F.pad(y, (2, 1)),
    "reshape": lambda x, y: x.reshape(-1, 12) + y.view(len(y), 12) + torch.flatten(x, 1) + x.reshape([len(x), 12]),
    "fold rows and back": lambda x, y: (
        F.linear(x.reshape(-1, 4), W).reshape(-1, 3, 4) + y.flatten(0, 1).unflatten(0, (-1, 3))
    ),
    "permute": lambda x, y: torch.matmul(x.permute(0, 2, 1), y) + torch.permute(x, (0, 2, 1)) @ ROWS[: len(x)],
    "chunk, split, unbind": lambda x, y: torch.cat(
        [*x.chunk(2, -1), *torch.split(y, 2, dim=-1), *y[:, None].unbind(1)], -1
    ),
    "cat, stack with plain": lambda x, y: torch.cat(
        [torch.stack([x, y], dim=2).flatten(2), ROWS[: len(x)], torch.zeros_like(ROWS[: len(x)])], dim=-1
    ),
    "index": lambda x, y: x[:, None, 1] + y[..., 2:3, :] + x[:, :, 0:3].mean(1, keepdim=True).mean(2, keepdim=True),
    "expand, squeeze": lambda x, y: x[:, :1].expand(-1, 3, 4) + y[:, :1].squeeze(1).unsqueeze(1),
    "sum, mean": lambda x, y: x.sum(1) + torch.mean(y, dim=1),
    "casts": lambda x, y: x.to(torch.float64).contiguous().clone().type_as(ROWS),
}  # fmt: skip


def add_in_place(x, y):
    x = x * 1
    x += y
    x *= y
    return x


def operands():
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(2, N, 3, 4, generator=generator, dtype=torch.float64)
    dx, dy = torch.randn(2, M, 3, 4, generator=generator, dtype=torch.float64)
    return x, y, dx, dy


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_primal_is_the_plain_operation_and_the_tangent_its_forward_derivative(name):
    operation = OPERATIONS[name]
    x, y, dx, dy = operands()
    result = operation(RowDual(x, dx), RowDual(y, dy))
    torch.testing.assert_close(result.primal, operation(x, y), rtol=0, atol=1e-12)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, expected = torch.func.jvp(operation, (x[:M], y[:M]), (dx, dy))
    torch.testing.assert_close(result.tangent, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPERATIONS)
def test_backward_is_that_of_the_plain_operation_and_nothing_is_recorded_for_the_tangent(name):
    operation = OPERATIONS[name]
    x, y, dx, dy = operands()
    gradients = []
    for with_tangent in (True, False):
        inputs = [value.clone().requires_grad_() for value in (x, y)]
        if with_tangent:
            result = operation(*(RowDual(value, tangent) for value, tangent in zip(inputs, (dx, dy), strict=True)))
            assert not result.tangent.requires_grad
            result = result.primal
        else:
            result = operation(*inputs)
        gradients.append(torch.autograd.grad(result.square().sum(), inputs, allow_unused=True))
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_dropout_has_one_mask_for_primal_and_tangent():
    x, _, dx, _ = operands()
    torch.manual_seed(0)
    result = F.dropout(RowDual(x, dx), 0.4, True)
    mask = result.primal / x
    assert set(mask.unique().round(decimals=6).tolist()) == {0.0, round(1 / 0.6, 6)}
    torch.testing.assert_close(result.tangent, dx * mask[:M], rtol=1e-12, atol=1e-12)
    dual = RowDual(x, dx)
    assert F.dropout(dual, 0.4, False) is dual


UNSUPPORTED = {
    "cumsum": lambda x: torch.cumsum(x, 1),
    "sort": lambda x: x.sort(1),
    "erf": lambda x: torch.erf(x),
    "transpose": lambda x: x.transpose(0, 1),
    "permute": lambda x: x.permute(1, 0, 2),
    "unbind": lambda x: x.unbind(0),
    "cat": lambda x: torch.cat([x, x]),
    "getitem": lambda x: x[1:],
    "relu": lambda x: F.relu(x, inplace=True),
    "dropout": lambda x: F.dropout(x, 0.5, True, inplace=True),
    "linear": lambda x: F.linear(W, x[:, 0]),
    "mean": lambda x: x.mean(),
    "softmax": lambda x: x.softmax(0),
    "reshape": lambda x: x.reshape(4, -1),
    "expand": lambda x: x.expand(2, -1, -1, -1),
    "add": lambda x: x[:, 0, 0] + W[:, :1],
    "matmul": lambda x: torch.matmul(W[:3, :3], x),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_operation_it_cannot_carry_is_named(name):
    x, _, dx, _ = operands()
    with pytest.raises(UnsupportedOperation, match=rf"`{name}`"):
        UNSUPPORTED[name](RowDual(x, dx))


def test_it_answers_for_its_shape_as_a_tensor_does():
    x, _, dx, _ = operands()
    dual = RowDual(x, dx)
    assert (dual.shape, dual.ndim, dual.dim(), len(dual), dual.size(1)) == (x.shape, 3, 3, N, 3)
    assert (dual.dtype, dual.device, dual.size()) == (x.dtype, x.device, x.size())
    assert not hasattr(dual, "__array__")
