"""A network on trial: copies of its weights, a batch of another size, its gradients; nothing of it is changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from meanflow_core.derivative.query import Query


class DerivativeError(ValueError):
    """du/dt of this network cannot be had, or not as `objective.derivative` wants it. The message says why."""


def as_prediction(u: Any, at: Query) -> Tensor:
    """Return the network's output, or say what is wrong with it.

    Raises:
        DerivativeError: it is no tensor, or not like z.
    """
    if not isinstance(u, Tensor):
        kind = type(u).__name__
        hint = "; return its first item" if isinstance(u, tuple | list) else "; return the tensor in it"
        raise DerivativeError(f"the network returns a {kind}, but must return the tensor u, like z{hint}")
    if u.shape != at.z.shape:
        raise DerivativeError(
            f"the network returns a tensor {tuple(u.shape)}, but u must be like z {tuple(at.z.shape)}"
        )
    return u


def gradients_of(loss: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Return the gradient of each leaf; of a network that holds none, of what its graph ends in."""
    if not loss.requires_grad:
        return dict.fromkeys(leaves)
    if leaves:
        loss.backward()  # type: ignore[no-untyped-call]
        return {name: leaf.grad for name, leaf in leaves.items()}
    ends = _ends(loss)
    found = torch.autograd.grad(loss, ends, allow_unused=True) if ends else ()
    return {f"0.{index}": gradient for index, gradient in enumerate(found)}


def _ends(tensor: Tensor) -> list[Tensor]:
    """Return the leaves of a graph, in an order that depends on the graph alone."""
    pending, seen, ends = [tensor.grad_fn], set(), []
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            ends.append(node.variable)
        pending += [parent for parent, _ in node.next_functions]
    return sorted(ends, key=id)


# ---------------------------------------------------------------------------------------------- small things


def resized(at: Query, n: int, m: int) -> Query:
    """Return a query of n rows made of the given ones, m of them differentiated, and all moving."""
    batch, device = len(at.z), at.z.device
    index = torch.arange(n, device=device) % batch
    turn = (torch.arange(n, device=device) // batch).reshape(-1, *[1] * (at.z.dim() - 1))
    z = at.z[index] * (1 - 0.2 * turn) + 0.1 * turn  # no two rows the same, where there are fewer than n
    generator = torch.Generator(device).manual_seed(0)
    dz = torch.randn(z.shape, generator=generator, device=device, dtype=z.dtype)
    low, high = torch.rand((2, n), generator=generator, device=device, dtype=at.t.dtype).mul(0.9).add(0.05)
    t = torch.maximum(low, high)
    spans = torch.arange(n, device=device) < m
    r = torch.where(spans, torch.minimum(low, high), t)
    labels = None if at.labels is None else at.labels[index]
    if not bool(at.dz.any()):
        dz = torch.zeros_like(dz)
    return Query(z, r, t, labels, dz[:m], at.dr, at.dt, lambda prediction: dz[m:])


def reordered(at: Query, order: Tensor) -> Query:
    """Return the query with its rows in another order, for a plain pass."""
    labels = None if at.labels is None else at.labels[order]
    return replace(at, z=at.z[order], r=at.r[order], t=at.t[order], labels=labels)


def moved_weights(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return copies of the parameters, moved at random by about their own size, and the buffers."""
    parameters = {}
    generators: dict[torch.device, torch.Generator] = {}
    for name, parameter in module.named_parameters():
        device = parameter.device
        if device not in generators:
            generators[device] = torch.Generator(device).manual_seed(0)
        value = parameter.detach()
        if value.is_floating_point():
            inputs = value[0].numel() if value.dim() > 1 else 4
            size = float(value.float().square().mean().sqrt()) if value.numel() else 0.0
            noise = torch.randn(value.shape, generator=generators[device], device=device, dtype=torch.float32)
            value = value + noise.to(value.dtype) * (0.5 * size if size > 0 else 1 / math.sqrt(inputs))
        parameters[name] = value.requires_grad_(parameter.requires_grad)
    return parameters, dict(module.named_buffers())


def own_weights(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parameters and buffers as they are."""
    return dict(module.named_parameters()), dict(module.named_buffers())


@contextmanager
def silenced(module: nn.Module) -> Iterator[None]:
    """Let backward hooks of modules be there and do nothing."""
    kept = []
    for part in module.modules():
        for hooks in (part._backward_hooks, part._backward_pre_hooks):
            kept += [(hooks, key, hook) for key, hook in hooks.items()]
    for hooks, key, _ in kept:
        hooks[key] = _silent
    try:
        yield
    finally:
        for hooks, key, hook in kept:
            hooks[key] = hook


def _silent(*unused: Any) -> None:
    return None


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Let products of float32 be float32."""
    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if device.type != "cuda":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def gap(got: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference, as a share of the norm."""
    size = float(wanted.double().norm())
    return float((got.double() - wanted.double()).norm()) / size if size else math.inf


def near(got: Tensor, wanted: Tensor, tolerance: float, scale: float = 0.0) -> bool:
    """Whether the difference is small beside the norm (or beside `scale`, where that is much larger)."""
    size = max(float(wanted.double().norm()), 1e-3 * scale)
    return got.shape == wanted.shape and float((got.double() - wanted.double()).norm()) <= tolerance * size + 1e-30


def said(error: Exception) -> str:
    """Return the first line of what an exception says."""
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
