"""The network's prediction and its total derivative du/dt (Eq. 7-8): every way to get them, and which one to use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

import meanflow_core.derivative.rules
import meanflow_core.derivative.structure  # noqa: F401 (both register rules)
from meanflow_core.derivative.check import Findings, examine, examine_size
from meanflow_core.derivative.differences import by_finite_difference
from meanflow_core.derivative.dual import UnsupportedOperation, by_row_dual
from meanflow_core.derivative.forward_mode import bare, by_jvp, by_jvp_of_batch
from meanflow_core.derivative.on_trial import DerivativeError
from meanflow_core.derivative.query import Query
from meanflow_core.derivative.tensor_dual import by_dual
from meanflow_core.distributed import in_shards
from meanflow_core.flow import Network
from meanflow_core.rng import RandomState

TANGENTS = {"v01": (0.0, 1.0), "v00": (0.0, 0.0), "v10": (1.0, 0.0), "v11": (1.0, 1.0)}
"""Tangents of r and t beside that of z. Only the first is the total derivative; the others are Table 1b's ablation."""
METHODS = {
    "dual": by_dual,
    "row_dual": by_row_dual,
    "jvp": by_jvp,
    "jvp_of_batch": by_jvp_of_batch,
    "finite_difference": by_finite_difference,
}
CANDIDATES = {
    "auto": ("row_dual", "dual", "jvp", "jvp_of_batch"),
    "dual": ("row_dual", "dual"),
    "jvp": ("jvp", "jvp_of_batch"),
    "finite_difference": ("finite_difference",),
}
"""What each `objective.derivative` may use, the first that is right."""

COMPILES = "_row_dual_is_right_at"
"""Attribute of a network: (rows, differentiated rows, tangent) for which `row_dual` was found right, the only method
that torch.compile can trace."""
UNCHECKED = (
    "under torch.compile du/dt is carried beside the forward pass by rules, which must have been found right for this "
    "network and batch: call it once without torch.compile, which says why not if they are not, and then compiled"
)

_log = logging.getLogger(__name__)
_found: WeakKeyDictionary[Any, dict[Any, Findings]] = WeakKeyDictionary()


def predict(
    net: Network,
    z: Tensor,
    r: Tensor,
    t: Tensor,
    labels: Tensor | None,
    *,
    direction: Tensor,
    tangent: str = "v01",
    method: str = "auto",
    others: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return u on all rows, with its graph, and du/dt on the first m rows, without one.

    At the first use of a network in a mode (training or not, labels or none, autocast, tangent) the method is checked
    on a small batch against a plain pass and forward-mode differentiation of the whole batch; see `check`.

    Args:
        net: the network.
        z: points of the path [B, ...]. The m rows whose derivative is wanted come first.
        r: earlier times [B].
        t: later times [B].
        labels: int64 [B] or None.
        direction: the velocity v~ of the first m rows, [m, ...].
        tangent: a key of `TANGENTS`.
        method: `dual` (beside the one forward pass), `jvp` (forward-mode differentiation of a second pass over the m
            rows, or over all of them where rows influence each other or draw random numbers), `finite_difference`
            (central, two more passes), or `auto`: `dual` if it is right for this network, else `jvp`.
        others: the direction of the other rows, given the prediction there. It matters only where rows influence each
            other. None: they do not move in z.

    Raises:
        DerivativeError: no allowed method is right for this network; the message says why.
    """
    if len(direction) == 0:
        return net(z, r, t, labels), direction
    query = Query(z, r, t, labels, direction, *TANGENTS[tangent], others)
    if torch.compiler.is_compiling():
        if (len(z), len(direction), tangent) not in getattr(net, COMPILES, ()):
            raise DerivativeError(UNCHECKED)
        u, du_dt = by_row_dual(net, query)
    else:
        u, du_dt = _by_what_is_right(net, query, tangent, method)
    return u, du_dt.to(z.dtype)


def _by_what_is_right(net: Network, at: Query, tangent: str, wanted: str) -> tuple[Tensor, Tensor]:
    """Use the method that was found right; where an operation first comes up now that it cannot carry, the next one."""
    while True:
        findings = _findings(net, at, wanted)
        name = _chosen(net, at, tangent, wanted, findings)
        before = RandomState.now(at.z.device) if findings.draws else None
        try:
            return METHODS[name](net, at)
        except UnsupportedOperation as error:
            fault = findings.faults[name] = f"in a later step, {error}"
            _log.warning("du/dt not by %s: %s", name, fault)
            if before is not None:
                before.restore()  # what the attempt drew is drawn again


def _chosen(net: Network, at: Query, tangent: str, wanted: str, findings: Findings) -> str:
    """Return the method to use."""
    for name in CANDIDATES[wanted]:
        if name not in findings.faults:
            findings.faults.update(_examined(bare(net), at, (name,)).faults)
        if findings.faults[name] is None and _fits(name, net, at, tangent, findings):
            return name
    raise DerivativeError(_refusal(wanted, findings))


def _fits(name: str, net: Network, at: Query, tangent: str, findings: Findings) -> bool:
    """Whether a method that was found right is so at this size of the batch too."""
    if name not in ("row_dual", "dual"):
        return True
    key = (name, len(at.z), at.rows)
    if key not in findings.sizes:
        net = bare(net)
        _check_whole(modules_of(net))
        fault = examine_size(net, modules_of(net), at, METHODS[name], findings.draws)
        findings.sizes[key] = fault
        if fault is not None:
            _log.warning("du/dt not by %s: %s", name, fault)
        elif name == "row_dual" and hasattr(net, "__dict__"):
            setattr(net, COMPILES, getattr(net, COMPILES, frozenset()) | {(len(at.z), at.rows, tangent)})
    return findings.sizes[key] is None


def _findings(net: Network, at: Query, wanted: str) -> Findings:
    """Return what is known of the network in this mode, examining it where nothing is."""
    net = bare(net)
    modules = modules_of(net)
    known = _found.setdefault(_holder(net, modules), {})
    key = _mode(net, modules, at, wanted)
    if key not in known:
        hooked = any(key[0])
        names = [name for name in CANDIDATES[wanted] if not (hooked and name == "row_dual")]
        known[key] = _examined(net, at, names)
        if hooked:
            known[key].faults["row_dual"] = "modules have hooks, which expect tensors"
        _report(wanted, known[key])
    return known[key]


def _check_whole(modules: list[nn.Module]) -> None:
    """Refuse to examine a network whose weights are in shards already.

    Raises:
        DerivativeError: they are.
    """
    if any(hasattr(parameter, "placements") for module in modules for parameter in module.parameters()):
        raise DerivativeError(
            "du/dt of a network in shards (`trainer.sharding: fsdp`) is used in a way in which it was not examined "
            "before it was cut"
        )


def _examined(net: Network, at: Query, names: Iterable[str]) -> Findings:
    modules = modules_of(net)
    _check_whole(modules)
    return examine(net, modules, at, {name: METHODS[name] for name in names})


def _holder(net: Any, modules: list[nn.Module]) -> Any:
    return modules[0] if modules else net


def _mode(net: Any, modules: list[nn.Module], at: Query, wanted: str) -> tuple[Any, ...]:
    device = at.z.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    code = None if isinstance(net, nn.Module) else getattr(net, "__code__", type(net))
    training = tuple(module.training for module in modules)
    hooked = tuple(not in_shards(module) and _hooked(module) for module in modules)  # by FSDP, which is provided for
    return (hooked, code, training, at.labels is None, low, at.z.dtype, device, at.z.shape[1:], at.dr, at.dt, wanted)


def _hooked(net: nn.Module) -> bool:
    """Whether a module in it has hooks of its own, which expect to be given tensors."""
    return any(m._forward_hooks or m._backward_hooks or m._backward_pre_hooks for m in net.modules())


def modules_of(net: Any) -> list[nn.Module]:
    """Return the modules that a network is, or that a function, method or partial of one refers to."""
    if isinstance(net, nn.Module):
        return [net]
    found: list[nn.Module] = []
    if isinstance(net, MethodType):
        found += modules_of(net.__self__) + modules_of(net.__func__)
    elif isinstance(net, FunctionType):
        cells = [cell.cell_contents for cell in net.__closure__ or () if _filled(cell)]
        named = [net.__globals__.get(name) for name in net.__code__.co_names]
        defaults = list(net.__defaults__ or ())
        found += [bare(value) for value in (*cells, *named, *defaults) if isinstance(value, nn.Module)]  # type: ignore[misc]
    elif hasattr(net, "func"):  # functools.partial
        inner = [net.func, *net.args, *net.keywords.values()]
        found += [module for value in inner if callable(value) for module in modules_of(value)]
    return list(dict.fromkeys(found))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


# -------------------------------------------------------------------------------------------- what is said of it

SAID = {
    "dual": "carried beside the one forward pass",
    "row_dual": "by rules, carried beside the one forward pass",
    "jvp": "a second pass over the rows with r != t",
    "jvp_of_batch": "a second pass over the whole batch",
    "finite_difference": "central differences",
}


def _report(wanted: str, findings: Findings) -> None:
    right = next((name for name, fault in findings.faults.items() if fault is None), None)
    if right is not None:
        expected = wanted != "auto" or right in ("row_dual", "dual")
        _log.log(logging.INFO if expected else logging.WARNING, "%s", describe(findings))


def describe(findings: Findings) -> str:
    """Return one line: how du/dt is had, and what is wrong with the cheaper ways."""
    right = next((name for name, fault in findings.faults.items() if fault is None), "none")
    said = [(name, fault) for name, fault in findings.faults.items() if fault is not None]
    said += [(size[0], fault) for size, fault in findings.sizes.items() if fault is not None]
    faults = "; ".join(f"not {name}: {fault}" for name, fault in said)
    return f"du/dt by {right} ({SAID.get(right, 'refused')})" + (f"; {faults}" if faults else "")


def _refusal(wanted: str, findings: Findings) -> str:
    faults = "; ".join(f"{name}: {fault}" for name, fault in findings.faults.items())
    way = "" if wanted == "auto" else " Set `objective.derivative: auto`, which uses what is right."
    return f"`objective.derivative: {wanted}` is not right for this network: {faults}.{way}"


def record(net: Network) -> list[str]:
    """Return what was found of a network, a line for each mode it was used in."""
    net = bare(net)
    modules = modules_of(net)
    return sorted({describe(findings) for findings in _found.get(modules[0] if modules else net, {}).values()})


def rows_stand_alone(
    net: Network, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None, method: str
) -> tuple[bool, bool]:
    """Return whether the rows of a batch may be put in another order, and whether some of them may be left out.

    Neither is so for a function that holds a condition of each row, `lambda z, r, t, y: net(z, r, t, condition)`.
    """
    findings = _findings(net, Query(z, r, t, labels, z[:1], *TANGENTS["v01"]), method)
    return findings.orderless, findings.separable
