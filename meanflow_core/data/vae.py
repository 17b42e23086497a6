"""The autoencoder of latent data: a diffusers folder, loaded from a path and never from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from meanflow_core.data import availability


class Vae(Protocol):
    """Images in [-1, 1] to latents and back; latents are unscaled."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each [B, c, h, w], of images [B, 3, H, W]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, 3, H, W] of latents [B, c, h, w]."""


class DiffusersVae:
    """A diffusers `AutoencoderKL` with the protocol's methods, without gradients.

    Args:
        model: the autoencoder, in evaluation mode.
        device: where it runs.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self._device = model, device

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation on the CPU; see `Vae.encode`."""
        law = self._model.encode(images.to(self._device)).latent_dist
        return law.mean.float().cpu(), law.std.float().cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images on the CPU; see `Vae.decode`."""
        images: Tensor = self._model.decode(latents.to(self._device)).sample
        return images.float().cpu()


def load_vae(path: str, *, key: str = "data.vae") -> Vae:
    """Load an autoencoder from a folder with diffusers' config.json and weights.

    Args:
        path: of the folder.
        key: what an error calls the path.

    Raises:
        ConfigError: nothing is at the path.
        ModuleNotFoundError: diffusers is not installed.
    """
    folder = Path(path).expanduser()
    availability.demand(availability.autoencoder(path, key))
    try:
        from diffusers import AutoencoderKL
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("an autoencoder needs diffusers: pip install diffusers", name="diffusers") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoencoderKL.from_pretrained(str(folder), local_files_only=True).to(device).eval()
    return DiffusersVae(model, device)
