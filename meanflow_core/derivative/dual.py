"""A tensor that carries a tangent on its first rows, so that du/dt comes out of the one pass that training does.

`RowDual` holds the primal of all n rows (with autograd) and the tangent of the first m of them (without). It goes
through a network's ordinary forward by `__torch_function__`: each operation computes its primal exactly as it would for
a plain tensor and, beside it, the m rows' tangent from the primal's activations. Backward walks the graph of a plain
forward; nothing is recorded for the tangent, and it is freed as the forward moves on.

The batch stays the first dimension throughout. An operation without a rule raises `UnsupportedOperation`.

Adding a rule is a function under `@rule("its_name")`: it gets the function that was called and its arguments, with
`RowDual` where a tangent comes in, and returns a `RowDual`. Operations that are linear in their one input are a word in
`LINEAR`, pointwise functions a line in `POINTWISE`. `meanflow_core.derivative.rules` holds the rules of whole layers.
One module, since the class's operators and the rules of arithmetic name each other, and torch.compile follows names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meanflow_core.derivative.query import Query
from meanflow_core.flow import Network

Rule = Callable[..., Any]
BY_NAME: dict[str, Rule] = {}
"""Rules by the bare name of the operation."""
BY_FUNCTION: dict[Callable[..., Any], Rule] = {}
"""The same rules by every function of that name, save reflected operators: torch.compile cannot always tell a
function's name, nor find those in a table."""


class UnsupportedOperation(NotImplementedError, AttributeError):
    """The row-dual tensor cannot carry a tangent through an operation. The message names it."""

    def __init__(self, operation: str, reason: str = "has no tangent rule") -> None:
        super().__init__(f"the operation `{operation}` {reason}")


class RowDual:
    """The primal of n rows and the tangent of the first m: shapes [n, ...] and [m, ...]."""

    __slots__ = ("primal", "tangent")

    def __init__(self, primal: Tensor, tangent: Tensor) -> None:
        self.primal = primal
        self.tangent = tangent

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry a call that has a `RowDual` among its arguments."""
        operation = BY_FUNCTION[func] if func in BY_FUNCTION else BY_NAME.get(func.__name__)
        if operation is None:
            raise UnsupportedOperation(func.__name__)
        return operation(func, *args, **(kwargs or {}))

    @property
    def head(self) -> Tensor:
        """The primal of the rows that have a tangent."""
        return leading(self.primal, self.tangent.shape[0])

    @property
    def shape(self) -> torch.Size:
        """Of the primal, as for a tensor; so are the following."""
        return self.primal.shape

    @property
    def dtype(self) -> torch.dtype:
        """The primal's."""
        return self.primal.dtype

    @property
    def device(self) -> torch.device:
        """The primal's."""
        return self.primal.device

    @property
    def ndim(self) -> int:
        """The primal's."""
        return self.primal.ndim

    def dim(self) -> int:
        """Return the primal's number of dimensions."""
        return self.primal.dim()

    def size(self, dim: int | None = None) -> Any:
        """Return the primal's size."""
        return self.primal.shape if dim is None else self.primal.shape[dim]

    def __len__(self) -> int:
        return self.primal.shape[0]

    def __add__(self, other: Any) -> Any:
        return add(torch.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return add(torch.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return sub(torch.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return rsub(torch.rsub, self, other)

    def __mul__(self, other: Any) -> Any:
        return mul(torch.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return mul(torch.mul, other, self)

    def __truediv__(self, other: Any) -> Any:
        return div(torch.div, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return rdiv(torch.div, self, other)

    def __matmul__(self, other: Any) -> Any:
        return matmul(torch.matmul, self, other)

    def __pow__(self, exponent: float) -> Any:
        return power(torch.pow, self, exponent)

    def __neg__(self) -> Any:
        return linear_map(torch.neg, self)

    def __getitem__(self, index: Any) -> Any:
        return getitem(torch.Tensor.__getitem__, self, index)

    def __getattr__(self, name: str) -> Any:
        """Say of a method without rule that it has none."""
        raise AttributeError(name) if name.startswith("__") else UnsupportedOperation(name)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the operations called `names`.

    `linear` serves `F.linear`; `add` serves `torch.add`, `x.add` and `x + y`.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            BY_NAME[name] = function
            if name.startswith("__"):
                continue
            for owner in (torch, torch.Tensor, F):
                if hasattr(owner, name):
                    BY_FUNCTION[getattr(owner, name)] = function
            if hasattr(torch.Tensor, name):
                setattr(RowDual, name, _method(name, function))
        return function

    return register


def _method(name: str, function: Rule) -> Callable[..., Any]:
    """Return the method `name` of a `RowDual`, as of a tensor."""

    def on_tensor(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, name)(*args, **kwargs)

    def on_dual(self: RowDual, *args: Any, **kwargs: Any) -> Any:
        return function(on_tensor, self, *args, **kwargs)

    on_tensor.__name__ = on_dual.__name__ = name
    return on_dual


def leading(x: Tensor, rows: int) -> Tensor:
    """Return the first `rows` rows."""
    return x.narrow(0, 0, rows)


def raw(x: Any) -> Any:
    """Return the primal of a `RowDual`, anything else as it is."""
    return x.primal if isinstance(x, RowDual) else x


# ------------------------------------------------------------------------------- one input, linear in it


LINEAR = (
    *("neg", "to", "float", "double", "type_as", "contiguous", "clone", "mean", "sum"),
    *("chunk", "split", "unbind", "unsqueeze", "squeeze"),
    *("pad", "interpolate", "avg_pool2d", "adaptive_avg_pool2d", "pixel_shuffle", "pixel_unshuffle"),
)
"""Operations whose tangent is the operation itself. Where they name dimensions, the batch's must not be among them."""


@rule(*LINEAR)
def linear_map(func: Callable[..., Any], x: RowDual, *args: Any, **kwargs: Any) -> Any:
    """d f(x) = f(dx)."""
    primal, tangent = func(x.primal, *args, **kwargs), func(x.tangent, *args, **kwargs)
    if isinstance(primal, Tensor):
        return _in_step(func, x, primal, tangent)
    return tuple(_in_step(func, x, p, t) for p, t in zip(primal, tangent, strict=True))


def _in_step(func: Callable[..., Any], x: RowDual, primal: Tensor, tangent: Tensor) -> RowDual:
    """Pair primal and tangent after checking that the batch is still the first dimension of both."""
    shape, other = primal.shape, tangent.shape
    kept = len(shape) > 0 and shape[0] == x.primal.shape[0] and other[0] == x.tangent.shape[0]
    if not kept or shape[1:] != other[1:]:
        raise UnsupportedOperation(func.__name__, "moves the batch away from the first dimension")
    return RowDual(primal, tangent)


@rule("transpose", "swapaxes")
def transpose(func: Callable[..., Tensor], x: RowDual, dim0: int, dim1: int) -> RowDual:
    """As a linear operation; the batch must stay where it is."""
    if 0 in (dim0 % x.ndim, dim1 % x.ndim):
        raise UnsupportedOperation("transpose", "moves the batch away from the first dimension")
    return RowDual(func(x.primal, dim0, dim1), func(x.tangent, dim0, dim1))


@rule("permute")
def permute(func: Callable[..., Tensor], x: RowDual, *dims: Any) -> RowDual:
    """As a linear operation; the batch must stay where it is."""
    order = dims[0] if len(dims) == 1 else dims
    if order[0] % x.ndim:
        raise UnsupportedOperation("permute", "moves the batch away from the first dimension")
    return RowDual(func(x.primal, order), func(x.tangent, order))


@rule("reshape", "view", "flatten", "unflatten")
def reshape(func: Callable[..., Any], x: RowDual, *args: Any, **kwargs: Any) -> RowDual:
    """The tangent takes the primal's new shape, with its own number of rows, whichever way the shape was spelled."""
    primal = func(x.primal, *args, **kwargs)
    n = x.primal.shape[0]
    total = primal.shape[0] * x.tangent.shape[0] if primal.ndim else 1
    if total % n:
        raise UnsupportedOperation(func.__name__, "mixes rows of the batch")
    return RowDual(primal, x.tangent.reshape(total // n, *primal.shape[1:]))


@rule("expand")
def expand(func: Callable[..., Any], x: RowDual, *sizes: Any) -> RowDual:
    """As reshape."""
    primal = func(x.primal, *sizes)
    if primal.ndim != x.ndim or primal.shape[0] != x.primal.shape[0]:
        raise UnsupportedOperation("expand", "adds a dimension before the batch")
    return RowDual(primal, x.tangent.expand(-1, *primal.shape[1:]))


@rule("getitem")
def getitem(func: Callable[..., Any], x: RowDual, index: Any) -> RowDual:
    """Indexing that leaves the batch dimension whole: x[:, None], x[..., 0]."""
    first = index[0] if isinstance(index, tuple) else index
    whole = first is Ellipsis or (isinstance(first, slice) and first == slice(None))
    if not whole:
        raise UnsupportedOperation("getitem", "picks rows of the batch")
    return _in_step(func, x, x.primal[index], x.tangent[index])


@rule("cat", "concat", "stack")
def cat(func: Callable[..., Tensor], tensors: Sequence[Any], dim: int = 0) -> RowDual:
    """Join along a dimension other than the batch; a plain tensor has tangent 0."""
    primal = func([raw(x) for x in tensors], dim)
    if dim in (0, -primal.ndim):
        raise UnsupportedOperation(func.__name__, "joins along the batch")
    rows = next(x.tangent.shape[0] for x in tensors if isinstance(x, RowDual))
    with torch.no_grad():
        tangents = [x.tangent if isinstance(x, RowDual) else torch.zeros_like(leading(x, rows)) for x in tensors]
    return RowDual(primal, func(tangents, dim))


# ------------------------------------------------------------------------------------------- pointwise


_aten = torch.ops.aten
POINTWISE: dict[str, Callable[..., Tensor]] = {
    "silu": lambda dx, x, y: _aten.silu_backward(dx, x),
    "relu": lambda dx, x, y: _aten.threshold_backward(dx, y, 0),
    "sigmoid": lambda dx, x, y: _aten.sigmoid_backward(dx, y),
    "tanh": lambda dx, x, y: _aten.tanh_backward(dx, y),
    "gelu": lambda dx, x, y, approximate="none": _aten.gelu_backward(dx, x, approximate=approximate),
    "softplus": lambda dx, x, y, beta=1.0, threshold=20.0: _aten.softplus_backward(dx, x, beta, threshold),
    "exp": lambda dx, x, y: dx * y,
    "log": lambda dx, x, y: dx / x,
    "sin": lambda dx, x, y: dx * x.cos(),
    "cos": lambda dx, x, y: -dx * x.sin(),
    "sqrt": lambda dx, x, y: dx / (2 * y),
    "rsqrt": lambda dx, x, y: dx * y**3 / -2,
    "square": lambda dx, x, y: 2 * dx * x,
}
"""d f(x) from (dx, x, f(x)) and the operation's options. A fused backward kernel, where there is one, is just that."""


def pointwise(name: str) -> Rule:
    """Return the rule d f(x) = f'(x) dx of one of the functions above."""
    derivative = POINTWISE[name]

    def carry(func: Callable[..., Tensor], x: RowDual, *args: Any, inplace: bool = False, **kwargs: Any) -> RowDual:
        if inplace:
            raise UnsupportedOperation(name, "overwrites its input (inplace=True)")
        primal = func(x.primal, *args, **kwargs)
        with torch.no_grad():
            rows = leading(primal, x.tangent.shape[0])
            return RowDual(primal, derivative(x.tangent, x.head, rows, *args, **kwargs))

    return carry


for _name in POINTWISE:
    rule(_name)(pointwise(_name))


@rule("pow")
def power(func: Callable[..., Tensor], x: RowDual, exponent: float) -> RowDual:
    """d x^p = p x^(p-1) dx for a number p."""
    if not isinstance(x, RowDual) or isinstance(exponent, RowDual | Tensor):
        raise UnsupportedOperation("pow", "is carried for a number as exponent only")
    with torch.no_grad():
        tangent = exponent * x.head ** (exponent - 1) * x.tangent
    return RowDual(func(x.primal, exponent), tangent)


# ---------------------------------------------------------------------------------------------- two inputs


def _tangents(name: str, primal: Tensor, a: Any, b: Any) -> tuple[int, Any, Any]:
    """Return (m, da, db) for a rule of two inputs; the tangent of a plain one is None."""
    rows = 0
    tangents: list[Any] = []
    for x in (a, b):
        if isinstance(x, RowDual):
            if x.primal.dim() != primal.dim() or x.primal.shape[0] != primal.shape[0]:
                raise UnsupportedOperation(name, "broadcasts over the batch")
            rows = x.tangent.shape[0]
            tangents.append(x.tangent)
        else:
            tangents.append(None)
    return rows, tangents[0], tangents[1]


def _head(x: Any, primal: Tensor, rows: int) -> Any:
    """Return the operand's first m rows.

    A plain tensor of fewer dimensions than the result, or of size 1 in the first, has no rows of its own.
    """
    x = raw(x)
    own = isinstance(x, Tensor) and x.dim() == primal.dim() and x.shape[0] == primal.shape[0]
    return leading(x, rows) if own else x


def _spread(tangent: Tensor, primal: Tensor) -> Tensor:
    shape = primal.shape[1:]
    return tangent if tangent.shape[1:] == shape else tangent.expand(-1, *shape)


@rule("add", "__radd__")
def add(func: Callable[..., Tensor], a: Any, b: Any) -> RowDual:
    """d(a + b) = da + db."""
    primal = raw(a) + raw(b)
    _, da, db = _tangents("add", primal, a, b)
    if da is None or db is None:
        return RowDual(primal, _spread(db if da is None else da, primal))
    return RowDual(primal, da + db)


@rule("sub")
def sub(func: Callable[..., Tensor], a: Any, b: Any) -> RowDual:
    """d(a - b) = da - db."""
    primal = raw(a) - raw(b)
    _, da, db = _tangents("sub", primal, a, b)
    if da is None:
        return RowDual(primal, _spread(-db, primal))
    return RowDual(primal, _spread(da, primal) if db is None else da - db)


@rule("rsub", "__rsub__")
def rsub(func: Callable[..., Tensor], a: Any, b: Any) -> RowDual:
    """b - a."""
    result: RowDual = sub(func, b, a)
    return result


@rule("mul", "multiply", "__rmul__")
def mul(func: Callable[..., Tensor], a: Any, b: Any) -> RowDual:
    """d(a b) = da b + a db."""
    primal = raw(a) * raw(b)
    rows, da, db = _tangents("mul", primal, a, b)
    with torch.no_grad():
        if db is None:
            return RowDual(primal, _spread(da * _head(b, primal, rows), primal))
        x = _head(a, primal, rows)
        if da is None:
            return RowDual(primal, _spread(x * db, primal))
        tangent = da * _head(b, primal, rows)
        same = x.dtype == db.dtype == tangent.dtype  # not always under autocast
        return RowDual(primal, torch.addcmul(tangent, x, db) if same else tangent + x * db)


@rule("addcmul")
def addcmul(func: Callable[..., Tensor], a: Any, b: Any, c: Any) -> RowDual:
    """d(a + b c) = da + db c + b dc."""
    primal = func(raw(a), raw(b), raw(c))
    rows, da, _ = _tangents("addcmul", primal, a, None)
    more, db, dc = _tangents("addcmul", primal, b, c)
    rows = rows or more
    with torch.no_grad():
        tangent = da
        for change, other in ((db, c), (dc, b)):
            if change is None:
                continue
            factor = _head(other, primal, rows)
            tangent = change * factor if tangent is None else torch.addcmul(tangent, change, factor)
        return RowDual(primal, _spread(tangent, primal))


@rule("div", "true_divide")
def div(func: Callable[..., Tensor], a: Any, b: Any) -> RowDual:
    """d(a / b) = (da - (a / b) db) / b."""
    primal = raw(a) / raw(b)
    rows, da, db = _tangents("div", primal, a, b)
    with torch.no_grad():
        change = da
        if db is not None:
            moved = leading(primal, rows) * db
            change = -moved if da is None else da - moved
        return RowDual(primal, _spread(change / _head(b, primal, rows), primal))


@rule("__rdiv__", "__rtruediv__")
def rdiv(func: Callable[..., Tensor], a: Any, b: Any) -> RowDual:
    """b / a."""
    result: RowDual = div(func, b, a)
    return result


@rule("matmul", "bmm")
def matmul(func: Callable[..., Tensor], a: Any, b: Any) -> RowDual:
    """d(a b) = da b + a db, for x @ W and for products of two batched tensors."""
    primal = torch.matmul(raw(a), raw(b))
    rows, da, db = _tangents("matmul", primal, a, b)
    shared = db is None and raw(b).dim() == 2  # one matrix for all rows, however many it has itself
    if not shared and (raw(a).dim() < 3 or raw(b).dim() < 3):
        raise UnsupportedOperation("matmul", "multiplies over the batch")
    with torch.no_grad():
        y = raw(b) if shared else _head(b, primal, rows)
        if db is None:
            return RowDual(primal, torch.matmul(da, y))
        x = _head(a, primal, rows)
        if da is None:
            return RowDual(primal, torch.matmul(x, db))
        return RowDual(primal, torch.matmul(torch.cat([da, x], -1), torch.cat([y, db], -2)))


def by_row_dual(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    """Carry the tangent of the rows that need it beside the differentiable pass over all rows."""
    m = at.rows
    z = RowDual(at.z, at.dz)
    r: Any = RowDual(at.r, torch.full_like(at.r[:m], at.dr)) if at.dr else at.r
    t: Any = RowDual(at.t, torch.full_like(at.t[:m], at.dt)) if at.dt else at.t
    u: Any = net(z, r, t, at.labels)  # type: ignore[arg-type]
    if isinstance(u, RowDual):
        return u.primal, u.tangent
    return u, torch.zeros_like(at.dz)
