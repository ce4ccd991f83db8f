"""Forecast series: a series is an image of height 1, its past is what is kept, and its future is the hole. Completion *is* forecasting (`complete.py`).

    futures     draws of p(x_{k+1} … x_W | x_1 … x_k): exact for an autoregressive model, and for one that was trained with --given top
    bands       quantiles of the futures at each step
    CRPS        of the futures at each step against what came (`metrics/crps.py`), averaged over the steps; a mean over series with its standard error

All in units of the series, by its scale (`data/series.py`). What a forecast is worth shows beside forecasts that cost nothing:

    seasonal-naive              the value one season ago (Hyndman and Athanasopoulos 2021, §5.2); without a season the last value
    seasonal-naive-residuals    that, plus the errors that it makes on each training series: a distribution
    climatology                 the values of the training series at the same step: a distribution
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from pofx.data.series import Scale, values_of
from pofx.errors import InputError
from pofx.metrics.crps import crps
from pofx.metrics.mean import Mean
from pofx.model import ImageModel, Progress
from pofx.space import ImageSpace
from pofx.tasks._files import TABLES, check_out, write_table, writing
from pofx.tasks.bulk import Images, as_images, everything, subset
from pofx.tasks.complete import complete
from pofx.views import Masked, Top

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BANDS = ((0.05, 0.95), (0.25, 0.75))
SUFFIXES = (".png", *TABLES)
LIMIT, DRAWS, PANELS = 100, 100, 6
MEMBERS = 500  # training series in a baseline's distribution
PERIODIC = 0.3  # autocorrelation from which on a lag is called a season


@dataclass(frozen=True, eq=False)
class Future:
    """Many futures of one series, in its units.

    Attributes:
        id: its name.
        past: `(k,)`, what was known.
        draws: `(n, horizon)`, futures.
        truth: `(horizon,)`, what came, or None where nobody knows.
        nats: −log p(what came | past), in nats, or None.
    """

    id: str
    past: Tensor
    draws: Tensor
    truth: Tensor | None
    nats: float | None = None

    def quantiles(self, at: Sequence[float] = QUANTILES) -> Tensor:
        """`(len(at), horizon)`."""
        return self.draws.quantile(torch.tensor(at, dtype=torch.double), 0)


@dataclass(frozen=True, eq=False)
class Forecast:
    """Forecasts of some series, and how good they were.

    Attributes:
        futures: one a series.
        kind, method: how far the futures are draws of the model's p(future | past), as of `complete`.
        keep, horizon: values that were known, and that were forecast.
        n: futures of each series.
        season: of the seasonal-naive forecast; 1 where there is none (the last value).
        crps: per series averaged over steps, in units of the series; None where nobody knows what came.
        baselines: CRPS of other forecasts of the same series.
        better_by: CRPS of a baseline minus that of the model, by series: paired, so that its error is smaller than that of either.
        coverage: band → share of values that fell into it.
        nats: −log p(what came | past) and `nats_kind`.
        of: how many series there were to choose from.
        units: "units of the series", or "levels" where there is no scale.
    """

    futures: tuple[Future, ...]
    kind: Literal["exact", "approximate"]
    method: str
    keep: int
    horizon: int
    n: int
    season: int
    crps: Mean | None
    baselines: Mapping[str, Mean]
    better_by: Mapping[str, Mean]
    coverage: Mapping[str, float]
    nats: Mean | None
    nats_kind: str | None
    of: int
    units: str
    seed: int
    note: str = ""
    path: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "n": len(self.futures),
            "of": self.of,
            "keep": self.keep,
            "horizon": self.horizon,
            "draws": self.n,
            "kind": self.kind,
            "method": self.method,
            "units": self.units,
            "season": self.season,
            "crps": None if self.crps is None else self.crps.to_json(),
            "baselines": {name: mean.to_json() for name, mean in self.baselines.items()},
            "better_by": {name: mean.to_json() for name, mean in self.better_by.items()},
            "coverage": dict(self.coverage),
            "nats": None if self.nats is None else self.nats.to_json(),
            "nats_kind": self.nats_kind,
            "note": self.note,
            "seed": self.seed,
            "quantiles": {str(q): [f.quantiles((q,))[0].tolist() for f in self.futures] for q in QUANTILES},
            "ids": [f.id for f in self.futures],
            "out": None if self.path is None else str(self.path),
        }

    def table(self) -> dict[str, list[Any]]:
        """Columns: series, step (1 is the first after the past), mean, a quantile each, and what came."""
        columns: dict[str, list[Any]] = {name: [] for name in ("id", "step", "mean", *(f"q{q:g}" for q in QUANTILES), "truth")}
        for f in self.futures:
            columns["id"] += [f.id] * self.horizon
            columns["step"] += range(1, self.horizon + 1)
            columns["mean"] += f.draws.mean(0).tolist()
            for q, row in zip(QUANTILES, f.quantiles(), strict=True):
                columns[f"q{q:g}"] += row.tolist()
            columns["truth"] += [None] * self.horizon if f.truth is None else f.truth.tolist()
        return columns

    def picture(self, dpi: int = 110) -> Image.Image:
        """The first series: past, median, bands, and what came."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        shown = self.futures[:PANELS]
        across = min(len(shown), 2)
        down = -(-len(shown) // across)
        figure = Figure(figsize=(5.2 * across + 0.6, 2.5 * down + 0.8), layout="constrained", dpi=dpi)
        FigureCanvasAgg(figure)
        axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
        for axis, f in zip(axes, shown, strict=False):
            self._panel(axis, f)
        for axis in axes[len(shown) :]:
            axis.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
        return Image.open(file).convert("RGB")

    def _panel(self, axis: Any, f: Future) -> None:
        k = self.keep
        steps, levels = range(k, k + self.horizon), dict(zip(QUANTILES, f.quantiles(), strict=True))
        last = float(f.past[-1])
        joined = range(k - 1, k + self.horizon)
        for (low, high), shade in zip(BANDS, ("#cfe8e6", "#8fcdc8"), strict=True):
            axis.fill_between(
                joined,
                [last, *levels[low].tolist()],
                [last, *levels[high].tolist()],
                color=shade,
                linewidth=0,
                label=f"{high - low:.0%} band",
            )
        axis.plot(range(k), f.past, color="#444444", linewidth=1.2, label="past")
        axis.plot(joined, [last, *levels[0.5].tolist()], color="#12766f", linewidth=1.4, label="median")
        if f.truth is not None:
            axis.plot(steps, f.truth, color="#d1495b", linewidth=1.2, label="what came")
        axis.axvline(k - 0.5, color="#999999", linewidth=0.8, linestyle=":")
        axis.set_title(f.id, fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.margins(x=0.01)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)


def check_series(space: ImageSpace) -> None:
    """Raise InputError where images are no series."""
    if space.channels != 1 or space.height != 1 or space.width < 2:
        raise InputError(
            f"Forecasts are of series, images 1×1×W; this run is a model of {space}. Train one: pofx train pixelrnn series:FILE.csv --out RUN"
        )


def forecast(
    model: ImageModel,
    series: Images | Tensor,
    keep: int | None = None,
    *,
    train: Images | Tensor | None = None,
    scale: Scale | None = None,
    n: int = DRAWS,
    season: int | None = None,
    limit: int | None = LIMIT,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Forecast:
    """Draw futures of series, and score them against what came.

    Args:
        series: uint8 `(N, 1, 1, W)`; or `(N, 1, 1, keep)`, pasts alone: then nothing is scored.
        keep: values that are known; by default those that the run was trained to be told, else half of them.
        train: series `(M, 1, 1, W)` that baselines may learn from; None: only the seasonal-naive one is made.
        scale: what levels stand for; None: numbers are levels.
        n: futures of each series.
        season: of the seasonal-naive forecast, in steps, at most `keep`; None: the lag of the highest autocorrelation of `train`.
        limit: a fixed random choice of so many series; None: all.
        seed: series i of those chosen is forecast with seed + i.
        out: `.png` the first series with bands; `.csv`, `.parquet`, `.jsonl` the quantiles of all of them.

    Raises:
        CapabilityError: the model draws no images.
        InputError: these are no series; nothing kept, or all; a season longer than the past; a view that the series do not say.

    >>> from pofx.models.autoregressive.pixelrnn import PixelRNN
    >>> x = torch.arange(40, dtype=torch.uint8).reshape(5, 1, 1, 8) % 4
    >>> found = forecast(PixelRNN.small(ImageSpace(1, 1, 8, levels=4)), x, 6, n=10)
    >>> found.kind, found.futures[0].quantiles().shape, sorted(found.baselines)
    ('exact', torch.Size([5, 2]), ['seasonal-naive'])
    """
    path = None if out is None else check_out(out, SUFFIXES)
    space, view = model.space, model.given
    check_series(space)
    keep = (view.rows if isinstance(view, Top) else max(1, space.width // 2)) if keep is None else keep
    if not 1 <= keep < space.width:
        raise InputError(f"--keep {keep}: a series of this run has {space.width} values; keep 1 … {space.width - 1} of them.")
    if season is not None and not 1 <= season <= keep:
        raise InputError(f"--season {season}: the past has {keep} values; a season has 1 … {keep}. Keep more, or leave it out.")
    every = as_images(series)
    chosen = subset(every, limit, seed=seed)
    x, y = everything(chosen)
    if x.ndim != 4 or x.shape[1:3] != (1, 1) or x.shape[3] not in (keep, space.width):
        raise InputError(f"The series are uint8 (N, 1, 1, {space.width}), or (N, 1, 1, {keep}) of pasts; found {tuple(x.shape)}.")
    scored = x.shape[3] == space.width
    if not scored:
        x = torch.cat([x, x.new_zeros(len(x), 1, 1, space.width - keep)], 3)
    known = torch.zeros(space.shape, dtype=torch.bool)
    known[..., :keep] = True
    futures, last = [], None
    for i, name in enumerate(chosen.ids):
        label = None if y is None else y[i : i + 1]
        given = None if view is None or isinstance(view, Masked) else view.value(x[i : i + 1], label)
        last = complete(model, x[i : i + 1], known, given, n=n, seed=seed + i)
        values, own = values_of(last.images, scale), values_of(x[i], scale)
        truth = own[keep:] if scored else None
        futures.append(Future(name, own[:keep], values[:, keep:], truth, float(last.truth.nats) if last.truth and scored else None))
        if progress is not None:
            progress(i + 1, len(x))
    if last is None:
        raise InputError("There are no series to forecast; the set is empty.")
    learned = None if train is None else values_of(everything(subset(as_images(train), MEMBERS))[0], scale)
    season = season or (1 if learned is None else find_season(learned, keep))
    found = Forecast(
        futures=tuple(futures),
        kind=last.kind,
        method=last.method,
        keep=keep,
        horizon=space.width - keep,
        n=n,
        season=season,
        crps=None,
        baselines={},
        better_by={},
        coverage={},
        nats=None,
        nats_kind=None,
        of=len(every),
        units="levels" if scale is None else "units of the series",
        seed=seed,
        note=last.note,
        path=path,
    )
    if scored:
        found = _judged(found, learned, None if last.truth is None else last.truth.kind)
    if path is not None and path.suffix.lower() == ".png":
        with writing(path) as temporary:
            found.picture().save(temporary, format="PNG")
    elif path is not None:
        write_table(path, found.table(), {"keep": str(keep), "draws": str(n), "kind": found.kind})
    return found


def _judged(found: Forecast, train: Tensor | None, kind: str | None) -> Forecast:
    truth = torch.stack([f.truth for f in found.futures if f.truth is not None])
    draws, past = torch.stack([f.draws for f in found.futures]), torch.stack([f.past for f in found.futures])
    own = _over_steps(draws, truth)
    others = {name: _over_steps(b, truth) for name, b in baselines(past, found.horizon, found.season, train).items()}
    coverage = {}
    for low, high in BANDS:
        edges = draws.quantile(torch.tensor([low, high], dtype=torch.double), 1)
        coverage[f"{high - low:.2f}"] = float(((truth >= edges[0]) & (truth <= edges[1])).double().mean())
    nats = [f.nats for f in found.futures if f.nats is not None]
    return replace(
        found,
        crps=Mean.of(own),
        baselines={name: Mean.of(each) for name, each in others.items()},
        better_by={name: Mean.of(each - own) for name, each in others.items()},
        coverage=coverage,
        nats=Mean.of(torch.tensor(nats)) if nats else None,
        nats_kind=kind if nats else None,
    )


def _over_steps(draws: Tensor, truth: Tensor) -> Tensor:
    """CRPS of draws `(N, m, horizon)` and what came `(N, horizon)`, averaged over steps: `(N,)`."""
    return crps(draws.transpose(1, 2), truth).mean(1)


# Forecasts that cost nothing ------------------------------------------------------------------------------------------------------------------


def seasonal_naive(past: Tensor, horizon: int, season: int) -> Tensor:
    """The value one season ago, again and again: `(N, k)` → `(N, horizon)`.

    >>> seasonal_naive(torch.tensor([[1, 2, 3, 4]]), 3, 2).tolist()
    [[3, 4, 3]]
    """
    return past[:, past.shape[1] - season + torch.arange(horizon) % season]


def baselines(past: Tensor, horizon: int, season: int, train: Tensor | None = None) -> dict[str, Tensor]:
    """Forecasts as draws `(N, m, horizon)`, by name: of pasts `(N, k)`, and of what training series `(M, k + horizon)` were like."""
    point, k = seasonal_naive(past, horizon, season)[:, None], past.shape[1]
    found = {"seasonal-naive": point}
    if train is not None:
        found["seasonal-naive-residuals"] = point + (train[:, k:] - seasonal_naive(train[:, :k], horizon, season))[None]
        found["climatology"] = train[None, :, k:].expand(len(past), -1, -1)
    return found


def find_season(train: Tensor, longest: int) -> int:
    """The lag in 2 … `longest` where the autocorrelation of the series `(M, W)` first peaks as high as it does anywhere, at least at 0.3; else 1.

    >>> find_season(torch.sin(torch.arange(60.0) * 2 * torch.pi / 12)[None], 30)
    12
    """
    x = train - train.mean(1, keepdim=True)
    width, power = x.shape[1], float(x.square().mean())
    longest = min(longest, width // 2)
    if longest < 2 or power == 0:
        return 1
    r = [float((x[:, : width - s] * x[:, s:]).mean()) / power for s in range(1, min(longest + 2, width))]
    top = range(2, longest + 1)
    peaks = {s: r[s - 1] for s in top if r[s - 1] >= PERIODIC and r[s - 2] < r[s - 1] >= r[min(s, len(r) - 1)]}
    # Two seasons ago is as like as one: of peaks that are as high, the first
    return next((s for s, value in peaks.items() if value >= 0.9 * max(peaks.values())), 1)
