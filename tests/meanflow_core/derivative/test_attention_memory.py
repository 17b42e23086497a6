"""The tangent of attention in chunks: the numbers of the whole, and no more memory whatever the number of tokens."""

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from meanflow_core.derivative import fused, rules
from meanflow_core.derivative.dual import RowDual
from tests import ROOT


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


# ------------------------------------------------------------------------------------------------- one kernel

KERNEL = "meanflow_core.derivative.attention_kernel"


@pytest.mark.parametrize(("entries", "calls"), [(7 * 5 * 6, 0), (7 * 5 * 6 - 1, 1)])
def test_a_kernel_serves_where_the_tangent_would_be_made_in_chunks(monkeypatch, entries, calls):
    asked = []

    def kernel(parts, factor):
        asked.append(factor)
        return fused.by_formula(*parts, factor)

    monkeypatch.setattr(rules, "ATTENTION_ENTRIES", entries)
    monkeypatch.setattr(rules, "fused_tangent", kernel)
    q, k, v = operands(4, 3, 2, 7, 3, torch.float64, keys=5)
    found = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found.tangent, whole(q, k, v, 3), rtol=1e-12, atol=1e-13)
    assert len(asked) == calls


def fails(*arguments):
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(
    ("tangent", "right"),
    [(fused.by_formula, True), (lambda *parts: 1.2 * fused.by_formula(*parts), False), (fails, False), (None, False)],
    ids=["right", "off", "fails", "not there"],
)
def test_a_kernel_is_used_once_it_was_found_right(monkeypatch, tangent, right):
    fused.kernel_is_right.cache_clear()
    monkeypatch.setitem(sys.modules, KERNEL, None if tangent is None else SimpleNamespace(tangent=tangent))
    assert fused.kernel_is_right(torch.device("cpu"), torch.float32, 8) is right
    fused.kernel_is_right.cache_clear()


INTERPRETED = """
import torch
from meanflow_core.derivative.attention_kernel import tangent
from meanflow_core.derivative.fused import TOLERANCE, by_formula

generator = torch.Generator().manual_seed(1)
for dtype, rows, queries, keys, size in (
    (torch.float32, 2, 70, 90, 72), (torch.float32, 1, 3, 5, 8), (torch.float16, 2, 70, 90, 16),
):
    draw = lambda tokens: torch.randn(rows, tokens, size, generator=generator).to(dtype)
    parts = [draw(tokens) for tokens in (queries, keys, keys, queries, keys, keys)]
    found, wanted = tangent(*parts, 0.3), by_formula(*(x.double() for x in parts), 0.3)
    off = float((found.double() - wanted).norm() / wanted.norm())
    assert off < (1e-6 if dtype == torch.float32 else TOLERANCE[dtype])
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, whose interpreter runs on a CPU")
def test_the_kernel_has_the_numbers_of_the_formula_in_its_interpreter():
    """In float32 and float16: products of bfloat16 are wrong in the interpreter itself."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env=environment)
