"""The whole training configuration: frozen dataclasses, read with OmegaConf, checked before anything starts.

Reading a configuration needs neither torch nor Ray. A run is fully described by one resolved `TrainConfig`.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meanflow_core.errors import ConfigError, Problem, nearest
from meanflow_core.objective_presets import PRESETS, Preset, SplitLaw
from meanflow_core.yamlfile import YamlFile, parse_value, read_yaml

if typing.TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[tuple(PRESETS)]
TimeEmbedding = Literal["t_dt", "t_r", "t_r_dt", "dt"]
HALF = ("fp16", "float16", "half", "16")
"""Names people give to the precision that is refused with its reason."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the configuration. Constructing one checks it: a wrong value never exists."""

    def __post_init__(self) -> None:
        problems = list(self.problems())
        if problems:
            raise ConfigError(problems)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with this section's values, keys relative to the section."""
        yield from ()

    def _bounds(self, **rules: tuple[float, float, str]) -> Iterator[Problem]:
        """Yield a problem for each field outside [low, high]; a bracket "(" or ")" in `kind` excludes that end."""
        for key, (low, high, kind) in rules.items():
            value = getattr(self, key)
            if value is None:
                continue
            above = value > low if kind[0] == "(" else value >= low
            below = value < high if kind[1] == ")" else value <= high
            if not (math.isfinite(value) and above and below):
                left = "" if low == -math.inf else f"{low:g} {'<' if kind[0] == '(' else '<='} "
                right = "" if high == math.inf else f" {'<' if kind[1] == ')' else '<='} {high:g}"
                rule = f"`{left}{key}{right}` must hold" if left or right else "must be finite"
                yield Problem(key=key, value=value, rule=rule)


INF = math.inf


# ---------------------------------------------------------------------------------------------- objective


@dataclass(frozen=True, kw_only=True)
class TimeConfig(Section):
    """The law of the two times (sec. 4.3, Table 1a, 1d)."""

    law: Literal["lognorm", "uniform"] = "lognorm"
    """`lognorm`: the logit-normal law, sigmoid(N(mean, std)); `uniform`: U(0, 1). The two times are independent."""
    mean: float = -0.4
    """Mean of the logit (`lognorm` only)."""
    std: float = 1.0
    """Standard deviation of the logit (`lognorm` only)."""
    ratio: float = 0.25
    """Share of rows with r != t, an exact count of the batch; the others have r = t. 0 is flow matching."""
    order: Literal["swap_then_mask", "mask_then_swap"] = "swap_then_mask"
    """`swap_then_mask` (the paper): rows with r = t carry the larger of two draws; `mask_then_swap`: a single draw."""
    earlier: Literal["drawn", "zero"] | None = None
    """r of the rows with r != t: `drawn`, the smaller of the two draws, or `zero`, the data's end. null: the
    objective's own, `drawn` save for `consistency`."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(mean=(-INF, INF, "[]"), std=(0, INF, "()"), ratio=(0, 1, "[]"))


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig(Section):
    """Guidance built into the target (Eq. 21): v~ = omega v + kappa u(z,t,t|c) + (1 - omega - kappa) u(z,t,t|null)."""

    omega: float = 1.0
    """Weight of the data's velocity. 1 with kappa 0 is no guidance, bit for bit, and costs no extra pass."""
    kappa: float = 0.0
    """Weight of the network's own conditional velocity; below 1."""
    scale: float | None = None
    """Effective scale w' = omega / (1 - kappa). When set, omega is derived: omega = (1 - kappa) scale."""
    start: float = 0.0
    """Guidance acts for start <= t <= end; outside, omega = 1 and kappa = 0."""
    end: float = 1.0
    """See `start`."""
    dropout: float = 0.1
    """Share of rows trained on the null label with the plain velocity (when the data has labels)."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(
            omega=(0, INF, "()"),
            kappa=(0, 1, "[)"),
            scale=(0, INF, "()"),
            start=(0, 1, "[]"),
            end=(0, 1, "[]"),
            dropout=(0, 1, "[)"),
        )
        if self.scale is not None and self.omega != 1.0:
            rule = "`scale` and `omega` are both set; set one (scale = omega / (1 - kappa))"
            yield Problem(key="omega", value=self.omega, rule=rule)
        if self.start > self.end:
            yield Problem(key="start", value=self.start, rule=f"`start <= end` must hold (end is {self.end:g})")

    @property
    def effective_omega(self) -> float:
        """The omega of Eq. 21: derived from `scale` where that is set."""
        return self.omega if self.scale is None else (1.0 - self.kappa) * self.scale

    @property
    def active(self) -> bool:
        """Whether the guided velocity differs from the plain one anywhere."""
        return self.effective_omega != 1.0 or self.kappa != 0.0


@dataclass(frozen=True, kw_only=True)
class WeightConfig(Section):
    """The adaptive weight w = 1 / (|D|^2 + eps)^power, |D|^2 summed over a row, no gradient (sec. 4.3, Table 1e)."""

    law: Literal["adaptive"] = "adaptive"
    """Which weighting."""
    power: float | None = None
    """The paper's p. 0 is the plain squared error, 0.5 is close to pseudo-Huber. null: the objective's own, 1.0 for
    `meanflow`."""
    eps: float | None = None
    """The paper's c, in units of the summed squared error. null: the objective's own, 1e-3 for `meanflow`."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(power=(0, INF, "[)"), eps=(0, INF, "()"))


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Section):
    """The split a of s = t - a (t - r), where the two legs of the target meet. null: the objective's own value."""

    law: SplitLaw | None = None
    """`constant`; from `start` to `end` as training goes on: `linear`, `cosine`, `exponential`, `sigmoid`; or drawn for
    each row from U(start, end): `uniform`."""
    start: float | None = None
    """a at the beginning."""
    end: float | None = None
    """a at the end. null: the objective's own, or `start`."""
    after: float = 0.0
    """The share of the training after which a moves."""
    until: float = 1.0
    """The share of the training until which a moves."""
    sharpness: float = 25.0
    """Of `sigmoid`: its slope, in units of the schedule's length."""
    snap: float | None = None
    """a below it is 0 exactly (then du/dt is the derivative itself), and a above 1 - snap is 1."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        shares = dict.fromkeys(("start", "end", "after", "until"), (0.0, 1.0, "[]"))
        yield from self._bounds(**shares, sharpness=(0, INF, "()"), snap=(0, 0.5, "[)"))
        if self.after >= self.until:
            yield Problem(key="until", value=self.until, rule=f"`after < until` must hold (after is {self.after:g})")

    @property
    def bounds(self) -> tuple[float, float]:
        """`start` and `end`, of a section that an `ObjectiveConfig` has completed."""
        if self.start is None or self.end is None:
            raise ValueError("the split of an objective has its values from `ObjectiveConfig`")
        return self.start, self.end


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Section):
    """What is minimised. Defaults: the paper's ImageNet set-up.

    Values that are left out, or null, are those of the objective's name (`PRESETS`). They are filled in when the
    section is made, so that reading one always gives a value; `followed` says which they were.
    """

    name: ObjectiveName = "meanflow"
    """The objective: which split, leg, direction, r and weight (docs/mathematics.md). Each may be set by its own key."""
    time: TimeConfig = field(default_factory=TimeConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    weight: WeightConfig = field(default_factory=WeightConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    direction: float | None = None
    """The direction d along which the path is followed: 0 the data's velocity, 1 the network's own u(z, t, t), in
    between a mixture. null: the objective's own, 0 for `meanflow`."""
    teacher: float | None = None
    """Decay of an average of the weights that makes the targets of `shortcut`, `split` and `lsd`, with the ramp-up of
    `ema.rampup`. null: the network itself."""
    gap_weight: float = 0.0
    """g of a further weight 1 / ((1 + g h) sqrt(1 + g h^2)), h = t - r, for short gaps (TEMF has 1). 0: none."""
    tangent: Literal["v01", "v00", "v10", "v11"] = "v01"
    """Tangent of (z, r, t) in du/dt. Only `v01` is MeanFlow; the others reproduce the paper's Table 1b."""
    derivative: Literal["auto", "dual", "jvp", "finite_difference"] = "auto"
    """How du/dt is computed. `auto`: `dual` where the network supports it, else `jvp`. All but the last are exact."""

    def __post_init__(self) -> None:
        """Fill in what follows the name, then check."""
        if self.name not in PRESETS:
            rule = f"must be one of {', '.join(PRESETS)}"
            raise ConfigError([Problem(key="name", value=self.name, rule=rule, nearest=nearest(self.name, [*PRESETS]))])
        followed = set()
        for key, default in self._own_values().items():
            section, _, name = key.rpartition(".")
            holder = getattr(self, section) if section else self
            if getattr(holder, name) is None:
                followed.add(key)
                if section:
                    object.__setattr__(self, section, dataclasses.replace(holder, **{name: default}))
                else:
                    object.__setattr__(self, name, default)
        object.__setattr__(self, "_followed", frozenset(followed))
        super().__post_init__()

    def _own_values(self) -> dict[str, Any]:
        preset = self.preset
        own_end = preset.end if self.split.law is None and self.split.start is None else None
        start = preset.start if self.split.start is None else self.split.start
        return {
            "time.earlier": preset.earlier,
            "weight.power": preset.power,
            "weight.eps": preset.eps,
            "split.law": preset.law,
            "split.start": preset.start,
            "split.end": start if own_end is None else own_end,
            "split.snap": preset.snap,
            "direction": preset.direction,
        }

    @property
    def preset(self) -> Preset:
        """What the name stands for."""
        return PRESETS[self.name]

    @property
    def followed(self) -> frozenset[str]:
        """The keys whose values are the name's, because nobody set them."""
        found: frozenset[str] = self._followed  # type: ignore[attr-defined]
        return found

    def problems(self) -> Iterator[Problem]:
        """Yield what does not go together."""
        preset, (start, end) = self.preset, self.split.bounds
        yield from self._bounds(direction=(0, 1, "[]"), gap_weight=(0, INF, "[)"), teacher=(0, 1, "[)"))
        if self.split.law == "exponential" and min(start, end) <= 0:
            rule = "`exponential` needs `split.start` and `split.end` above 0"
            yield Problem(key="split.end" if end <= 0 else "split.start", value=min(start, end), rule=rule)


# -------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True, kw_only=True)
class MLPConfig(Section):
    """A residual MLP with adaptive layer norm, for vectors and small images (flattened)."""

    name: Literal["mlp"] = "mlp"
    width: int = 512
    depth: int = 4
    """Number of residual blocks."""
    time_embedding: TimeEmbedding = "t_dt"
    """Which times the network sees; dt = t - r. The derivative is always that of u(z, r, t)."""
    dropout: float = 0.0

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(width=(1, INF, "[)"), depth=(1, INF, "[)"), dropout=(0, 1, "[)"))


@dataclass(frozen=True, kw_only=True)
class DiTConfig(Section):
    """A diffusion transformer with adaLN-Zero (arXiv 2212.09748)."""

    name: Literal["dit"] = "dit"
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 4
    mlp_ratio: float = 4.0
    time_embedding: TimeEmbedding = "t_dt"
    """Which times the network sees; dt = t - r. The derivative is always that of u(z, r, t)."""
    dropout: float = 0.0

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        ones = dict.fromkeys(("width", "depth", "heads", "patch"), (1, INF, "[)"))
        yield from self._bounds(**ones, mlp_ratio=(0, INF, "()"), dropout=(0, 1, "[)"))
        if self.heads > 0 and self.width % self.heads:
            rule = f"must be a multiple of `heads` ({self.heads})"
            yield Problem(key="width", value=self.width, rule=rule)


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Section):
    """The NCSN++/DDPM++-style U-Net of the CIFAR-10 set-up (about 55 M parameters by default)."""

    name: Literal["unet"] = "unet"
    channels: int = 128
    """Channels at the highest resolution."""
    channel_mult: list[int] = field(default_factory=lambda: [2, 2, 2])
    """Channel multiplier of each resolution; each next one halves the height and width."""
    blocks: int = 4
    """Residual blocks a resolution."""
    attention: list[int] = field(default_factory=lambda: [16])
    """Resolutions (heights) with self-attention."""
    time_embedding: TimeEmbedding = "t_dt"
    """Which times the network sees; dt = t - r. The derivative is always that of u(z, r, t)."""
    dropout: float = 0.2

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(channels=(1, INF, "[)"), blocks=(1, INF, "[)"), dropout=(0, 1, "[)"))
        if not self.channel_mult or min(self.channel_mult) < 1:
            yield Problem(key="channel_mult", value=self.channel_mult, rule="needs positive whole numbers")


# ---------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True, kw_only=True)
class DigitsConfig(Section):
    """1,797 real handwritten digits, 8x8 grey, ten classes; ships with the package."""

    name: Literal["digits"] = "digits"


@dataclass(frozen=True, kw_only=True)
class Toy2dConfig(Section):
    """An endless sample of a law on the plane, drawn from a seed."""

    name: Literal["toy2d"] = "toy2d"
    law: Literal["gaussian", "gaussians", "moons", "checkerboard", "spiral"] = "gaussians"
    """`gaussians`: eight on a ring, labelled; `moons`: two, labelled; the others have no labels."""
    rows: int = 65536
    """Size of the fixed training sample."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(rows=(1, INF, "[)"))


@dataclass(frozen=True, kw_only=True)
class Cifar10Config(Section):
    """CIFAR-10 from the standard python archive (cifar-10-python.tar.gz) or the folder it unpacks to."""

    name: Literal["cifar10"] = "cifar10"
    path: str = "data/cifar-10-python.tar.gz"
    flip: bool = True
    """Horizontal flips in training."""
    labels: bool = False
    """Condition on the class. The paper's CIFAR-10 model is unconditional."""


@dataclass(frozen=True, kw_only=True)
class ImageFolderConfig(Section):
    """Images in a folder, one sub-folder a class (or none: unlabelled); centre-cropped and resized to size x size."""

    name: Literal["image_folder"] = "image_folder"
    path: str = "data/images"
    size: int = 64
    flip: bool = True

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(size=(1, INF, "[)"))


@dataclass(frozen=True, kw_only=True)
class LatentsConfig(Section):
    """Latents of an autoencoder as memory-mapped shards of mean and std; z = scale (mean + std noise) at each step."""

    name: Literal["latents"] = "latents"
    path: str = "data/latents"
    scale: float = 0.18215
    """The factor of sd-vae-ft-mse."""
    vae: str | None = None
    """Folder of the autoencoder (diffusers), for pictures and image metrics; training does not need it."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(scale=(0, INF, "()"))


# ------------------------------------------------------------------------------------------------ training


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


@dataclass(frozen=True, kw_only=True)
class EMAConfig(Section):
    """Exponential moving averages of the weights; several at once."""

    decays: list[float] = field(default_factory=lambda: [0.9999])
    """Decay a step, e.g. [0.999, 0.9999]. The first is the one that evaluation and sampling use."""
    rampup: float | None = 0.05
    """EDM's ramp-up: the half-life is at most this share of the steps so far, so that the initial weights, which a
    plain average of decay 0.9999 still holds after 10,000 steps, leave early. null: the plain average."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        for decay in self.decays:
            if not 0 <= decay < 1:
                yield Problem(key="decays", value=decay, rule="`0 <= decay < 1` must hold")
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
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: autocast of the network; times, tangents and loss stay in float32."""
    compile: bool = False
    """Compile the whole loss with torch.compile; needs `objective.derivative` `dual` or `auto`."""
    device: str = "auto"
    """`auto`: a GPU if there is one. Does not count in the config's hash."""
    log_every: int = 100
    """Steps between logged training metrics. Does not count in the hash."""
    eval_every: int = 1000
    """Steps between evaluations. Does not count in the hash."""
    checkpoint_every: int = 1000
    """Steps between checkpoints of a final training. Does not count in the hash."""

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
    """null: the data set's own (digits: fid, accuracy; toy2d: wasserstein, sliced_wasserstein, mmd; images: fid)."""
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
        if not self.nfe or min(self.nfe) < 1:
            yield Problem(key="nfe", value=self.nfe, rule="needs positive whole numbers")


ModelConfig = MLPConfig | DiTConfig | UNetConfig
DataConfig = DigitsConfig | Toy2dConfig | Cifar10Config | ImageFolderConfig | LatentsConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """Everything that describes one training run."""

    seed: int = 0
    """Of weights, data order, times and noise: runs that share it see the same data and the same random numbers."""
    data: DataConfig = field(default_factory=DigitsConfig)
    model: ModelConfig = field(default_factory=DiTConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    evidence: dict[str, Any] = field(default_factory=dict)
    """Where this configuration comes from (the sweep and trial that chose it). Changes no number; not in the hash."""

    def problems(self) -> Iterator[Problem]:
        """Yield what does not go together."""
        way = self.objective.derivative
        if self.trainer.compile and way not in ("auto", "dual"):  # their replay of dropout masks cannot be traced
            rule = "`trainer.compile` needs `dual` (or `auto`); the other ways cannot be compiled"
            yield Problem(key="objective.derivative", value=way, rule=rule, nearest="dual")

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts and lists: what `load_config` reads back equal."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """Return the complete configuration as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(self.to_dict()))

    def hash(self) -> str:
        """Return 16 hex digits that differ where two runs would train differently (device and log intervals do not)."""
        content = self.to_dict()
        del content["evidence"]
        for key in ("device", "log_every", "eval_every", "checkpoint_every"):
            del content["trainer"][key]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# ----------------------------------------------------------------------------------------------- reading


def load_config(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a training configuration.

    Args:
        source: a YAML file, or nested dicts (dotted keys are allowed). What it leaves out has its default.
        overrides: `key=value` words, e.g. `objective.time.ratio=0.5`; later ones win.

    Raises:
        ConfigError: listing every unknown key (with the nearest valid one), wrong type and broken rule.
    """
    document = None if isinstance(source, Mapping) else read_yaml(source)
    raw = _nest(source if document is None else document.content)  # type: ignore[arg-type]
    for word in overrides:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise ConfigError([Problem(key=word, rule="an override must look like `key=value`")])
        _put(raw, key, parse_value(value))
    problems: list[Problem] = []
    config = _build(TrainConfig, raw, "", problems, raw)
    if config is None or problems:
        raise ConfigError(problems if document is None else [_placed(p, document) for p in problems])
    return typing.cast(TrainConfig, config)


def _placed(problem: Problem, document: YamlFile) -> Problem:
    line = document.line_of(*problem.key.split(".")) or document.line_of(problem.key)
    return dataclasses.replace(problem, file=str(document.path), line=line)


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return `config` with dotted keys replaced: `with_values(c, {"objective.time.ratio": 0.5})`.

    Raises:
        ConfigError: as `load_config`.
    """
    raw = config.to_dict()
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if name == "name" and section in ("model", "data"):
            other = {k: v for k, v in values.items() if k.startswith(f"{section}.")}
            if raw[section]["name"] != value:  # the fields of another model mean nothing to this one
                raw[section] = {k.partition(".")[2]: v for k, v in other.items()}
    for key, value in values.items():
        _put(raw, key, value)
    return load_config(raw)


def valid_keys(config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return every dotted leaf key with its type annotation.

    Args:
        config: nested or dotted values; a `model.name` or `data.name` in it narrows that section to its kind.
    """
    raw = _nest(config or {})
    found: dict[str, Any] = {}

    def walk(cls: type, prefix: str) -> None:
        for name, annotation in typing.get_type_hints(cls).items():
            key = f"{prefix}{name}"
            kinds = _sections(annotation)
            given = raw.get(name)
            chosen = given.get("name") if isinstance(given, Mapping) and not prefix else None
            if len(kinds) > 1 and chosen in [_default_name(kind) for kind in kinds]:
                kinds = [kind for kind in kinds if _default_name(kind) == chosen]
            for kind in kinds:
                walk(kind, f"{key}.")
            if not kinds:
                found[key] = annotation

    walk(TrainConfig, "")
    return found


def _sections(annotation: Any) -> list[type]:
    """The section classes an annotation names; empty for a leaf."""
    options = typing.get_args(annotation) or (annotation,)
    return [option for option in options if isinstance(option, type) and issubclass(option, Section)]


def _default_name(cls: type) -> str:
    return str(next(f.default for f in dataclasses.fields(cls) if f.name == "name"))


def _nest(source: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in source.items():
        free = key == "evidence"  # a record, not configuration: its keys may hold dots
        _put(nested, str(key), _nest(value) if isinstance(value, Mapping) and not free else value)
    return nested


def _put(target: dict[str, Any], key: str, value: Any) -> None:
    head, _, rest = key.partition(".")
    if rest:
        below = target.get(head)
        if not isinstance(below, dict):
            below = target[head] = {}
        _put(below, rest, value)
    elif isinstance(value, dict) and isinstance(target.get(head), dict) and head != "evidence":
        for name, item in value.items():
            _put(target[head], name, item)
    else:
        target[head] = value


def _build(cls: type, raw: Any, prefix: str, problems: list[Problem], root: Mapping[str, Any]) -> Any:
    """Build a section from plain values, adding to `problems`; None where it cannot be built."""
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        problems.append(Problem(key=prefix.rstrip("."), value=raw, rule="must be a mapping of keys"))
        return None
    hints = typing.get_type_hints(cls)
    found_before = len(problems)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if name not in hints:
            valid = [*valid_keys(root), *(f"{prefix}{hint}" for hint in hints)]
            here = [k for k in valid if k.startswith(prefix)]
            close = nearest(key, here) or nearest(key, valid)
            rule = "unknown key" if close else f"unknown key; valid here: {', '.join(hints)}"
            if key in valid_keys():  # of another kind: model.heads is a DiT's, not an MLP's
                rule, close = f"{_default_name(cls)} has no such key; valid here: {', '.join(hints)}", None
            problems.append(Problem(key=key, rule=rule, nearest=close))
        elif kinds := _sections(hints[name]):
            kind: type | None = kinds[0]
            if len(kinds) > 1:
                kind = _choose(kinds, value, getattr(cls(), name).name, key, problems)
            values[name] = _build(kind, value, f"{key}.", problems, root) if kind else None
        else:
            values[name] = _leaf(cls, name, value, key, hints[name], problems)
    if len(problems) > found_before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems.extend(problem.within(prefix.rstrip(".")) if prefix else problem for problem in error.problems)
        return None


def _choose(kinds: list[type], raw: Any, default: str, key: str, problems: list[Problem]) -> type | None:
    names = {_default_name(kind): kind for kind in kinds}
    name = raw.get("name", default) if isinstance(raw, Mapping) else default
    if not isinstance(name, str) or name not in names:
        rule = f"must be one of {', '.join(names)}"
        problems.append(Problem(key=f"{key}.name", value=name, rule=rule, nearest=nearest(str(name), list(names))))
        return None
    return names[name]


def _leaf(cls: type, name: str, value: Any, key: str, annotation: Any, problems: list[Problem]) -> Any:
    """Convert one value with OmegaConf's rules (an int is a float, "3" is 3, but 2.5 is no int and True no number)."""
    if _fits(value, annotation):  # most values: OmegaConf takes a millisecond for each, a whole config 0.1 s
        return copy.copy(value)
    schema = OmegaConf.structured(cls)
    OmegaConf.set_readonly(schema, None)
    try:
        found = OmegaConf.to_container(OmegaConf.merge(schema, {name: value}), resolve=True)[name]  # type: ignore[call-overload, index]
        if isinstance(found, list) and any(isinstance(item, list | dict) for item in found):
            raise TypeError("OmegaConf looks at the items of a list no further")
        return found
    except (OmegaConfBaseException, TypeError):  # TypeError: a mapping in the place of a list
        choices = [str(c) for c in typing.get_args(annotation)] if typing.get_origin(annotation) is Literal else []
        rule = f"must be one of {', '.join(choices)}" if choices else f"must be {_spoken(annotation)}"
        if name == "precision" and str(value) in HALF:
            rule += "; fp16 is refused: du/dt leaves its range (at most 65504) and training ends in NaN, bf16 does not"
        problems.append(Problem(key=key, value=value, rule=rule, nearest=nearest(str(value), choices)))
        return None


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value has the annotated type as it is, with nothing to convert."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return bool(value == {})
    if isinstance(value, str) and "${" in value:
        return False  # an interpolation, for OmegaConf to resolve
    return any(_fits(value, arg) for arg in args) if args else type(value) is annotation


def _spoken(annotation: Any) -> str:
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    if annotation in words:
        return words[annotation]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        return f"a list, each item {_spoken(args[0])}"
    return " or ".join(_spoken(arg) for arg in args) if args else str(annotation)
