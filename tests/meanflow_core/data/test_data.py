"""What every data set owes the trainer, and the two that need no files."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from meanflow_core.config import DigitsConfig, Toy2dConfig
from meanflow_core.data.base import Dataset, digest, flip_some, unit_images
from meanflow_core.data.build import build_dataset
from meanflow_core.data.digits import FILE
from meanflow_core.data.order import IndexStream
from meanflow_core.data.toy2d import GAUSSIAN_FACTOR, GAUSSIAN_MEAN, LAWS

READY = [DigitsConfig(), *(Toy2dConfig(law=law, rows=3000) for law in LAWS)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=READY, ids=lambda config: getattr(config, "law", config.name))
def config(request):
    return request.param


def test_batches_have_the_promised_shape_type_and_range(config):
    data = build_dataset(config)
    assert isinstance(data, Dataset)
    x, labels = data.batch(torch.tensor([5, 0, 5]), generator=generator())
    assert x.shape == (3, *data.shape)
    assert x.dtype == torch.float32
    assert torch.equal(x[0], x[2])
    assert (labels is None) == (data.num_classes is None)
    everything, labels = data.batch(torch.arange(len(data)), generator=generator())
    assert everything.abs().max() < 3
    if labels is not None:
        assert labels.dtype == torch.int64
        assert labels.unique().tolist() == list(range(data.num_classes))


def test_a_data_set_is_the_same_whenever_it_is_built_and_travels_as_a_pickle(config):
    first, second = build_dataset(config), pickle.loads(pickle.dumps(build_dataset(config)))
    assert first.fingerprint == second.fingerprint
    rows = torch.tensor([7, 1])
    assert torch.equal(first.batch(rows, generator=generator())[0], second.batch(rows, generator=generator())[0])


def test_held_out_rows_are_not_trained_on_and_are_the_reference(config):
    data = build_dataset(config)
    train, _ = data.batch(torch.arange(len(data)), generator=generator())
    held, labels = data.held_out()
    assert (labels is None) == (data.num_classes is None)
    seen = {row.tobytes() for row in train.numpy()}
    assert not any(row.tobytes() in seen for row in held.numpy())
    assert torch.equal(torch.cat(list(data.reference())), held)
    assert "held-out" in data.reference_rows


def test_fingerprints_differ_between_data_sets_but_not_between_processes():
    found = [build_dataset(config).fingerprint for config in READY]
    assert len(set(found)) == len(found)
    code = (
        "from meanflow_core.config import DigitsConfig; from meanflow_core.data import build_dataset;"
        "print(build_dataset(DigitsConfig()).fingerprint)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == found[0]


def test_digits_are_whole_and_split_by_class():
    data = build_dataset(DigitsConfig())
    held, held_labels = data.held_out()
    _, labels = data.batch(torch.arange(len(data)), generator=generator())
    assert (len(data), len(held)) == (1198, 599)
    share = held_labels.bincount() / (held_labels.bincount() + labels.bincount())
    assert ((share - 1 / 3).abs() < 0.003).all()
    levels = ((held + 1) * 8).unique()
    assert torch.equal(levels, torch.arange(17.0))


def test_the_packed_digits_are_scikit_learn_s():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    with np.load(FILE) as file:
        assert np.array_equal(file["images"], datasets.load_digits().images)
        assert np.array_equal(file["labels"], datasets.load_digits().target)
    assert Path(FILE).stat().st_size < 100_000


def test_the_gaussian_has_the_moments_its_closed_forms_use():
    x, _ = build_dataset(Toy2dConfig(law="gaussian")).held_out()
    factor = torch.tensor(GAUSSIAN_FACTOR)
    torch.testing.assert_close(x.mean(0), torch.tensor(GAUSSIAN_MEAN), atol=0.02, rtol=0)
    torch.testing.assert_close(x.T.cov(), factor @ factor.T, atol=0.02, rtol=0)


def test_labels_of_the_ring_say_where_a_point_is():
    x, labels = build_dataset(Toy2dConfig(law="gaussians")).held_out()
    nearest = (torch.atan2(x[:, 1], x[:, 0]) / (2 * torch.pi / 8)).round().long() % 8
    assert (nearest == labels).double().mean() > 0.999


def test_moons_are_apart_and_labelled():
    x, labels = build_dataset(Toy2dConfig(law="moons")).held_out()
    assert torch.pdist(torch.stack([x[labels == label].mean(0) for label in (0, 1)])).item() > 0.3
    assert torch.cdist(x[labels == 0][:500], x[labels == 1][:500]).min() > 0.02


def test_pictures_are_uint8_rgb(config):
    data = build_dataset(config)
    x, _ = data.held_out()
    pictures = data.to_images(x[:9])
    assert pictures.dtype == np.uint8
    assert pictures.shape[-1] == 3
    assert len(pictures) == (9 if data.shape != (2,) else 1)


def test_a_plot_marks_where_the_points_are_and_survives_wild_ones():
    data = build_dataset(Toy2dConfig(law="moons", rows=10))
    picture = data.to_images(torch.tensor([[0.75, 1.2], [1e9, 0.0], [float("nan"), 0.0]]))[0, :, :, 0]
    rows, columns = (picture < 200).nonzero()
    assert 235 <= columns.mean() <= 245  # (0.75 + 1.5) / 3 of 320
    assert 27 <= rows.mean() <= 37  # from the top: (1.5 - 1.2) / 3 of 320


def test_grey_and_colour_pixels_are_rounded_and_cut_off():
    pixels = unit_images(torch.tensor([-1.0, 0.0, 1.0, 7.0]).reshape(1, 1, 2, 2))
    assert pixels[0, :, :, 0].tolist() == [[0, 128], [255, 255]]
    assert unit_images(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)
    with pytest.raises(ValueError, match="need images"):
        unit_images(torch.zeros(2, 5, 8, 8))


def test_a_fourth_channel_is_opacity_before_white():
    x = torch.tensor([-1.0, 1.0, 0.0, 0.0]).reshape(1, 4, 1, 1).expand(2, 4, 1, 1).clone()
    x[1, 3] = -1
    assert unit_images(x)[:, 0, 0].tolist() == [[128, 255, 191], [255, 255, 255]]


def test_flips_mirror_half_of_the_rows_and_depend_on_the_generator_alone():
    x = torch.arange(400 * 6.0).reshape(400, 1, 2, 3)
    flipped = flip_some(x, generator(3))
    changed = (flipped != x).flatten(1).any(1)
    assert torch.equal(flipped[changed], x[changed].flip(-1))
    assert 160 < changed.sum() < 240
    assert torch.equal(flipped, flip_some(x, generator(3)))
    assert not torch.equal(flipped, flip_some(x, generator(4)))


def test_digest_sees_content_shape_and_type():
    x = torch.arange(6)
    assert digest(x, "a") == digest(torch.arange(6), "a")
    assert len({digest(x), digest(x.reshape(2, 3)), digest(x.int()), digest(x + 1), digest(x, "a")}) == 5


# ------------------------------------------------------------------------------------------------- order


def test_every_epoch_sees_every_row_once_in_another_order():
    stream = IndexStream(7, seed=3)
    epochs = [stream.take(7).tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_is_a_function_of_seed_and_position():
    whole = IndexStream(10, seed=5).take(64)
    stream = IndexStream(10, seed=5)
    stream.take(3)
    for size in (1, 9, 25):
        start = stream.position
        assert torch.equal(stream.take(size), whole[start : start + size])
    resumed = IndexStream(10, seed=5)
    resumed.position = 31
    assert torch.equal(resumed.take(33), whole[31:])
    assert not torch.equal(IndexStream(10, seed=6).take(64), whole)


def test_an_order_of_nothing_is_refused_and_taking_none_is_not():
    with pytest.raises(ValueError, match="at least one row"):
        IndexStream(0, seed=1)
    assert IndexStream(3, seed=1).take(0).shape == (0,)
