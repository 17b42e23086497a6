"""A network in shards (`trainer.sharding: fsdp`): each process holds its rows of every parameter, moment and average.

torch's FSDP2 gathers the parameters of one block at a time for its forward and backward pass, and scatters the
gradients. What is done to shards alone (the optimiser, the averages) is done to plain tensors that share their memory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from meanflow_core.derivative import DerivativeError, carry_through_hooks, record
from meanflow_core.distributed import World, mark_in_shards
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.rng import stable_seed
from meanflow_core.training.batches import Batches, Microbatch
from meanflow_core.training.training_loss import TrainingLoss


class Shards:
    """This process's rows of a network's parameters.

    Args:
        net: in shards.
        structure: the same network with parameters that have a shape and no numbers: it takes whole ones for a call.
        world: the processes.
    """

    def __init__(self, net: nn.Module, structure: nn.Module, world: World) -> None:
        self._net, self._world = net, world
        self.structure = structure
        self.shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
        with torch.no_grad():
            self.own = {
                name: parameter.detach().to_local().requires_grad_(parameter.requires_grad)  # type: ignore[attr-defined]
                for name, parameter in net.named_parameters()
            }
        """The rows, by the parameter's name: what changes them changes the network."""

    def state(self) -> dict[str, Tensor]:
        """Return the network's state dict with these rows as its parameters."""
        return {name: self.own.get(name, tensor) for name, tensor in self._net.state_dict().items()}

    def take_gradients(self) -> None:
        """Give each of the rows its gradient, which leaves the network."""
        for name, parameter in self._net.named_parameters():
            gradient, parameter.grad = parameter.grad, None
            self.own[name].grad = None if gradient is None else gradient.to_local()  # type: ignore[attr-defined]

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norm of the whole gradient."""
        own = torch.nn.utils.get_total_norm(gradients)
        return self._world.total(own.square()).sqrt()

    def whole(self, rows: Mapping[str, Tensor], *, everywhere: bool = True) -> dict[str, Tensor]:
        """Gather tensors that are in shards as the parameters are. Every process calls it.

        Args:
            rows: by the parameter's name; what is no parameter's is whole.
            everywhere: False: in the first process alone, on the CPU; the others get nothing.
        """
        found = {}
        for name, tensor in rows.items():
            shape = self.shapes.get(name)
            full = tensor if shape is None else self._gathered(tensor, shape)
            if everywhere:
                found[name] = full
            elif self._world.first:
                found[name] = full.cpu()
        return found

    def _gathered(self, rows: Tensor, shape: torch.Size) -> Tensor:
        each = -(-shape[0] // self._world.size)  # as torch.chunk cuts
        padded = rows.new_zeros((each, *shape[1:]))
        padded[: len(rows)] = rows.detach()
        return self._world.gather(padded)[: shape[0]]

    def part(self, name: str, whole: Tensor) -> Tensor:
        """Return this process's rows of a whole tensor; what is no parameter's is given back."""
        if name not in self.shapes:
            return whole
        chunks = whole.chunk(self._world.size)
        return chunks[self._world.rank] if self._world.rank < len(chunks) else whole[:0]

    def parts(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's rows of whole tensors."""
        return {name: self.part(name, tensor) for name, tensor in whole.items()}

    def saved(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors on the CPU of the first process, nothing in the others."""
        return self.whole(rows, everywhere=False)

    def saved_moments(self, name: str, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what an optimiser knows of a parameter whole, as `saved` does; counts of steps have no rows."""
        counts = {key: tensor for key, tensor in moments.items() if not tensor.dim()}
        whole = {key: self.saved({name: tensor}) for key, tensor in moments.items() if tensor.dim()}
        return counts | {key: found[name] for key, found in whole.items() if found}

    def parts_of_moments(self, name: str, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo `saved_moments`."""
        return {key: self.part(name, tensor) if tensor.dim() else tensor for key, tensor in moments.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a whole state dict.

        Raises:
            ValueError: it is another network's.
        """
        own = self.state()
        wrong = sorted(own.keys() ^ state.keys()) or [n for n, s in self.shapes.items() if state[n].shape != s]
        if wrong:
            raise ValueError(f"the saved weights belong to another network: {wrong[0]} differs")
        with torch.no_grad():
            for name, rows in own.items():
                rows.copy_(self.part(name, state[name]))


def shard(loss: TrainingLoss, batches: Batches, world: World, device: torch.device) -> Shards:
    """Cut a network into shards, in place, once the way to its derivative is known: that is examined on whole weights.

    Args:
        loss: of the network.
        batches: of the training.
        world: two processes or more.
        device: of this process, which holds the whole network for a moment.

    Raises:
        ConfigError: the batch or the network cannot be trained so.
        DerivativeError: no way to the derivative is right, or not the same one in every process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = loss.net
    parts = list(batches.parts(0, 0))
    _check(net, batches, parts)
    mark_in_shards(net)
    loss.examine([replace(part, split=split) for part in parts for split in _splits(loss, part)])
    _check_agreement(record(net), world, device)
    structure = _structure_of(net)
    mesh = init_device_mesh(device.type, (world.size,))
    units = [*_units(net), loss]
    for unit in units:
        fully_shard(unit, mesh=mesh)
        if torch.distributed.get_backend() != "nccl":  # gloo adds up and knows no mean
            unit.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]
        if unit is not loss:
            carry_through_hooks(unit)
    return Shards(net, structure, world)


def _units(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules whose parameters are gathered together: the members of the network's lists of modules."""
    listed = isinstance(net, nn.ModuleList | nn.ModuleDict)  # which is not called itself
    for child in net.children():
        if not listed or isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _units(child)
        elif any(True for _ in child.parameters()):
            yield child


def _structure_of(net: nn.Module) -> nn.Module:
    """Return a copy whose parameters take no memory."""
    nowhere = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in net.parameters()}
    return copy.deepcopy(net, nowhere)


def _splits(loss: TrainingLoss, part: Microbatch) -> list[Tensor | float]:
    """Return one split of each kind that may come up: they differ in the passes that are made."""
    split = loss.objective.split
    if not loss.objective.has_finite_split or split.law in ("constant", "uniform"):
        return [part.split]
    return [0.0, 1.0, torch.full_like(part.t, 0.5)]


def _check(net: nn.Module, batches: Batches, parts: Sequence[Microbatch]) -> None:
    """Refuse what the processes could not do in step: each makes the same passes, or waits for the others for ever."""
    scalars = [name for name, parameter in net.named_parameters() if parameter.dim() == 0]
    if scalars:
        rule = f"cannot cut parameters that are single numbers ({scalars[0]}): give them the shape [1]"
        raise ConfigError([Problem(key="trainer.sharding", value="fsdp", rule=rule)])
    rows = batches.spanning
    if 0 < rows < batches.count:
        rule = (
            f"`fsdp` needs a row with r != t in every part of a batch, and {rows} of them are shared by "
            f"{batches.count} (processes x accumulation): a larger batch, or a larger `objective.time.ratio`"
        )
        raise ConfigError([Problem(key="trainer.batch_size", value=batches.size, rule=rule)])


def _check_agreement(found: Sequence[str], world: World, device: torch.device) -> None:
    ways = torch.tensor(
        stable_seed(*(way.partition(";")[0] for way in found)) % 2**40, dtype=torch.float64, device=device
    )
    if float(world.total(ways)) != float(ways) * world.size:
        raise DerivativeError(f"the processes have found different ways to du/dt (here: {'; '.join(found)})")
