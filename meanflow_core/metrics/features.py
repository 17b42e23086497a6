"""The spaces in which samples are compared: the digits classifier, plain coordinates, or a network of the user's.

`evaluation.features` names one of
- nothing: the data set's own (digits, mnist: the classifier that ships), else the rows as they are;
- `inception:PATH`: the Inception network of published FIDs, through torch-fidelity, with its weights at PATH;
- a path to a TorchScript file, which maps images [B, C, H, W] in [-1, 1] to features [B, d];
- `package.module:function`: called without arguments, returns such a network (it runs the code you name).
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from meanflow_core.config import imported
from meanflow_core.data import FEATURES_NEEDED, Dataset, availability
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.metrics.digits_classifier import WEIGHTS, load_digits_classifier

KEY = "evaluation.features"
BATCH = 256


class Features(Protocol):
    """Maps rows of a data set to features."""

    identity: str
    """Differs where the features differ; part of the record, and of the key of cached statistics."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return features [N, d], float32 on the CPU, of rows x."""


class Coordinates:
    """The rows themselves, flattened."""

    identity = "coordinates"

    def __call__(self, x: Tensor) -> Tensor:
        """Return x as [N, d]."""
        return x.detach().float().cpu().flatten(1)


class DigitsFeatures:
    """The penultimate layer of a shipped digits classifier; rows are first cut off at [-1, 1], as data are.

    Args:
        data: `digits` or `mnist`.
    """

    def __init__(self, data: str = "digits") -> None:
        self._net = load_digits_classifier(data)
        self.identity = f"{data}-classifier:{_file_hash(WEIGHTS[data])}"

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return [N, 64]."""
        return _in_batches(self._net.features, x.detach().float().cpu().clamp(-1, 1))

    @torch.no_grad()
    def classify(self, features: Tensor) -> Tensor:
        """Return the most likely labels, int64 [N], of rows with these features."""
        labels: Tensor = self._net.head(features).argmax(dim=1)
        return labels


class NetFeatures:
    """A network's answer to images in [-1, 1].

    Args:
        net: maps [B, C, H, W] to [B, d].
        identity: see `Features`.
        to_images: makes images of rows (a data set of latents decodes them); None: rows are images.
        whole_numbers: give the network uint8 images 0 ... 255 instead.
    """

    def __init__(
        self,
        net: Callable[[Tensor], Any],
        identity: str,
        *,
        to_images: Callable[[Tensor], Any] | None = None,
        whole_numbers: bool = False,
    ) -> None:
        self._net, self.identity = net, identity
        self._to_images, self._whole_numbers = to_images, whole_numbers

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return [N, d]. A network with parameters runs on a GPU if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net = self._net.to(device).eval() if isinstance(self._net, torch.nn.Module) else self._net

        def run(part: Tensor) -> Tensor:
            features = net(self._images(part).to(device))
            if isinstance(features, tuple | list):  # torch-fidelity's extractors return a tuple
                features = features[0]
            if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(part):
                got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
                rule = f"the network must map {len(part)} images to features [{len(part)}, d], got {got}"
                raise ConfigError([Problem(key=KEY, value=self.identity, rule=rule)])
            return features.float().cpu()

        return _in_batches(run, x.detach().float().cpu())

    def _images(self, rows: Tensor) -> Tensor:
        if self._to_images is not None:
            levels = torch.from_numpy(self._to_images(rows)).permute(0, 3, 1, 2)
            return levels if self._whole_numbers else levels.float() * (2 / 255) - 1
        images = rows.clamp(-1, 1)
        return ((images + 1) * 127.5).round().to(torch.uint8) if self._whole_numbers else images


def load_features(spec: str | None, dataset: Dataset, metrics: Sequence[str] = FEATURES_NEEDED) -> Features:
    """Return the features that `evaluation.features` names for this data set.

    Args:
        spec: `evaluation.features`; None: the data set's own, else the rows as they are.
        dataset: the data.
        metrics: what is computed in them.

    Raises:
        ConfigError: the data set has none of its own and none are named, or what is named is not there.
        ModuleNotFoundError: Inception without torch-fidelity.
    """
    if spec is None:
        if dataset.name in WEIGHTS:
            return DigitsFeatures(dataset.name)
        if len(dataset.shape) == 1 or not any(name in FEATURES_NEEDED for name in metrics):
            return Coordinates()
        raise ConfigError(availability.no_features(dataset.name))
    decode = dataset.to_images if dataset.name == "latents" else None
    if spec.startswith("inception:"):
        return _inception(spec.partition(":")[2], dataset.to_images)
    path = Path(spec).expanduser()
    if path.is_file():
        try:
            net = _load_script(path.read_bytes())
        except RuntimeError as error:
            rule = f"is not a TorchScript file ({str(error).splitlines()[0]}); save one with torch.jit.save"
            raise ConfigError([Problem(key=KEY, value=spec, rule=rule)]) from error
        return ScriptFeatures(path, net, decode)
    module, colon, name = spec.partition(":")
    if colon and module.replace(".", "").isidentifier() and name.isidentifier():
        return NetFeatures(_call(module, name, spec), f"function:{spec}", to_images=decode)
    rule = "expected `inception:PATH`, the path of a TorchScript file, or `package.module:function`; no such file"
    raise ConfigError([Problem(key=KEY, value=spec, rule=rule)])


class ScriptFeatures(NetFeatures):
    """Features of a TorchScript file. Pickles as the file's content: a loaded script cannot be pickled."""

    def __init__(self, path: Path, net: Any, to_images: Callable[[Tensor], Any] | None) -> None:
        self._content = path.read_bytes()
        super().__init__(net, f"torchscript:{hashlib.sha256(self._content).hexdigest()[:16]}", to_images=to_images)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_net": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._net = _load_script(self._content)


def _load_script(content: bytes) -> Any:
    return torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]


def _inception(path: str, to_images: Callable[[Tensor], Any]) -> NetFeatures:
    """Return the 2048 pooled features of the Inception network that published FIDs use, on uint8 images."""
    weights = Path(path).expanduser()
    availability.demand(availability.features(f"inception:{path}"))
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        rule = "Inception features need torch-fidelity: pip install torch-fidelity"
        raise ModuleNotFoundError(rule, name="torch_fidelity") from error
    try:
        torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity itself would run a pickle's code
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        rule = f"does not hold plain weights ({str(error).splitlines()[0] if str(error) else 'empty'})"
        raise ConfigError([Problem(key=KEY, value=f"inception:{path}", rule=rule)]) from error
    net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))
    identity = f"inception-v3-compat:2048:{_file_hash(weights)}"
    return NetFeatures(net, identity, to_images=to_images, whole_numbers=True)


def _call(module: str, name: str, spec: str) -> Callable[[Tensor], Any]:
    try:
        make = getattr(imported(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError([Problem(key=KEY, value=spec, rule=f"cannot be imported ({error})")]) from error
    net: Callable[[Tensor], Any] = make()
    if not callable(net):
        rule = f"the function must return a network, got {type(net).__name__}"
        raise ConfigError([Problem(key=KEY, value=spec, rule=rule)])
    return net


def _in_batches(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([net(part) for part in torch.split(x, BATCH)])


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
