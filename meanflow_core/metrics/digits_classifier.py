"""The small convolutional classifiers of the digits; their penultimate layers are the feature spaces of their metrics.

The weights ship with the package and were made by scripts/train_digits_classifier.py on the training rows alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = {name: Path(__file__).with_name(f"{name}_classifier.safetensors") for name in ("digits", "mnist")}
"""By data set."""
FEATURES = 64


class DigitsClassifier(nn.Module):
    """Three convolutions and a layer of 64 features over grey images of at least 8x8 in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * 4 * 4, FEATURES)
        self.head = nn.Linear(FEATURES, 10)

    def features(self, x: Tensor) -> Tensor:
        """Return the features [B, 64] of images [B, 1, h, w]; a smooth activation keeps them closer to normal."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        x = F.gelu(self.conv3(F.avg_pool2d(x, 2)))
        return F.gelu(self.hidden(F.adaptive_avg_pool2d(x, 4).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, 10]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def load_digits_classifier(data: str = "digits") -> DigitsClassifier:
    """Return the shipped classifier of a data set, in evaluation mode and without gradients."""
    net = DigitsClassifier()
    net.load_state_dict(load_file(WEIGHTS[data]))
    return net.eval().requires_grad_(False)


def classifier_record(data: str = "digits") -> dict[str, Any]:
    """Return how the shipped weights were made and how good they are."""
    record: dict[str, Any] = json.loads(WEIGHTS[data].with_suffix(".json").read_text())
    return record
