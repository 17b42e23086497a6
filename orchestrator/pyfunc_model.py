"""What `mlflow.pyfunc.load_model` loads: a model whose `predict` samples, by default in one step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class OneStepModel(PythonModel):  # type: ignore[misc, unused-ignore]
    """Draws one sample a row of its input.

    The input's columns: `seed` (of the row's noise), `nfe` (network evaluations, the same in all rows), and for a
    model with classes `label`. The output is float32 [rows, *shape], scaled as the training data are.
    """

    def load_context(self, context: Any) -> None:
        """Remember where the weights are."""
        self._weights = Path(context.artifacts["weights"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        """Sample; see the class."""
        return samples_of(self._weights, model_input)


def samples_of(weights: Path, asked: pd.DataFrame) -> np.ndarray:
    """Return one sample a row, float32 [rows, *shape].

    Raises:
        ValueError: rows ask for different numbers of evaluations.
    """
    import numpy as np

    from orchestrator.samples import draw_samples

    evaluations = {int(nfe) for nfe in asked["nfe"]} if "nfe" in asked else {1}
    if len(evaluations) != 1:
        raise ValueError(f"every row must ask for the same nfe, got {sorted(evaluations)}")
    rows = []
    for index in range(len(asked)):
        row = asked.iloc[index]
        labels = [int(row["label"])] if "label" in asked else None
        drawn, _ = draw_samples(weights, count=1, nfe=next(iter(evaluations)), labels=labels, seed=int(row["seed"]))
        rows.append(drawn[0].numpy())
    return np.stack(rows)


def example_of(weights: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return an input of two rows that fits the model, and the samples it gives."""
    import pandas as pd

    from meanflow_core.checkpoint import load_weights

    asked = {"seed": [0, 1], "nfe": [1, 1]}
    if load_weights(weights)[1]["num_classes"] is not None:
        asked["label"] = [0, 1]
    frame = pd.DataFrame(asked)
    return frame, samples_of(weights, frame)


mlflow.models.set_model(OneStepModel())
