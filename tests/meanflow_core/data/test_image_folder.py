"""Images in folders."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from meanflow_core.config import ImageFolderConfig
from meanflow_core.data import image_folder
from meanflow_core.data.base import DataError
from meanflow_core.data.build import build_dataset
from meanflow_core.data.image_folder import read_image
from meanflow_core.errors import ConfigError


def save(path, width=12, height=10, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def load(path, **options):
    return build_dataset(ImageFolderConfig(path=str(path), **{"size": 8, "flip": False, **options}))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "it's a folder"
    for label, name in enumerate(["cat", "ant", "bee"]):
        for number in range(label + 1):
            save(root / name / f"{number}.png", seed=10 * label + number)
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "empty").mkdir()
    return root


def test_classes_are_the_sorted_sub_folders_with_images(folder):
    data = load(folder)
    assert (len(data), data.num_classes, data.shape) == (6, 3, (3, 8, 8))
    x, labels = data.batch(torch.arange(6), generator=torch.Generator())
    assert labels.tolist() == [0, 0, 1, 1, 1, 2]  # ant, bee, cat
    expected = read_image(folder / "bee" / "1.png", 8).transpose(2, 0, 1) / 127.5 - 1
    assert np.allclose(x[3].numpy(), expected, atol=1e-6)
    assert x.abs().max() <= 1


def test_a_flat_folder_has_no_labels(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.PNG", seed=1)
    data = load(tmp_path)
    assert data.num_classes is None
    assert data.batch(torch.tensor([0]), generator=torch.Generator())[1] is None


def test_images_under_val_are_held_out(tmp_path, folder):
    root = tmp_path / "split"
    for part, name in (("train", "a"), ("train", "b"), ("val", "a")):
        save(root / part / name / "0.png", seed=len(part + name))
    data = load(root)
    held, labels = data.held_out()
    assert (len(data), len(held), labels.tolist()) == (2, 1, [0])
    with pytest.raises(DataError, match="val"):
        load(folder).held_out()


def test_the_reference_is_every_training_image_unflipped(folder):
    data = load(folder, flip=True)
    plain, _ = load(folder).batch(torch.arange(6), generator=torch.Generator())
    assert torch.equal(torch.cat(list(data.reference())), plain)
    assert data.reference_rows == "6 training rows"


def test_the_centre_square_is_kept_and_resized(tmp_path):
    pixels = save(tmp_path / "wide.png", width=14, height=8)
    assert np.array_equal(read_image(tmp_path / "wide.png", 8), pixels[:, 3:11])
    pixels = save(tmp_path / "big.png", width=16, height=16)
    halves = pixels.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert (
        np.abs(read_image(tmp_path / "big.png", 8) - halves).max() <= 1
    )  # rows and columns are rounded one after the other
    Image.new("L", (5, 3), 200).save(tmp_path / "small.png")
    small = read_image(tmp_path / "small.png", 8)
    assert small.shape == (8, 8, 3)
    assert (small == 200).all()


def test_it_travels_as_a_pickle_after_use(folder):
    data = load(folder)
    first, _ = data.batch(torch.tensor([2, 4]), generator=torch.Generator())
    again, _ = pickle.loads(pickle.dumps(data)).batch(torch.tensor([2, 4]), generator=torch.Generator())
    assert torch.equal(first, again)


def test_decoded_images_are_kept_only_while_all_of_them_fit(folder, monkeypatch):
    read = []
    monkeypatch.setattr(image_folder, "read_image", lambda file, size: read.append(file.name) or read_image(file, size))
    data, generator = load(folder), torch.Generator()
    first, _ = data.batch(torch.tensor([4, 1, 4]), generator=generator)
    again, _ = data.batch(torch.tensor([4, 1, 4]), generator=generator)
    assert torch.equal(first, again)
    assert len(read) == 2
    data.kept_bytes = 6 * 3 * 64 - 1
    again, _ = data.batch(torch.tensor([4, 1, 4]), generator=generator)
    assert torch.equal(first, again)
    assert len(read) == 5
    assert len(pickle.dumps(data)) < 3000


def test_the_fingerprint_follows_files_and_size(folder):
    before = load(folder).fingerprint
    assert before == load(folder, flip=True).fingerprint
    assert before != load(folder, size=4).fingerprint
    save(folder / "ant" / "new.png", seed=99)
    assert before != load(folder).fingerprint


def test_a_missing_or_empty_folder_says_what_belongs_there(tmp_path):
    for path, rule in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "holds no image")):
        with pytest.raises(ConfigError, match=f"{rule}.*one sub-folder per class"):
            load(path)


def test_a_damaged_image_is_named(folder):
    content = (folder / "ant" / "0.png").read_bytes()
    (folder / "ant" / "0.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"ant/0\.png"):
        load(folder).batch(torch.arange(6), generator=torch.Generator())
