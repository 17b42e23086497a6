"""A trained MeanFlow model as MLflow loads it: a request for samples goes in, samples come out.

MLflow runs this file when it loads a registered model. It needs `meanflow_core`, which travels with the model.
The hint of `model_input` is read by MLflow too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

BATCH = 256
Samples = np.ndarray[Any, Any]


class Sampler(PythonModel):  # type: ignore[misc]
    """Draws samples; see `predict`."""

    def load_context(self, context: Any) -> None:
        """Rebuild the network from the weights file of the model."""
        from meanflow_core.training import load_network

        self._net, self._config, self._metadata = load_network(Path(context.artifacts["weights"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Samples:
        """Draw samples.

        Args:
            context: unused; MLflow passes it.
            model_input: one row a sample: `label` (a class; -1 or no column: none, unconditional), `seed` (no
                column: 0), and `condition` of a model of data with conditions: nested lists of a row's shape
                (None or no column: the null condition). Sample i of a seed is the same however many are asked for.
            params: `nfe`, the number of network evaluations per sample, by default 1; `guidance`, the scale, of a model
                trained with it as an input (by default the first that it was evaluated at).

        Returns:
            uint8 [rows, H, W, 3] for images, float32 [rows, *shape] for other data.
        """
        import torch

        from meanflow_core.data import unit_images
        from meanflow_core.sampling import asked_of_weights, fixed_noise, guidance_scale, sample

        rows = len(model_input)
        steps = int((params or {}).get("nfe", 1))
        asked = (params or {}).get("guidance")
        scale = guidance_scale(self._config, None if asked is None else float(asked), "guidance")
        shape, classes = tuple(self._metadata["shape"]), self._metadata["num_classes"]
        seeds = self._column(model_input, "seed", 0)
        noise = torch.empty((rows, *shape))
        for seed in sorted(set(seeds)):
            of_seed = [row for row, own in enumerate(seeds) if own == seed]
            noise[of_seed] = fixed_noise(seed, shape, 0, len(of_seed))
        labels = None
        if classes is not None:
            given = self._column(model_input, "label", -1)
            wrong = sorted({label for label in given if not -1 <= label < classes})
            if wrong:
                raise ValueError(f"labels are 0 to {classes - 1}, or -1 for none; got {wrong}")
            labels = torch.tensor([classes if label == -1 else label for label in given])
        conditions = [_nested(cell) for cell in model_input["condition"]] if "condition" in model_input else None
        labels = asked_of_weights(self._metadata, rows, labels, conditions)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net = self._net.to(device)
        parts = []
        for start in range(0, rows, BATCH):
            part = slice(start, start + BATCH)
            own = None if labels is None else labels[part].to(device)
            parts.append(sample(net, noise[part].to(device), labels=own, steps=steps, guidance=scale).float().cpu())
        samples = torch.cat(parts)
        if samples.dim() == 4 and samples.shape[1] in (1, 3):
            return np.asarray(unit_images(samples))
        return np.asarray(samples.numpy())

    @staticmethod
    def _column(table: pd.DataFrame, name: str, default: int) -> list[int]:
        return [int(value) for value in table[name]] if name in table else [default] * len(table)


def _nested(cell: Any) -> Any:
    """Return a cell of a table as plain nested lists: pandas and MLflow hold a matrix as an array of arrays."""
    if isinstance(cell, np.ndarray | list | tuple):
        return [_nested(item) for item in cell]
    return None if cell is None or cell != cell else cell


set_model(Sampler())
