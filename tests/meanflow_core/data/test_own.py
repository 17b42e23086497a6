"""Data of one's own: what is taken, what is refused and how it is said."""

import numpy as np
import pytest
import torch

from meanflow_core.data.base import DataError
from meanflow_core.data.own import TorchRows, as_dataset
from meanflow_core.data.own_rows import TensorRows
from meanflow_core.errors import ConfigError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Rows(torch.utils.data.Dataset):
    """Rows x[i] = i + (1, 2, 3), labels i % 3."""

    def __init__(self, count=10, item=None):
        self.count = count
        self.item = item or (lambda i: (torch.tensor([1.0, 2.0, 3.0]) + i, i % 3))

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.item(index)


def test_bytes_are_scaled_and_other_numbers_are_taken_as_they_are():
    x = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8)
    rows, labels = as_dataset(x).batch(torch.tensor([1, 0]), generator=generator())
    torch.testing.assert_close(rows, torch.tensor([[-0.6, -0.2], [-1.0, 1.0]]))
    assert labels is None
    given, _ = as_dataset(np.array([[3.5, -7.0]])).batch(torch.tensor([0]), generator=generator())
    assert given.tolist() == [[3.5, -7.0]]
    assert given.dtype == torch.float32


@pytest.mark.parametrize(
    "data",
    [
        (torch.zeros(4, 1, 5, 7), torch.tensor([0, 2, 1, 2])),
        {"x": torch.zeros(4, 1, 5, 7), "labels": np.array([0, 2, 1, 2])},
        torch.utils.data.TensorDataset(torch.zeros(4, 1, 5, 7), torch.tensor([0, 2, 1, 2])),
        Rows(4, lambda i: (torch.zeros(1, 5, 7), [0, 2, 1, 2][i])),
        Rows(4, lambda i: {"x": torch.zeros(1, 5, 7), "label": torch.tensor([0, 2, 1, 2][i])}),
    ],
    ids=["pair", "dict", "tensor dataset", "dataset of pairs", "dataset of dicts"],
)
def test_rows_and_labels_come_in_many_forms(data):
    found = as_dataset(data)
    assert (len(found), found.shape, found.num_classes) == (4, (1, 5, 7), 3)
    _, labels = found.batch(torch.tensor([3, 2]), generator=generator())
    assert labels.tolist() == [2, 1]
    assert labels.dtype == torch.int64


def test_a_row_that_is_wrong_is_named():
    with pytest.raises(DataError, match=r"label of row 2 is 3; the 3 classes are 0 to 2"):
        TensorRows(torch.zeros(3, 2), [0, 1, 3], num_classes=3)
    with pytest.raises(DataError, match=r"label of row 1 is -1"):
        as_dataset((torch.zeros(3, 2), [0, -1, 1]))
    with pytest.raises(DataError, match=r"row 1 of x is not finite"):
        as_dataset(torch.tensor([[0.0], [float("nan")]]))
    with pytest.raises(DataError, match=r"label of row 1 is 0.5"):
        as_dataset((torch.zeros(2, 1), [1.0, 0.5]))
    with pytest.raises(DataError, match="is a condition"):
        as_dataset((torch.zeros(2, 1), torch.zeros(2, 3)))
    with pytest.raises(DataError, match="x has 2 rows, but `labels` has"):
        as_dataset((torch.zeros(2, 1), [1, 0, 1]))
    with pytest.raises(DataError, match=r"it must be \[N, ...\]"):
        as_dataset(torch.zeros(7))

    few = Rows(600, item=lambda i: (torch.zeros(2), 5 if i == 598 else 0))
    few.num_classes = 5
    data = TorchRows(few, "x")
    data.batch(torch.tensor([6, 8]), generator=generator())
    with pytest.raises(DataError, match="label of row 598 is 5"):
        data.batch(torch.tensor([6, 598]), generator=generator())
    few.targets = [0] * 598 + [5, 0]
    with pytest.raises(DataError, match="label of row 598 is 5"):
        TorchRows(few, "x")
    ragged = as_dataset(Rows(600, item=lambda i: torch.zeros(3 if i == 598 else 2)))
    with pytest.raises(DataError, match=r"row 598 has the shape \(3,\), row 0 has \(2,\)"):
        ragged.batch(torch.tensor([0, 598]), generator=generator())
    with pytest.raises(DataError, match="row 0 is a str"):
        as_dataset(Rows(item=lambda i: "a picture"))


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(2)


@pytest.mark.parametrize("data", [3, "a path", Stream(), {"y": 1}])
def test_what_is_no_data_is_refused_with_what_was_expected(data):
    with pytest.raises(ConfigError, match=r"expected a tensor|IterableDataset"):
        as_dataset(data)


def test_augmentation_is_a_function_of_the_generator_and_leaves_the_global_ones_alone():
    data = as_dataset(Rows(item=lambda i: torch.rand(3) + i))
    take = torch.tensor([4, 1])
    before = torch.get_rng_state()
    one, _ = data.batch(take, generator=generator(5))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(9)
    assert torch.equal(one, data.batch(take, generator=generator(5))[0])
    assert not torch.equal(one, data.batch(take, generator=generator(6))[0])
    assert not torch.equal(one[0] - 4, one[1] - 1)


def test_the_fingerprint_follows_the_rows_and_is_stable_under_augmentation():
    assert as_dataset(Rows()).fingerprint == as_dataset(Rows()).fingerprint
    assert as_dataset(Rows()).fingerprint != as_dataset(Rows(9)).fingerprint
    other = Rows(item=lambda i: (torch.tensor([1.0, 2.0, 3.5]) + i, i % 3))
    assert as_dataset(Rows()).fingerprint != as_dataset(other).fingerprint
    random = Rows(item=lambda i: torch.rand(3))
    assert as_dataset(random).fingerprint == as_dataset(random).fingerprint
    x = torch.arange(6.0).reshape(3, 2)
    assert as_dataset((x, [0, 1, 1])).fingerprint != as_dataset((x, [0, 1, 0])).fingerprint


def test_held_out_rows_are_the_reference_where_there_are_some():
    data = Rows()
    data.held_out = lambda: (torch.full((2, 3), 7.0), [0, 2])
    found = as_dataset(data)
    assert found.reference_rows == "2 held-out rows"
    assert torch.cat(list(found.reference())).unique().tolist() == [7.0]
    assert found.held_out()[1].tolist() == [0, 2]
    assert torch.cat(list(as_dataset(Rows()).reference())).shape == (10, 3)


@pytest.mark.parametrize("shape", [(1, 6, 9), (3, 6, 9), (4, 6, 9), (6, 9), (2, 30), (2,)])
def test_rows_of_usual_shapes_are_shown(shape):
    x = torch.randn((5, *shape), generator=generator())
    pictures = as_dataset(x).to_images(x)
    assert pictures.dtype == np.uint8
    assert pictures.ndim == 4
    assert pictures.std() > 0


def test_rows_without_a_picture_say_so():
    with pytest.raises(ConfigError, match="cannot be shown"):
        as_dataset(torch.zeros(2, 5)).to_images(torch.zeros(2, 5))


def test_curves_show_high_values_above_low_ones():
    x = torch.stack([torch.full((1, 20), 1.0), torch.full((1, 20), -1.0)])
    high, low = as_dataset(x).to_images(x)
    assert np.nonzero(high[:, :, 0] == 0)[0].mean() < 16
    assert np.nonzero(low[:, :, 0] == 0)[0].mean() > 48


def test_conditions_beside_labels_and_instead_of_them_keep_their_rows_and_types():
    x, labels, tokens = torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]), torch.arange(12).reshape(4, 3) + 2**23
    both = as_dataset((x, labels, tokens))
    _, packed = both.batch(torch.tensor([2, 1]), generator=generator())
    classes, scales, absent, condition = both.condition.unpack(packed)
    assert classes.tolist() == [2, 1]
    assert scales.tolist() == [1, 1]
    assert not absent.any()
    assert torch.equal(condition, tokens[[2, 1]])
    assert condition.dtype == torch.int64
    alone = as_dataset((x, None, torch.randn(4, 2, 5)))
    assert (alone.num_classes, alone.condition.shape) == (None, (2, 5))
    assert as_dataset((x, labels, tokens)).fingerprint != as_dataset((x, labels, tokens + 1)).fingerprint
    assert len(both.conditions(9)) == 9
    assert torch.equal(both.conditions(4), both.conditions(9)[:4])
