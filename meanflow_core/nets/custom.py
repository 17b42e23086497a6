"""A network of the user's own: built by its name, checked, and given its condition as an argument of its own."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from meanflow_core.config import CustomModel, call_named
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.flow import ConditionSpec

KEY = "model.name"


class Conditioned(nn.Module):
    """Calls inner(z, r, t, labels, condition=...) with what `ConditionSpec.pack` has packed in the place of the labels.

    Rows without condition (dropped ones, and those of a guidance pass) get the network's own `null_condition` (a
    parameter, buffer or tensor of the shape of one row's condition) if it has one, else the data's, else zeros.

    Args:
        inner: the network.
        spec: of the data's conditions.
        labelled: whether rows have a class too; otherwise the inner network gets labels None.
        guided: whether it is told the scale of guidance: labels are then [B, 2].
    """

    null: Tensor

    def __init__(self, inner: nn.Module, spec: ConditionSpec, *, labelled: bool, guided: bool = False) -> None:
        super().__init__()
        self.inner, self.spec = inner, spec
        self._labelled, self._guided = labelled, guided
        null = torch.zeros(spec.shape, dtype=spec.dtype) if spec.null is None else spec.null.to(spec.dtype)
        self.register_buffer("null", null)

    def forward(
        self, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Return u like z.

        Args:
            z: [B, *shape].
            r: [B], the earlier time.
            t: [B], the later time.
            labels: packed [B, 3 + K]; or classes [B], beside `condition`; None: no class and no condition.
            condition: [B, *spec.shape], where labels are not packed; None: absent.
        """
        own = getattr(self.inner, "null_condition", None)
        null: Tensor = own if isinstance(own, Tensor) else self.null
        if labels is not None and labels.dim() == 2 and condition is None and labels.shape[1] == 3 + self.spec.size:
            classes, scales, absent, condition = self.spec.unpack(labels)
            condition = torch.where(absent, null, condition)
            told = classes if self._labelled else None
            if self._guided:
                told = torch.stack([classes.to(scales.dtype), scales], dim=1)
        else:
            told = labels
            if condition is None:
                condition = null.expand(len(z), *self.spec.shape)
        u: Tensor = self.inner(z, r, t, told, condition=condition)
        return u


def build_custom(
    config: CustomModel,
    shape: tuple[int, ...],
    num_classes: int | None,
    *,
    guided: bool,
    condition: ConditionSpec | None,
) -> nn.Module:
    """Call the class (or function) that `model.name` names, and check that its network can be called.

    `shape`, `num_classes`, `guided` and `condition_shape` are given where its signature has a parameter of that name
    and the configuration does not set it.

    Raises:
        ConfigError: it cannot be imported, does not take its arguments, or does not make a network.
    """
    offered: dict[str, Any] = {"shape": shape, "num_classes": num_classes, "guided": guided}
    if condition is not None:
        offered["condition_shape"] = condition.shape
    made = call_named(config, "model", offered)
    if not isinstance(made, nn.Module):
        rule = f"must make a torch.nn.Module, and makes a {type(made).__name__}"
        raise ConfigError([Problem(key=KEY, value=config.name, rule=rule)])
    return fitted(made, config.name, num_classes, guided=guided, condition=condition)


def fitted(
    net: nn.Module, name: str, num_classes: int | None, *, guided: bool, condition: ConditionSpec | None
) -> nn.Module:
    """Return a network that is called as net(z, r, t, labels), where labels may hold the data's conditions.

    Raises:
        ConfigError: it cannot be called so, or the data have conditions and it takes none.
    """
    try:
        signature = inspect.signature(net.forward)
    except (TypeError, ValueError):  # of C: the first call will tell
        signature = None
    extra = {} if condition is None else {"condition": None}
    if signature is not None:
        try:
            signature.bind(None, None, None, None, **extra)
        except TypeError as error:
            call = "net(z, r, t, labels" + (", condition=condition)" if extra else ")")
            rule = f"is called as {call} by these data, which its forward{signature} does not take ({error})"
            raise ConfigError([Problem(key=KEY, value=name, rule=rule)]) from error
    if condition is None:
        return net
    return Conditioned(net, condition, labelled=num_classes is not None, guided=guided)
