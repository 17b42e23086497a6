"""Images in folders."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from meanflow_core.config import ImageFolderConfig, load_config
from meanflow_core.data import image_files, image_folder
from meanflow_core.data.base import DataError
from meanflow_core.data.build import build_dataset
from meanflow_core.data.image_files import read_image as read_any
from meanflow_core.errors import ConfigError


def read_image(path, size, channels=3):
    return read_any(path, (size, size) if isinstance(size, int) else size, channels)


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
    monkeypatch.setattr(image_folder, "read_image", lambda file, *how: read.append(file.name) or read_image(file, *how))
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


def test_one_channel_and_sides_that_differ(tmp_path):
    pixels = save(tmp_path / "a" / "0.png", width=40, height=28)
    data = load(tmp_path, size=[28, 40], channels=1)
    assert data.shape == (1, 28, 40)
    x, _ = data.batch(torch.tensor([0]), generator=torch.Generator())
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(((x[0, 0].numpy() + 1) * 127.5).round(), grey)
    assert data.to_images(x).shape == (1, 28, 40, 3)
    assert data.fingerprint != load(tmp_path, size=[28, 40]).fingerprint


def test_the_central_part_has_the_shape_that_is_asked_for(tmp_path):
    pixels = save(tmp_path / "0.png", width=12, height=24)
    assert np.array_equal(read_image(tmp_path / "0.png", (8, 12)), pixels[8:16])
    assert np.array_equal(read_image(tmp_path / "0.png", (24, 6)), pixels[:, 3:9])
    halved = pixels.reshape(12, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.allclose(read_image(tmp_path / "0.png", (4, 6)), halved[4:8], atol=1.01)


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path, suffix):
    deep = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    path = tmp_path / f"deep.{suffix}"
    np.save(path, deep) if suffix == "npy" else Image.fromarray(deep).save(path)
    assert np.array_equal(read_image(path, 8, 1)[:, :, 0], np.round(deep / 257))
    assert np.array_equal(read_image(path, 8, 3)[:, :, 2], np.round(deep / 257))


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "bmp"])
def test_other_kinds_of_files_are_read(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (8, 8), (200, 30, 90)).save(path)
    assert np.allclose(read_image(path, 8), [200, 30, 90], atol=6)
    assert len(load(tmp_path)) == 1


def test_palettes_opacity_and_ink_become_colours(tmp_path):
    colour = Image.new("RGB", (8, 8), (250, 0, 0))
    colour.convert("P").save(tmp_path / "palette.png")
    colour.convert("CMYK").save(tmp_path / "ink.jpg", quality=100)
    half = Image.new("RGBA", (8, 8), (250, 0, 0, 0))
    half.save(tmp_path / "clear.png")
    assert np.allclose(read_image(tmp_path / "palette.png", 8)[0, 0], [250, 0, 0], atol=6)
    assert np.allclose(read_image(tmp_path / "ink.jpg", 8)[0, 0], [250, 0, 0], atol=6)
    assert read_image(tmp_path / "clear.png", 8)[0, 0].tolist() == [255, 255, 255]
    assert read_image(tmp_path / "clear.png", 8, 4)[0, 0].tolist() == [250, 0, 0, 0]
    assert read_image(tmp_path / "ink.jpg", 8, 4)[0, 0, 3] == 255


def test_the_camera_s_orientation_is_applied(tmp_path):
    pixels = save(tmp_path / "plain.png", width=8, height=12)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png", (8, 12)), np.rot90(pixels, -1))


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (3, 8, 8), (1, 8, 8), (4, 8, 8)])
@pytest.mark.parametrize("kind", ["uint8", "float32", "bool"])
def test_arrays_are_images_of_bytes_or_of_numbers_up_to_one(tmp_path, shape, kind):
    bright = np.zeros(shape) + 1
    values = (bright * 255).astype(kind) if kind == "uint8" else bright.astype(kind)
    np.save(tmp_path / "a.npy", values)
    assert read_image(tmp_path / "a.npy", 8).tolist() == np.full((8, 8, 3), 255).tolist()


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (np.full((8, 8), -0.5), r"must lie in \[0, 1\]"),
        (np.zeros((8, 8, 5)), "with 1, 3 or 4 channels"),
        (np.full((8, 8), 70000), "16 bits"),
    ],
)
def test_an_array_that_is_no_image_names_its_file(tmp_path, values, rule):
    np.save(tmp_path / "odd.npy", values)
    with pytest.raises(DataError, match=f"odd.npy: .*{rule}"):
        read_image(tmp_path / "odd.npy", 8)


def test_a_decompression_bomb_names_its_file(tmp_path, monkeypatch):
    save(tmp_path / "huge.png", width=40, height=40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"huge.png: .*decompression bomb"):
        read_image(tmp_path / "huge.png", 8)


def test_val_has_the_class_numbers_of_train(tmp_path):
    for part, name in (("train", "ant"), ("train", "bee"), ("train", "cat"), ("val", "cat"), ("val", "bee")):
        save(tmp_path / part / name / "0.png")
    assert load(tmp_path).held_out()[1].tolist() == [1, 2]
    save(tmp_path / "val" / "dog" / "0.png")
    with pytest.raises(DataError, match=r"val/dog: is no class of the training images \(ant, bee, cat\)"):
        load(tmp_path).held_out()


def test_hidden_folders_and_files_are_no_images(folder):
    save(folder / ".thumbnails" / "0.png")
    save(folder / "ant" / ".cache" / "0.png")
    save(folder / "ant" / "._0.png")
    data = load(folder)
    assert (len(data), data.num_classes) == (6, 3)


def test_images_beside_sub_folders_are_said(folder, caplog):
    save(folder / "stray.png")
    data = load(folder)
    assert len(data) == 6
    assert "1 image lies beside the sub-folders" in caplog.text
    assert "stray.png" in caplog.text


def test_all_broken_images_are_listed_before_a_training(tmp_path):
    for number in range(15):
        save(tmp_path / f"{number:02}.png", seed=number)
    for number in range(2, 14):
        (tmp_path / f"{number:02}.png").write_bytes((tmp_path / f"{number:02}.png").read_bytes()[:70])
    with pytest.raises(DataError) as caught:
        list(load(tmp_path).reference())
    text = str(caught.value)
    assert text.startswith("12 of 15 images cannot be read:")
    assert [f"{number:02}.png" in text for number in range(15)] == [2 <= number < 12 for number in range(15)]
    assert text.endswith("... and 2 more")
    (problem,) = image_files.image_faults(ImageFolderConfig(path=str(tmp_path), size=8))
    assert problem.key == "data.path"
    assert problem.rule == text


@pytest.mark.parametrize("wrong", [{"size": [28]}, {"size": [28, 0]}, {"size": 0}, {"channels": 2}])
def test_a_shape_that_no_image_has_is_refused(wrong):
    with pytest.raises(ConfigError):
        ImageFolderConfig(path="x", **wrong)


def test_sides_are_read_from_a_configuration_and_words():
    content = {"data.name": "image_folder", "data.size": [28, 40], "data.channels": "1"}
    config = load_config(content, ["data.flip=false"])
    assert config.data.shape == (1, 28, 40)
    assert load_config(config.to_dict()) == config
    assert load_config(content, ["data.size=32"]).data.shape == (1, 32, 32)
    with pytest.raises(ConfigError, match=r"data.size: must be a whole number or a list"):
        load_config(content, ["data.size=big"])
