"""CIFAR-10 from files like the real ones, small."""

import pickle
import tarfile

import numpy as np
import pytest
import torch

from meanflow_core.config import Cifar10Config
from meanflow_core.data.base import DataError
from meanflow_core.data.build import build_dataset
from meanflow_core.data.cifar10 import FOLDER, TEST, TRAIN
from meanflow_core.errors import ConfigError

ROWS = 6


def batch(number, **changes):
    rng = np.random.default_rng(number)
    data = rng.integers(0, 256, (ROWS, 3072), dtype=np.uint8)
    content = {b"batch_label": b"x", b"data": data, b"labels": rng.integers(0, 10, ROWS).tolist(), b"filenames": [b"a"]}
    return {**content, **changes}


def write(folder, protocol=4):
    folder.mkdir()
    for number, name in enumerate(TRAIN + TEST):
        (folder / name).write_bytes(pickle.dumps(batch(number), protocol=protocol))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / FOLDER)


def load(path, **options):
    return build_dataset(Cifar10Config(path=str(path), **options))


@pytest.mark.parametrize("protocol", [2, 4])
def test_rows_and_labels_are_those_of_the_files(tmp_path, protocol):
    data = load(write(tmp_path / FOLDER, protocol), flip=False, labels=True)
    assert (len(data), data.shape, data.num_classes) == (5 * ROWS, (3, 32, 32), 10)
    x, labels = data.batch(torch.tensor([ROWS + 2]), generator=torch.Generator())
    row = batch(1)[b"data"][2].reshape(3, 32, 32)
    assert np.allclose((x[0].numpy() + 1) * 127.5, row, atol=1e-4)
    assert labels.item() == batch(1)[b"labels"][2]
    held, held_labels = data.held_out()
    assert len(held) == ROWS
    assert held_labels.tolist() == batch(5)[b"labels"]


def test_the_archive_the_folder_and_the_folder_above_are_the_same_data(tmp_path, folder):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, FOLDER)
    assert load(archive).fingerprint == load(folder).fingerprint == load(tmp_path).fingerprint


def test_it_is_unlabelled_and_flipped_unless_told_and_compared_with_training_rows(folder):
    data = load(folder)
    assert data.num_classes is None
    x, labels = data.batch(torch.arange(30), generator=torch.Generator().manual_seed(0))
    plain = torch.cat(list(data.reference()))
    assert labels is None
    assert plain.shape == (30, 3, 32, 32)
    mirrored = (x != plain).flatten(1).any(1)
    assert 5 < mirrored.sum() < 25
    assert torch.equal(x[mirrored], plain[mirrored].flip(-1))
    assert data.to_images(x[:2]).shape == (2, 32, 32, 3)


def test_a_missing_path_says_what_belongs_there_and_where_to_get_it(tmp_path):
    with pytest.raises(ConfigError, match=r"cifar-10-python\.tar\.gz") as caught:
        load(tmp_path / "nowhere")
    assert caught.value.problems[0].key == "data.path"
    assert "https://" in str(caught.value)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_file_that_wants_to_run_code_is_refused(folder, capsys):
    (folder / "data_batch_3").write_bytes(pickle.dumps(batch(2, extra=Evil())))
    with pytest.raises(DataError, match=r"data_batch_3: asks to run builtins\.print"):
        load(folder)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (pickle.dumps(batch(0))[:500], "damaged"),
        (pickle.dumps({b"data": np.zeros((ROWS, 3072), dtype=np.uint8)}), "labels"),
        (pickle.dumps([1, 2]), "data"),
        (pickle.dumps({**batch(0), b"data": np.zeros((ROWS, 30), dtype=np.uint8)}), "expected uint8"),
        (pickle.dumps({**batch(0), b"labels": [11] * ROWS}), "outside"),
    ],
)
def test_a_damaged_batch_is_named(folder, content, reason):
    (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_2.*{reason}"):
        load(folder)


def test_a_missing_batch_is_named(tmp_path, folder):
    (folder / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4"):
        load(folder)
    archive = tmp_path / "short.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, FOLDER)
    with pytest.raises(DataError, match="data_batch_4"):
        load(archive)


def test_a_cut_off_archive_is_named(tmp_path, folder):
    archive = tmp_path / "cut.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, FOLDER)
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut\.tar\.gz"):
        load(archive)
