"""The tangent of attention in chunks: the numbers of the whole, and no more memory whatever the number of tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from meanflow_core.derivative import rules
from meanflow_core.derivative.dual import RowDual


class Largest(TorchDispatchMode):
    """Notes the entries of the largest tensor that any operation returns."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.entries = max(self.entries, value.numel())
        return result


def operands(rows, m, heads, tokens, size, dtype, keys=None):
    generator = torch.Generator().manual_seed(3)

    def dual(count):
        primal = torch.randn(rows, heads, count, size, generator=generator, dtype=dtype)
        return RowDual(primal, torch.randn(m, heads, count, size, generator=generator, dtype=dtype))

    return dual(tokens), dual(keys or tokens), dual(keys or tokens)


def whole(q, k, v, m):
    """The tangent by forward-mode differentiation of the formula, all of P at once."""

    def formula(q, k, v):
        return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v

    return torch.func.jvp(formula, tuple(x.primal[:m] for x in (q, k, v)), tuple(x.tangent for x in (q, k, v)))[1]


@pytest.mark.parametrize("entries", [1, 20, 7 * 5, 2 * 7 * 5, 3 * 7 * 5, 10**6])
def test_the_size_of_chunks_changes_no_number(monkeypatch, entries):
    monkeypatch.setattr(rules, "ATTENTION_ENTRIES", entries)  # from one query at a time to all rows at once
    q, k, v = operands(4, 3, 2, 7, 3, torch.float64, keys=5)
    found = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found.tangent, whole(q, k, v, 3), rtol=1e-12, atol=1e-13)


def test_at_4096_tokens_the_numbers_hold_and_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(rules, "ATTENTION_ENTRIES", 2**20)
    q, k, v = operands(1, 1, 2, 4096, 4, torch.float32)
    with Largest() as largest:
        found = F.scaled_dot_product_attention(q, k, v)
    assert largest.entries <= 2**20  # all of P has 2^25
    reference = whole(*(RowDual(x.primal[:, 1:].double(), x.tangent[:, 1:].double()) for x in (q, k, v)), 1)
    error = (found.tangent[:, 1:] - reference).norm() / reference.norm()
    assert error < 1e-5


def test_the_shipped_chunks_take_a_gibibyte():
    assert rules.ATTENTION_ENTRIES * 18.5 < 1.2 * 2**30
