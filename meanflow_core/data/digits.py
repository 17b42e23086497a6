"""1,797 handwritten digits, 8x8, grey levels 0 ... 16, ten classes; packed by scripts/pack_digits.py.

The split is stored in the file. One third of every class (599 rows in all) is held out: enough for stable feature
statistics and an accuracy to the percent, while two thirds are left to train on. Samples are compared with the held-out
rows, so a model that copies its training rows scores what real data score, and not better.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from meanflow_core.data.base import ArrayImages

FILE = Path(__file__).with_name("digits.npz")
LEVELS = 16


def load_digits() -> ArrayImages:
    """Return the digits that ship with the package."""
    with np.load(FILE, allow_pickle=False) as file:
        images, labels, held = file["images"], file["labels"], file["held_out"]
    x = torch.from_numpy(images).unsqueeze(1)
    y = torch.from_numpy(labels).long()
    out = torch.from_numpy(held)
    return ArrayImages("digits", x[~out], y[~out], x[out], y[out], num_classes=10, levels=LEVELS, reference_held=True)
