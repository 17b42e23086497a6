"""du/dt by forward-mode differentiation of a second pass: over the rows that need it, or over the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.autograd.function import Function, _SingleLevelFunction
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from meanflow_core.derivative.query import Query
from meanflow_core.derivative.rules import in_layout_of
from meanflow_core.flow import Network
from meanflow_core.rng import RandomState, one_draw


def bare(net: Network) -> Network:
    """Return the network that `DistributedDataParallel` wraps: passes without gradient have nothing to synchronise."""
    while isinstance(net, DistributedDataParallel):
        net = net.module
    return net


def by_jvp(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    """Differentiate a second pass over the rows that need it: right where a row stands for itself and nothing is drawn.

    A pass over fewer rows draws other random numbers, and lacks the rows that influence these.
    """
    u = net(at.z, at.r, at.t, at.labels)
    return u, forward_mode(bare(net), at.head())[1]


def by_jvp_of_batch(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    """Differentiate a second pass over the whole batch, all of which moves, with the random numbers of the first."""
    before = RandomState.now(at.z.device)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention would drop out other entries than that of the second pass
        u = net(at.z, at.r, at.t, at.labels)
    with one_draw(at.z.device):
        before.restore()
        return u, forward_mode(bare(net), at.whole(u))[1][: at.rows]


def forward_mode(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    """Return u and its derivative on all rows of a query that moves all of them, without gradient."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the fused kernels of attention have no forward mode
        if at.z.device.type == "cpu":  # nor has layer norm of bfloat16 with float32 weights
            stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(_Differentiable())
        stack.enter_context(seen_through())
        stack.enter_context(without_hooks(net))
        stack.enter_context(forward_ad.dual_level())
        z = as_number(at.z, at.dz)
        r = as_number(at.r, torch.full_like(at.r, at.dr)) if at.dr else at.r
        t = as_number(at.t, torch.full_like(at.t, at.dt)) if at.dt else at.t
        u, tangent = apart(net(z, r, t, at.labels))
        return u, torch.zeros_like(u) if tangent is None else tangent


def as_number(x: Tensor, tangent: Tensor | None) -> Tensor:
    """Return x + tangent * epsilon, a forward-mode dual number."""
    if tangent is None:
        return x
    number: Tensor = forward_ad.make_dual(x, tangent.to(x.dtype))  # type: ignore[no-untyped-call]
    return number


def apart(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the two parts of a forward-mode dual number."""
    primal, tangent = forward_ad.unpack_dual(x)  # type: ignore[no-untyped-call]
    return primal, tangent


class _Differentiable(TorchFunctionMode):
    """Lets a tangent go where torch would not let it.

    Through `detach`, which stops gradients: du/dt is how u changes, whatever way it does. Through a group norm of what
    is not contiguous, which fails in forward mode.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the call where it must be."""
        if func is Tensor.detach or func is torch.detach:
            return args[0].view_as(args[0])
        if func is torch.nn.functional.group_norm and args:
            return in_layout_of(args[0], func(args[0].contiguous(), *args[1:], **(kwargs or {})))
        return func(*args, **(kwargs or {}))


class _Context:
    """Stands in for the context of a `torch.autograd.Function` whose backward will not run."""

    needs_input_grad = (False,) * 64

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Nothing is saved."""

    save_for_forward = mark_dirty = mark_non_differentiable = save_for_backward

    def set_materialize_grads(self, value: bool) -> None:
        """Nothing comes back."""


@contextmanager
def seen_through() -> Iterator[None]:
    """Differentiate what a `torch.autograd.Function` without forward mode computes, checkpointing among them.

    Without gradient nothing but its `forward` is of interest, and that consists of operations like any other.
    """
    ordinary = torch._C._FunctionBase.apply  # type: ignore[attr-defined]  # what `Function.apply` hands over to, also where it was bound long before

    def apply(cls: Any, *args: Any) -> Any:
        if cls.jvp is not Function.jvp or torch.is_grad_enabled():
            return ordinary.__get__(None, cls)(*args)
        if cls.setup_context is not Function.setup_context:
            return cls.forward(*args)
        return cls.forward(_Context(), *args)

    _SingleLevelFunction.apply = classmethod(apply)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del _SingleLevelFunction.apply  # type: ignore[attr-defined]


@contextmanager
def without_hooks(net: object) -> Iterator[None]:
    """Take the backward hooks of modules away for passes without gradient, where they have nothing to do."""
    modules = net.modules() if isinstance(net, nn.Module) else ()
    hooked = [module for module in modules if module._backward_hooks or module._backward_pre_hooks]
    kept = [(module._backward_hooks, module._backward_pre_hooks) for module in hooked]
    for module in hooked:
        module._backward_hooks, module._backward_pre_hooks = type(kept[0][0])(), type(kept[0][0])()
    try:
        yield
    finally:
        for module, (hooks, pre_hooks) in zip(hooked, kept, strict=True):
            module._backward_hooks, module._backward_pre_hooks = hooks, pre_hooks
