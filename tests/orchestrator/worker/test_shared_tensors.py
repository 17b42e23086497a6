"""Tensors on their way through the object store: each comes out as it went in."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from orchestrator.worker.shared_tensors import _put_together, _taken_apart

DENSE = {
    "float32": torch.arange(6.0).reshape(2, 3),
    "bfloat16": torch.tensor([0.1, -3.0], dtype=torch.bfloat16),
    "bool": torch.tensor([[True], [False]]),
    "a scalar": torch.tensor(0.7, dtype=torch.float64),
    "empty": torch.zeros(0, 4, dtype=torch.int64),
    "transposed": torch.arange(6).reshape(2, 3).T,
    "every second": torch.arange(6)[::2],
    "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
}
OTHERS = {
    "with gradients": torch.tensor([1.0, 2.0], requires_grad=True),
    "sparse": torch.tensor([[0.0, 2.0], [0.0, 0.0]]).to_sparse(),
    "meta": torch.zeros(2, 3, device="meta"),
}


def through(tensor: Tensor) -> tuple[Tensor, list[pickle.PickleBuffer]]:
    """Return what comes out, and what went beside the stream."""
    beside: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(_taken_apart(tensor), protocol=5, buffer_callback=beside.append)
    return _put_together(pickle.loads(stream, buffers=beside)), beside


@pytest.mark.parametrize("tensor", DENSE.values(), ids=DENSE)
def test_a_dense_tensor_travels_beside_the_stream_and_keeps_type_shape_and_values(tensor: Tensor) -> None:
    found, beside = through(tensor)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found, tensor)
    assert [part.raw().nbytes for part in beside] == [tensor.numel() * tensor.element_size()]


@pytest.mark.parametrize("tensor", OTHERS.values(), ids=OTHERS)
def test_any_other_tensor_is_pickled_as_torch_does(tensor: Tensor) -> None:
    found, _ = through(tensor)
    assert (found.layout, found.device, found.requires_grad) == (tensor.layout, tensor.device, tensor.requires_grad)
    assert found.device.type == "meta" or torch.equal(found.detach().to_dense(), tensor.detach().to_dense())


def test_memory_that_nobody_may_write_into_becomes_a_tensor_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    dtype, shape, array = _taken_apart(torch.tensor([1.5, 2.5]))
    array.flags.writeable = False
    assert _put_together((dtype, shape, array)).tolist() == [1.5, 2.5]
    assert not recwarn.list
