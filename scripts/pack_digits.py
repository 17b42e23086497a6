"""Pack scikit-learn's handwritten digits into meanflow_core/data/digits.npz, with a fixed stratified split.

    python scripts/pack_digits.py [OUT]

Source: sklearn.datasets.load_digits, the test part of the UCI "Optical Recognition of Handwritten Digits" data.
"""

import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[1] / "meanflow_core" / "data" / "digits.npz"
HELD_OUT = 1 / 3
SEED = 20250519


def held_out_rows(labels: np.ndarray) -> np.ndarray:
    """Mark a third of each class; the split goes into the file, so it depends on no library's random numbers later."""
    rng = np.random.default_rng(SEED)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen[rows[: round(len(rows) * HELD_OUT)]] = True
    return chosen


def main() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)
    if not np.array_equal(images, digits.images) or images.shape != (1797, 8, 8) or images.max() != 16:
        raise SystemExit("these are not the 1,797 digits of 8x8 with levels 0 ... 16 that the package expects")
    labels = digits.target.astype(np.uint8)
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    held = held_out_rows(labels)
    np.savez_compressed(out, images=images, labels=labels, held_out=held)
    print(f"{out}: {len(labels)} rows, {held.sum()} held out, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
