"""Latents: making them with a small stand-in for the autoencoder, and reading them."""

import json
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from meanflow_core.config import ImageFolderConfig, LatentsConfig, load_config
from meanflow_core.data import encode_latents as command
from meanflow_core.data.availability import missing
from meanflow_core.data.base import DataError
from meanflow_core.data.build import build_dataset
from meanflow_core.data.image_folder import ImageFolder
from meanflow_core.data.latents import Latents
from meanflow_core.errors import ConfigError
from meanflow_core.training import Trainer


class PoolVae:
    """Latents are 4-fold averages and their opposite; decoding undoes it, up to the averaging."""

    calls = 0

    def encode(self, images):
        self.calls += 1
        small = torch.nn.functional.avg_pool2d(images, 4)
        mean = torch.cat([small, -small[:, :1]], dim=1)
        return mean, 0.1 + mean.abs()

    def decode(self, latents):
        return latents[:, :3].repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


def make_images(root):
    for number in range(7):
        path = root / ("dog" if number % 3 else "cow") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    make_images(root)
    return ImageFolder(ImageFolderConfig(path=str(root), size=8, flip=False))


def make(images, out, vae=None, **options):
    options = {"vae_name": "pool", "batch_size": 2, "shard_images": 3, **options}
    return command.encode_latents(images, out, vae or PoolVae(), **options)


@pytest.fixture
def folder(images, tmp_path):
    make(images, tmp_path / "latents")
    return tmp_path / "latents"


def load(folder, **options):
    return build_dataset(LatentsConfig(path=str(folder), **options))


def test_rows_are_scaled_draws_of_the_encoded_law(images, folder):
    data = load(folder, scale=0.5)
    assert (len(data), data.shape, data.num_classes) == (7, (4, 2, 2), 2)
    rows = torch.tensor([6, 0, 4, 4])
    x, labels = data.batch(rows, generator=torch.Generator().manual_seed(8))
    pictures, expected_labels = images.batch(rows, generator=torch.Generator())
    mean, std = PoolVae().encode(pictures)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(x, 0.5 * (mean + std * noise))
    assert torch.equal(labels, expected_labels)
    assert not torch.equal(x[2], x[3])


def test_the_default_scale_is_that_of_the_paper_s_autoencoder():
    assert LatentsConfig().scale == 0.18215


def test_mirror_images_become_rows_of_their_own(images, tmp_path):
    make(images, tmp_path / "both", flip=True)
    data = load(tmp_path / "both")
    assert len(data) == 14
    plain, _ = PoolVae().encode(images.batch(torch.tensor([0]), generator=torch.Generator())[0])
    everything = torch.cat(list(data.reference())) / 0.18215
    for wanted in (plain, plain.flip(-1)):
        assert (everything - wanted).abs().flatten(1).sum(1).min() < 1e-5


def test_labels_stay_with_their_rows_when_mirrored(images, tmp_path):
    make(images, tmp_path / "both", flip=True, batch_size=3)
    data = load(tmp_path / "both")
    _, labels = data.batch(torch.arange(14), generator=torch.Generator())
    means = torch.cat(list(data.reference())) / 0.18215
    pictures, wanted = images.batch(torch.arange(7), generator=torch.Generator())
    for seen in (pictures, pictures.flip(-1)):
        distance = torch.cdist(PoolVae().encode(seen)[0].flatten(1), means.flatten(1))
        assert torch.equal(labels[distance.argmin(1)], wanted)


def test_an_interrupted_encoding_goes_on_where_it_stopped(images, tmp_path):
    out = tmp_path / "latents"
    whole = make(images, out)
    (out / "index.json").unlink()
    (out / "std-00001.npy").unlink()
    vae = PoolVae()
    assert make(images, out, vae) == whole
    assert vae.calls == 2  # the second shard's three images, two at a time


def test_latents_of_something_else_are_not_mixed_in(images, folder):
    with pytest.raises(ConfigError, match="choose another folder"):
        make(images, folder, flip=True)


def test_shards_stay_on_disk_and_a_pickle_is_small(folder):
    data = load(folder)
    assert isinstance(data._shards[0].mean, np.memmap)
    content = pickle.dumps(data)
    assert len(content) < 4000
    rows = torch.arange(7)
    first, second = (
        d.batch(rows, generator=torch.Generator().manual_seed(1))[0] for d in (data, pickle.loads(content))
    )
    assert torch.equal(first, second)


def test_the_fingerprint_follows_the_content(images, folder, tmp_path):
    before = load(folder).fingerprint
    assert before == load(folder).fingerprint
    assert before != load(folder, scale=1.0).fingerprint
    make(images, tmp_path / "other", flip=True)
    assert before != load(tmp_path / "other").fingerprint


def test_pictures_need_the_autoencoder_and_are_unscaled(images, folder):
    with pytest.raises(ConfigError, match=r"data\.vae"):
        load(folder).to_images(torch.zeros(1, 4, 2, 2))
    data = Latents(LatentsConfig(path=str(folder)), vae=PoolVae())
    x = next(iter(data.reference()))
    pictures = data.to_images(x)
    assert pictures.shape == (7, 8, 8, 3)
    originals = images.to_images(images.batch(torch.arange(7), generator=torch.Generator())[0])
    assert np.abs(pictures.mean(axis=(1, 2)) - originals.mean(axis=(1, 2))).max() < 1


def test_latents_have_no_held_out_rows(folder):
    with pytest.raises(DataError, match=r"evaluation\.reference"):
        load(folder).held_out()


def test_unlabelled_images_make_unlabelled_latents(tmp_path):
    Image.new("RGB", (8, 8), (9, 90, 200)).save(tmp_path / "a.png")
    images = ImageFolder(ImageFolderConfig(path=str(tmp_path), size=8, flip=False))
    make(images, tmp_path / "latents")
    data = load(tmp_path / "latents")
    assert data.num_classes is None
    assert data.batch(torch.tensor([0]), generator=torch.Generator())[1] is None


def test_a_missing_folder_says_how_to_make_it(tmp_path):
    with pytest.raises(ConfigError, match=r"python -m meanflow_core\.data\.encode_latents"):
        load(tmp_path)


def test_a_damaged_index_or_shard_is_named(folder):
    shard = folder / "mean-00001.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:100])
    with pytest.raises(DataError, match="mean-00001"):
        load(folder)
    np.save(shard, np.zeros((2, 4, 2, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"mean-00001.*expected the shape \(3, 4, 2, 2\)"):
        load(folder)
    shard.write_bytes(content)
    index = json.loads((folder / "index.json").read_text())
    for wrong in ("{", "[]", json.dumps({**index, "version": 9}), json.dumps({**index, "shards": []})):
        (folder / "index.json").write_text(wrong)
        with pytest.raises(DataError, match=r"index\.json"):
            load(folder)


class FakeKL:
    """As much of diffusers' AutoencoderKL as is used."""

    @classmethod
    def from_pretrained(cls, path, local_files_only):
        assert local_files_only
        return cls()

    def to(self, device):
        return self

    def eval(self):
        return self

    def encode(self, x):
        mean, std = PoolVae().encode(x)
        return types.SimpleNamespace(latent_dist=types.SimpleNamespace(mean=mean, std=std))

    def decode(self, z):
        return types.SimpleNamespace(sample=PoolVae().decode(z))


@pytest.fixture
def diffusers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", types.SimpleNamespace(AutoencoderKL=FakeKL))
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    return tmp_path / "vae"


def test_the_command_makes_what_the_data_set_reads(images, tmp_path, diffusers, capsys):
    out = tmp_path / "made"
    words = [str(tmp_path / "images"), str(out), "--vae", str(diffusers), "--size", "8", "--shard-images", "4"]
    assert command.main(words) == 0
    assert "7 rows of (4, 2, 2)" in capsys.readouterr().out
    data = load(out, vae=str(diffusers))
    assert data.to_images(next(iter(data.reference()))).shape == (7, 8, 8, 3)


def test_the_command_s_mistakes_cost_no_traceback(tmp_path, images, capsys):
    assert command.main([str(tmp_path / "images"), str(tmp_path / "out"), "--vae", str(tmp_path)]) == 2
    assert "--vae: expected a folder of a diffusers AutoencoderKL" in capsys.readouterr().err
    assert command.main([str(tmp_path / "none"), str(tmp_path / "out"), "--vae", str(tmp_path)]) == 2


def test_without_diffusers_the_error_says_what_to_install(tmp_path, monkeypatch, images, diffusers, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert command.main([str(tmp_path / "images"), str(tmp_path / "out"), "--vae", str(diffusers)]) == 2
    assert "pip install diffusers" in capsys.readouterr().err


def test_a_label_that_is_no_class_names_its_row(folder):
    path = folder / "labels-00001.npy"
    labels = np.load(path)
    labels[2] = 2
    np.save(path, labels)
    with pytest.raises(DataError, match=r"label of row 5 is 2; the 2 classes are 0 to 1"):
        load(folder)


def test_latents_train_without_autoencoder_and_features_and_are_judged_as_they_are(folder):
    config = {
        "data": {"name": "latents", "path": str(folder)},
        "model": {"name": "mlp", "width": 16, "depth": 1},
        "trainer": {"batch_size": 4, "device": "cpu", "steps": 2},
        "evaluation": {"samples": 6, "nfe": [1]},
    }
    assert list(missing(load_config(config))) == []
    trainer = Trainer(config)
    trainer.train(2)
    assert {"eval/sliced_wasserstein_1nfe", "eval/mmd_1nfe"} < set(trainer.evaluate())
    with pytest.raises(ConfigError, match="needs a feature network"):
        Trainer({**config, "evaluation": {"samples": 6, "metrics": ["fid"]}})
    problems = list(missing(load_config({**config, "evaluation.metrics": ["fid"]})))
    assert [problem.key for problem in problems] == ["evaluation.features"]
