"""`optimizer`, `ema`, `trainer` and `evaluation`: the loop and how its samples are judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from meanflow_core.config.custom import bare_name
from meanflow_core.config.section import INF, Section
from meanflow_core.errors import Problem, nearest


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """Adam(W) and its learning-rate schedule. Defaults: the paper's ImageNet set-up, with a short warm-up."""

    name: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up. `cosine` falls to zero at `trainer.steps`."""
    warmup_steps: int = 0
    """Steps of linear warm-up from zero."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient; null: no clipping."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(
            lr=(0, INF, "()"),
            beta1=(0, 1, "[)"),
            beta2=(0, 1, "[)"),
            eps=(0, INF, "()"),
            weight_decay=(0, INF, "[)"),
            warmup_steps=(0, INF, "[)"),
            clip_norm=(0, INF, "()"),
        )


LONGEST = 0.28
"""Of `ema.lengths`; at 0.289 the average is the plain mean of all weights."""
BEST = "best"
"""Of `ema.length`: the best of several."""


@dataclass(frozen=True, kw_only=True)
class EMAConfig(Section):
    """Exponential moving averages of the weights; several at once."""

    decays: list[float] = field(default_factory=lambda: [0.9999])
    """Decay a step, e.g. [0.999, 0.9999]. The first is the one that evaluation and sampling use."""
    rampup: float | None = 0.05
    """EDM's ramp-up: the half-life is at most this share of the steps so far, so that the initial weights, which a
    plain average of decay 0.9999 still holds after 10,000 steps, leave early. null: the plain average."""
    lengths: list[float] = field(default_factory=list)
    """Lengths (standard deviations over the length of the training, below 0.28) of power-function averages that a
    training in a folder stores, e.g. [0.05, 0.1], so that one of any length can be made afterwards (EDM2)."""
    snapshot_every: int = 10_000
    """Steps between the times at which those are stored. Does not count in the hash."""
    length: float | str | None = None
    """Of the average that a training in a folder leaves as its weights, made of those of `lengths` at its end: a
    number, or `best`: the best of several by the metric of the sweep, or the first one. Asked anew, the training is not
    made again. null: the first decay. Does not count in the hash."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        for decay in self.decays:
            if not 0 <= decay < 1:
                yield Problem(key="decays", value=decay, rule="`0 <= decay < 1` must hold")
        for length in self.lengths:
            if not 0 < length < LONGEST:
                yield Problem(key="lengths", value=length, rule=f"`0 < length < {LONGEST}` must hold")
        number = self.length if isinstance(self.length, float | int) else LONGEST
        if self.length not in (None, BEST) and not 0 < number < LONGEST:
            rule = f"must be {BEST}, or a number above 0 and below {LONGEST}"
            yield Problem(key="length", value=self.length, rule=rule, nearest=nearest(str(self.length), [BEST]))
        if self.length is not None and not self.lengths:
            rule = "a length is chosen among averages by `ema.lengths`, which is empty: e.g. [0.05, 0.1]"
            yield Problem(key="length", value=self.length, rule=rule)
        yield from self._bounds(snapshot_every=(1, INF, "[)"))
        if len(set(self.lengths)) != len(self.lengths):
            yield Problem(key="lengths", value=self.lengths, rule="must differ from each other")
        if len(set(self.decays)) != len(self.decays):
            yield Problem(key="decays", value=self.decays, rule="must differ from each other")
        yield from self._bounds(rampup=(0, INF, "()"))


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Section):
    """The loop."""

    steps: int = 400_000
    batch_size: int = 256
    """Rows of the global batch, over all devices and accumulation steps."""
    accumulation: int = 1
    """Parts a batch is split into, one after the other; gradients are those of the joint batch."""
    precision: Literal["float32", "tf32", "bf16", "fp32"] = "float32"
    """What products are computed in, on every kernel. `float32`: exactly that; `tf32`: TensorFloat-32 where the GPU has
    it (an error of 3e-4); `bf16`: autocast of the network, while times, tangents and loss stay in float32. `fp32` is
    an older name of `float32`."""
    compile: bool = False
    """Compile the whole loss with torch.compile; needs `objective.derivative` `dual` or `auto`."""
    sharding: Literal["none", "fsdp"] = "none"
    """With several processes, for a network that outgrows a GPU: `fsdp` lets each hold its rows of every parameter,
    gradient, moment and average, by torch's FSDP2. Does not count in the config's hash."""
    device: str = "auto"
    """`auto`: a GPU if there is one. Does not count in the config's hash."""
    log_every: int = 100
    """Steps between logged training metrics. Does not count in the hash."""
    eval_every: int = 1000
    """Steps between evaluations. Does not count in the hash."""
    checkpoint_every: int = 1000
    """Steps between checkpoints of a final training. Does not count in the hash."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision == "fp32":
            object.__setattr__(self, "precision", "float32")

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        ones = ("steps", "batch_size", "accumulation", "log_every", "eval_every", "checkpoint_every")
        yield from self._bounds(**dict.fromkeys(ones, (1, INF, "[)")))
        if self.accumulation > 0 and self.batch_size % self.accumulation:
            rule = f"must be a multiple of `accumulation` ({self.accumulation})"
            yield Problem(key="batch_size", value=self.batch_size, rule=rule)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Section):
    """How samples are judged. Noise and labels are fixed by `seed`, the same for every configuration of a sweep."""

    samples: int = 2048
    nfe: list[int] = field(default_factory=lambda: [1, 2])
    """Numbers of function evaluations a sample, each evaluated in one go."""
    metrics: list[str] | None = None
    """null: the data set's own (digits: fid, accuracy; toy2d: wasserstein, sliced_wasserstein, mmd; images: fid; own:
    sliced_wasserstein, mmd). `package.module:function` is a metric of your own."""
    guidance: list[float] = field(default_factory=list)
    """Of a network with guidance as an input: the scales at which it is judged, `eval/fid_1nfe_w2` and so on, and the
    best of them, `eval/best_fid_1nfe`. Pictures are drawn at the first."""
    labels: Literal["balanced", "random"] = "balanced"
    """The label rule; it moves a FID by up to 10 %, so it is recorded with it."""
    batch_size: int = 512
    features: str | None = None
    """Path of the feature network's weights, where the metric needs one from outside."""
    reference: str | None = None
    """Reference statistics (ADM's .npz with mu and sigma); null: computed from the data set, and cached."""
    seed: int = 0

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(samples=(2, INF, "[)"), batch_size=(1, INF, "[)"))
        bare = [bare_name(name) for name in self.metrics or ()]
        for name in sorted({name for name in bare if bare.count(name) > 1}):
            rule = f"two metrics would be logged as {name!r}; each needs a name of its own"
            yield Problem(key="metrics", value=self.metrics, rule=rule)
        if not self.nfe or min(self.nfe) < 1:
            yield Problem(key="nfe", value=self.nfe, rule="needs positive whole numbers")
        if any(not 1 <= scale < INF for scale in self.guidance):
            yield Problem(key="guidance", value=self.guidance, rule="needs scales of 1 or more; 1 is no guidance")
        if len(set(self.guidance)) != len(self.guidance):
            yield Problem(key="guidance", value=self.guidance, rule="must differ from each other")
