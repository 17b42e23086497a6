"""What may be used for du/dt of a network, found out at its first use, so that no derivative is silently wrong.

On a small batch, with the weights moved at random (a zero-initialised layer hides every mistake), each way is held
against a plain pass (its values, the parameters that get a gradient, and the gradients) and against forward-mode
differentiation of the whole batch. Neither weights, buffers, gradients nor random generators are changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from meanflow_core.derivative.forward_mode import forward_mode
from meanflow_core.derivative.on_trial import (
    DerivativeError,
    as_prediction,
    full_precision,
    gap,
    gradients_of,
    moved_weights,
    near,
    own_weights,
    reordered,
    resized,
    said,
    silenced,
)
from meanflow_core.derivative.query import Query
from meanflow_core.flow import Network, evaluating
from meanflow_core.half_precision import without_cache
from meanflow_core.rng import RandomState, one_draw

Method = Callable[[Network, Query], tuple[Tensor, Tensor]]
SIZES = ((7, 3), (11, 4), (13, 5), (17, 6), (19, 7), (23, 9))
"""Rows of the small batch, and how many of them are differentiated: the first pair that is no size of the network."""
TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-3}
LOW = 0.1
"""Tolerance, as a share of the norm, where passes are in half precision (on top of what is checked without)."""
DOUBT = {torch.float64: 1e-4, torch.float32: 1e-2}
"""A derivative this close to central differences, as a share of the norm, is not contradicted by them."""
AGREED = 0.1
"""Two steps contradict it where they agree with each other this much better than with it."""
INEXACT = 0.03
"""Tolerance of finite differences."""


@dataclass(frozen=True)
class Findings:
    """What is known of a network in one mode.

    `faults` says of each method that was tried what is wrong with it, None where it is right. `draws`: a pass draws
    random numbers. `mixing`: rows influence each other. `orderless`: rows may come in any order. `separable`: a pass
    in evaluation mode may take any of the rows. `sizes` says what is wrong with a method at a (number of rows, number
    of differentiated ones) at which it was tried.
    """

    faults: dict[str, str | None]
    draws: bool
    mixing: bool
    orderless: bool
    separable: bool
    sizes: dict[tuple[str, int, int], str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Outcome:
    u: Tensor
    du: Tensor
    gradients: dict[str, Tensor | None]
    state: RandomState


def examine(net: Network, modules: list[nn.Module], at: Query, methods: dict[str, Method]) -> Findings:
    """Try the methods in their order until one is right.

    Args:
        net: the network.
        modules: those that hold its parameters.
        at: a query as it comes up in training; at least one row.
        methods: by name.

    Raises:
        DerivativeError: the network is no function of its inputs and of the random generators, or has none that is
            finite.
        Exception: whatever the network itself raises in a plain pass.
    """
    device = at.z.device
    with one_draw(device), full_precision(device), torch.enable_grad(), without_cache():
        return _Exam(net, modules, at).run(methods, torch.is_autocast_enabled(device.type))


def examine_size(net: Network, modules: list[nn.Module], at: Query, method: Method, draws: bool) -> str | None:
    """Say what is wrong with a method at the batch's own size, of which another size in the network may be the same.

    Passes without gradient suffice: the parameters' gradients are those of a plain pass at any size.
    """
    device = at.z.device
    with one_draw(device), full_precision(device), torch.no_grad(), without_cache():
        exam = _Exam(net, modules, at)
        return exam.fault_at_size(resized(at, len(at.z), at.rows), method, draws)


class _Exam:
    """One network in one mode, on copies of its weights."""

    def __init__(self, net: Network, modules: list[nn.Module], at: Query) -> None:
        self.net, self.modules, self.device = net, modules, at.z.device
        self.state = RandomState.now(self.device)
        self.drew = False
        self.weights = [moved_weights(module) for module in modules]
        self.asked, self.small = self._batch(at)

    # ------------------------------------------------------------------------------------------- the batch

    def _batch(self, at: Query) -> tuple[Query, bool]:
        """Return the query of a small batch whose sizes occur nowhere else, or of the given one where that fails."""
        taken = {*at.z.shape[1:], *(size for module in self.modules for p in module.parameters() for size in p.shape)}
        n, m = next((pair for pair in SIZES if not taken.intersection(pair)), SIZES[0])
        small = resized(at, n, m)
        try:
            u = self._plain(small)
        except Exception:
            self._plain(at)  # what it raises here is the network's own affair
            return resized(at, len(at.z), at.rows), False
        if not u.isfinite().all() and self.modules:
            self.weights = [own_weights(module) for module in self.modules]
        return small, True

    # ---------------------------------------------------------------------------------------------- passes

    @contextmanager
    def _borrowed(self) -> Iterator[dict[str, Tensor]]:
        """Put copies of parameters and buffers into the network, and the generators back, for the block."""
        self.state.restore()
        leaves: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for index, (module, (parameters, buffers)) in enumerate(zip(self.modules, self.weights, strict=True)):
                own = {name: p.detach().requires_grad_(p.requires_grad) for name, p in parameters.items()}
                leaves |= {f"{index}.{name}": p for name, p in own.items()}
                copies = {name: buffer.clone() for name, buffer in buffers.items()}
                stack.enter_context(_reparametrize_module(module, {**own, **copies}, tie_weights=True))
                stack.enter_context(silenced(module))
            yield leaves

    def _plain(self, at: Query) -> Tensor:
        with self._borrowed(), torch.no_grad():
            u = as_prediction(self.net(at.z, at.r, at.t, at.labels), at)
            self.drew = self.state.moved()
            return u

    def _outcome(self, method: Method, at: Query) -> _Outcome:
        with self._borrowed() as leaves:
            u, du = method(self.net, at)
            as_prediction(u, at)
            state = RandomState.now(self.device)
            weight = torch.cos(torch.arange(u.numel(), dtype=torch.float32, device=self.device)).reshape(u.shape)
            loss = (u.float() if u.dtype in (torch.bfloat16, torch.float16) else u).mul(weight).sum()
            gradients = gradients_of(loss, leaves)
            return _Outcome(u.detach(), du.detach(), gradients, state)

    # ----------------------------------------------------------------------------------------------- exam

    def run(self, methods: dict[str, Method], low: bool) -> Findings:
        at = self.asked
        plain = self._outcome(_plainly, at)
        draws = not plain.state.equals(self.state)
        tolerance = LOW if low or plain.u.dtype in (torch.bfloat16, torch.float16) else TOLERANCE[at.z.dtype]
        if not near(self._outcome(_plainly, at).u, plain.u, tolerance):
            raise DerivativeError(
                "two passes of the network over the same batch differ, though the random generators (torch's, "
                "Python's and numpy's global ones) were put back: it draws from a generator of its own, or keeps a "
                "state; let it draw from the global ones"
            )
        reference, why = self._reference(at, plain, tolerance)
        mixing = self._mixes(at, plain, tolerance)
        faults: dict[str, str | None] = {}
        for name, method in methods.items():
            faults[name] = self._fault(name, method, at, plain, reference, why, draws, tolerance, mixing)
            if faults[name] is None and low:
                with torch.autocast(self.device.type, enabled=False):
                    faults[name] = _Exam._fault_in_full(self, name, method)
            if faults[name] is None:
                break
        return Findings(faults, draws, mixing, *self._freedom(at, tolerance, draws))

    def fault_at_size(self, at: Query, method: Method, draws: bool) -> str | None:
        """See `examine_size`."""
        low = torch.is_autocast_enabled(self.device.type)
        plain = self._plain(at)
        try:
            with self._borrowed():
                u, du = method(self.net, at)
        except Exception as error:
            return said(error)
        tolerance = LOW if low or plain.dtype in (torch.bfloat16, torch.float16) else TOLERANCE[at.z.dtype]
        with self._borrowed():
            reference = forward_mode(self.net, at.whole(plain) if draws or not self.small else at.head())[1][: at.rows]
        size = f"in a batch of {len(at.z)} rows, {at.rows} of them with r != t,"
        if not near(u, plain, tolerance):
            return f"{size} its prediction is off by {gap(u, plain):.2g} of its norm"
        if not near(du, reference, tolerance):
            return f"{size} its du/dt is off by {gap(du, reference):.2g} of its norm"
        return None

    def _fault_in_full(self, name: str, method: Method) -> str | None:
        """Say what is wrong without autocast, where numbers say more; nothing where the network needs autocast."""
        at, tolerance = self.asked, TOLERANCE[self.asked.z.dtype]
        try:
            plain = self._outcome(_plainly, at)
        except RuntimeError:
            return None
        reference, why = self._reference(at, plain, tolerance)
        draws = not plain.state.equals(self.state)
        return self._fault(name, method, at, plain, reference, why, draws, tolerance, False)

    def _reference(self, at: Query, plain: _Outcome, tolerance: float) -> tuple[Tensor | None, str]:
        """Differentiate the whole batch, every row of which moves."""
        try:
            with self._borrowed():
                u, du = forward_mode(self.net, at.whole(plain.u))
        except Exception as error:
            return None, f"forward-mode differentiation of the whole batch fails ({said(error)})"
        if not near(u, plain.u, tolerance):
            return None, "a pass in forward mode predicts something else than a plain one"
        if (off := self._contradiction(at.whole(plain.u), du, tolerance)) is not None:
            return None, (
                f"forward-mode differentiation is off by {off:.2g} of what central differences agree on (a kernel or "
                "code outside torch, or a number taken out by .item(), which torch cannot differentiate?)"
            )
        return du[: at.rows], ""

    def _contradiction(self, at: Query, du: Tensor, tolerance: float) -> float | None:
        """Return by how much central differences contradict a derivative: two steps agree with each other, not with it.

        A kernel that knows nothing of forward mode drops the tangent without a word, and a number that Python was
        given is a constant to it. Where no two steps agree (a network that changes fast, or in half precision) there
        is nothing to say; nor where two steps are too short to change a rounded prediction at all.
        """
        doubt = max(tolerance, DOUBT.get(at.z.dtype, LOW))
        differences: list[Tensor] = []
        for shrink in (1, 8, 64):
            h = torch.finfo(at.z.dtype).eps ** (1 / 3) / shrink
            sides = []
            for step in (h, -h):
                moved = replace(at, z=at.z + step * at.dz, r=at.r + step * at.dr, t=at.t + step * at.dt)
                sides.append(self._plain(moved).to(at.z.dtype))
            differences.append((sides[0] - sides[1]) / (2 * h))
            if near(differences[-1], du, doubt):
                return None
        for one, other in pairwise(differences):
            if bool(one.any()) and gap(one, other) < AGREED * gap(du, other):
                return gap(du, other)
        return None

    def _fault(
        self,
        name: str,
        method: Method,
        at: Query,
        plain: _Outcome,
        reference: Tensor | None,
        why: str,
        draws: bool,
        tolerance: float,
        mixing: bool,
    ) -> str | None:
        """Say what is wrong with a method, or None."""
        if name == "jvp" and draws:
            return "the network draws random numbers, and a pass over fewer rows draws others"
        if reference is None:
            return f"nothing to check it against: {why}"
        try:
            got = self._outcome(method, at)
        except Exception as error:
            return said(error)
        if not near(got.u, plain.u, tolerance):
            return f"its prediction is off by {gap(got.u, plain.u):.2g} of its norm"
        if draws and not got.state.equals(plain.state):
            return "it does not draw the random numbers of a plain pass"
        missing = [n for n, g in plain.gradients.items() if (g is None) != (got.gradients.get(n) is None)]
        if missing:
            return f"{len(missing)} of {len(plain.gradients)} parameters lose or gain a gradient ({missing[0][2:]})"
        scale = max((float(g.norm()) for g in plain.gradients.values() if g is not None), default=0.0)
        for key, gradient in plain.gradients.items():
            other = got.gradients[key]
            if gradient is not None and other is not None and not near(other, gradient, tolerance, scale):
                return f"the gradient of {key[2:]} is off by {gap(other, gradient):.2g} of its norm"
        allowed = max(tolerance, INEXACT) if name == "finite_difference" else tolerance
        if not near(got.du, reference, allowed):
            off = f"its du/dt is off by {gap(got.du, reference):.2g} of its norm"
            return f"rows influence each other (statistics over the batch?), and {off}" if mixing else off
        return None

    def _mixes(self, at: Query, plain: _Outcome, tolerance: float) -> bool:
        """Whether rows influence each other: other values in the last rows change the first ones."""
        m = at.rows
        if m == len(at.z):
            return False
        other = replace(at, z=torch.cat([at.z[:m], -0.7 * at.z[m:].flip(0) + 0.3]))
        return not near(self._plain(other)[:m], plain.u[:m], tolerance)

    def _freedom(self, at: Query, tolerance: float, draws: bool) -> tuple[bool, bool]:
        """Whether rows may come in any order; and in any number, in evaluation mode.

        Where random numbers are drawn in evaluation mode too, both are taken to be so: there is no telling.
        """
        order = torch.arange(len(at.z), device=self.device).roll(2).flip(0)
        with ExitStack() as stack:
            if draws:
                stack.enter_context(self._evaluating())
            u = self._plain(at)
            orderless = self.drew or near(self._plain(reordered(at, order)), u[order], tolerance)
        with self._evaluating():
            u = self._plain(at)
            try:
                separable = self.drew or near(self._plain(at.head()), u[: at.rows], tolerance)
            except Exception:
                separable = False
        return orderless, separable

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.modules:
                stack.enter_context(evaluating(module))
            yield


def _plainly(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    u = net(at.z, at.r, at.t, at.labels)
    return u, at.dz
