"""`objective`: its name, the distribution of the times, guidance, the weight, and how the target is made."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from meanflow_core.config.objective_presets import PRESETS, SPLITS, Preset, SplitLaw
from meanflow_core.config.section import INF, Section
from meanflow_core.errors import ConfigError, Problem, nearest

if typing.TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[tuple(PRESETS)]


@dataclass(frozen=True, kw_only=True)
class TimeConfig(Section):
    """The distribution of the two times (sec. 4.3, Table 1a, 1d)."""

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
    input: bool = False
    """Guidance as an input: one network for all scales. It is told w (as 1 - 1/w), which is drawn for each row, and
    trained on omega = 1, kappa = 1 - 1/w (iMF); `omega`, `kappa` and `scale` stay unset. Evaluations are made at the
    scales in `evaluation.guidance`."""
    scale_max: float = 8.0
    """Of `input`: w lies in [1, scale_max]."""
    scale_decay: float = 1.0
    """Of `input`: w has the density w^-scale_decay there."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(
            omega=(0, INF, "()"),
            kappa=(0, 1, "[)"),
            scale=(0, INF, "()"),
            start=(0, 1, "[]"),
            end=(0, 1, "[]"),
            dropout=(0, 1, "[)"),
            scale_max=(1, INF, "()"),
            scale_decay=(-INF, INF, "[]"),
        )
        if self.input and (self.scale, self.omega, self.kappa) != (None, 1.0, 0.0):
            key = "scale" if self.scale is not None else "omega" if self.omega != 1.0 else "kappa"
            rule = "`input` draws the scale of each row; leave `scale`, `omega` and `kappa` out"
            yield Problem(key=key, value=getattr(self, key), rule=rule)
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
        return self.input or self.effective_omega != 1.0 or self.kappa != 0.0


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
    of: Literal["quotient", "difference"] = "quotient"
    """The error D of a finite split: e = (u - u*) / a, or u - u* with w = a^2 / (|D|^2 + eps)^power (alpha-Flow's own,
    which fades its rows out as a falls)."""

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
    """The objective: its split, leg, direction, r and weight (docs/mathematics.md). Each may be set by its own key."""
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
    clip: float | None = None
    """u* of a finite split is cut to [-clip, clip], entry by entry (4 in the codes of alpha-Flow and Shortcut). null:
    it is not."""
    tangent: Literal["v01", "v00", "v10", "v11"] = "v01"
    """Tangent of (z, r, t) in du/dt. Only `v01` is MeanFlow; the others reproduce the paper's Table 1b."""
    derivative: Literal["auto", "dual", "jvp", "finite_difference"] = "auto"
    """How du/dt is computed. `auto`: `dual` where the network supports it, else `jvp`. All but the last are exact."""

    def __post_init__(self) -> None:
        """Fill in what follows the name, then check."""
        if self.name not in PRESETS:
            rule = f"must be one of {', '.join(PRESETS)}"
            raise ConfigError([Problem(key="name", value=self.name, rule=rule, nearest=nearest(self.name, [*PRESETS]))])
        followed: set[str] = set()
        filled: dict[str, Any] = {}
        for key, value in self._values_of_the_name().items():
            section, _, name = key.rpartition(".")
            if getattr(getattr(self, section) if section else self, name) is None:
                followed.add(key)
                (filled.setdefault(section, {}) if section else filled)[name] = value
        for name, value in filled.items():
            whole = dataclasses.replace(getattr(self, name), **value) if isinstance(value, dict) else value
            object.__setattr__(self, name, whole)
        object.__setattr__(self, "_followed", frozenset(followed))
        super().__post_init__()

    def _values_of_the_name(self) -> dict[str, Any]:
        preset, split = self.preset, self.split
        law = split.law or preset.law
        usual = SPLITS[law]
        start = usual.start if law != preset.law or preset.start is None else preset.start
        end = (start if split.start is None else split.start) if law == "constant" else usual.end
        return {
            "time.earlier": preset.earlier,
            "weight.power": preset.power,
            "weight.eps": preset.eps,
            "split.law": law,
            "split.start": start,
            "split.end": end,
            "split.snap": usual.snap,
            "direction": preset.direction,
        }

    @property
    def preset(self) -> Preset:
        """What the name stands for."""
        return PRESETS[self.name]

    @property
    def followed(self) -> frozenset[str]:
        """The keys, below `objective`, whose values are the name's because nobody set them."""
        found: frozenset[str] = self._followed  # type: ignore[attr-defined]
        return found

    @property
    def has_finite_split(self) -> bool:
        """Whether a is neither 0 nor 1 at some time."""
        return self.split.law != "constant" or self.split.start not in (0.0, 1.0)

    def problems(self) -> Iterator[Problem]:
        """Yield what does not go together."""
        split, (start, end) = self.split, self.split.bounds
        low, least = ("end", end) if end < start else ("start", start)
        yield from self._bounds(
            direction=(0, 1, "[]"), gap_weight=(0, INF, "[)"), teacher=(0, 1, "[)"), clip=(0, INF, "()")
        )
        if split.law == "exponential" and least <= 0:
            yield Problem(key=f"split.{low}", value=least, rule="`exponential` needs `split.start` and `.end` above 0")
        elif self.preset.leg == "own":
            yield from self._problems_of_own_legs(low, least)
        elif split.law == "uniform" and least <= 0:
            rule = f"must be above 0: the error of `{self.name}` is divided by the split"
            yield Problem(key=f"split.{low}", value=least, rule=rule)
        if self.preset.leg == "data" and self.teacher is not None:
            rule = f"no target of `{self.name}` is made by a teacher; only those of {', '.join(OWN_LEGS)} are"
            yield Problem(key="teacher", value=self.teacher, rule=rule)
        if self.tangent != "v01" and (self.has_finite_split or self.preset.leg == "own"):
            rule = f"`{self.name}` with this split has no du/dt; only `v01` can be set"
            yield Problem(key="tangent", value=self.tangent, rule=rule, nearest="v01")

    def _problems_of_own_legs(self, low: str, least: float) -> Iterator[Problem]:
        if self.split.law != "uniform" and least <= 0:
            rule = f"must be above 0: with a split of 0 `{self.name}` regresses the network on itself"
            yield Problem(key=f"split.{low}", value=least, rule=rule)
        if self.direction != 1.0:
            rule = f"`{self.name}` follows the network's own velocity: must be 1"
            yield Problem(key="direction", value=self.direction, rule=rule)
        if self.time.ratio == 1.0:
            rule = f"must be below 1: `{self.name}` learns the data on the rows with r = t alone"
            yield Problem(key="time.ratio", value=self.time.ratio, rule=rule)


OWN_LEGS = [name for name, preset in PRESETS.items() if preset.leg == "own"]
