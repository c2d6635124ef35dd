"""Check associations and losses of incidents against known truth.

In:  --seeds, how many draws per line; fixed, so that two runs agree.
Out: a table with each figure, what it must reach, and whether it does; exit code 1 when one
     does not.

Peers in the same run: a plain Pearson test of every pair, and the same hours of last week.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from scipy import stats

from apm_analytics.business import association, impact
from apm_analytics.simulate import business
from apm_analytics.simulate.business import Related

START = datetime(2026, 1, 4)
MAX_LAG = 6
WEEK = 7 * business.WINDOWS_PER_DAY


@dataclass
class Table:
    """Lines of the result; `failed` counts those that miss."""

    failed: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, what: str, found: float, low: float, high: float, note: str = "") -> None:
        """Add a figure that must lie in [low, high]."""
        good = low <= found <= high
        self.failed += not good
        wanted = (
            f"{low:g} to {high:g}"
            if np.isfinite(low) and np.isfinite(high)
            else (f">= {low:g}" if np.isfinite(low) else f"<= {high:g}")
        )
        print(f"{what:64}{found:>9.4f}  {wanted:>14}  {'ok' if good else 'MISSED':8}{note}")

    def peer(self, what: str, found: float) -> None:
        """Add a figure of a peer, without a limit."""
        print(f"  {what:62}{found:>9.4f}")


def main() -> None:
    """Run every line and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    seeds = range(parser.parse_args().seeds)
    began = time.process_time()
    table = Table()
    nothing = float("-inf")
    null = _associations(business.related(s, leading=0) for s in seeds)
    table.add("association: false positives a pair, nothing is related", null.false, nothing, 0.01)
    table.peer("Pearson p < .05", null.peer_false)
    true = _associations(business.related(1000 + s) for s in seeds)
    table.add(f"association: recall at r = {true.r:.2f}", true.recall, 0.9, float("inf"))
    table.add("association: false discovery rate", true.fdr, nothing, 0.1)
    table.peer("Pearson p < .05: false discovery rate", true.peer_fdr)
    table.add("association: lag within 1 window", true.lag, 0.95, float("inf"))
    shocked = _associations(business.related(2000 + s, leading=0, shock=0.6) for s in seeds)
    table.add("association: false positives, all follow demand", shocked.false, nothing, 0.02)
    for name, with_control in (("control segment", True), ("hour of week", False)):
        for depth in (0.3, 0.0):
            cost = _losses(range(3 * len(seeds)), depth, with_control)
            label = f"impact by {name}, 2 h at -{depth:.0%}"
            table.add(f"{label}: 95 % interval holds the truth", cost.covered, 0.9, 0.99)
            if depth:
                table.add(f"{label}: mean absolute error / loss", cost.error, nothing, 0.15)
                table.peer("the same hours of last week", cost.peer_error)
                print(f"  {'median width of the interval / loss':62}{cost.width:>9.4f}")
    print(f"{time.process_time() - began:.0f} CPU s")
    sys.exit(1 if table.failed else 0)


@dataclass(frozen=True)
class Associations:
    """Return what a method finds, over all draws."""

    false: float
    recall: float
    fdr: float
    lag: float
    r: float
    peer_false: float
    peer_fdr: float


def _associations(draws: Iterable[Related]) -> Associations:
    found: list[pl.DataFrame] = []
    for number, draw in enumerate(draws):
        times = pl.datetime_range(
            START,
            START + timedelta(hours=len(draw.figure) - 1),
            interval="1h",
            time_unit="us",
            eager=True,
        )
        one = association.associate(
            pl.DataFrame({"time": times, "figure": draw.figure}),
            pl.DataFrame({"time": times, **draw.metrics}),
            pl.Series(draw.demand),
            max_lag=MAX_LAG,
        )
        lag = pl.col("metric").replace_strict(draw.lags, default=None, return_dtype=pl.Int64)
        peers = {
            name: stats.pearsonr(values, draw.figure).pvalue < 0.05
            for name, values in draw.metrics.items()
        }
        found.append(
            one.with_columns(
                draw=pl.lit(number),
                lag=lag,
                seen=pl.col("status") == association.ASSOCIATED,
                peer=pl.col("metric").replace_strict(peers, return_dtype=pl.Boolean),
            )
        )
    all_ = pl.concat(found)
    null, true = all_.filter(pl.col("lag").is_null()), all_.filter(pl.col("lag").is_not_null())
    hit = true.filter("seen")
    close = (hit["lag_s"] / 3600 - hit["lag"]).abs() <= 1
    by_draw = all_.group_by("draw").agg(
        ours=(pl.col("seen") & pl.col("lag").is_null()).sum() / pl.col("seen").sum().clip(1),
        peers=(pl.col("peer") & pl.col("lag").is_null()).sum() / pl.col("peer").sum().clip(1),
    )
    return Associations(
        false=_mean(null["seen"]),
        recall=_mean(true["seen"]),
        fdr=_mean(by_draw["ours"]),
        lag=_mean(close),
        r=_mean(true["r"].abs()),
        peer_false=_mean(null["peer"]),
        peer_fdr=_mean(by_draw["peers"]),
    )


@dataclass(frozen=True)
class Losses:
    """Compare estimated losses with the true ones."""

    covered: float
    error: float
    width: float
    peer_error: float


def _losses(seeds: range, depth: float, with_control: bool) -> Losses:
    covered, errors, widths, peers = [], [], [], []
    for seed in seeds:
        draw = business.cut(seed, depth=depth)
        times = pl.datetime_range(
            START,
            START + timedelta(minutes=5 * (len(draw.figure) - 1)),
            interval="5m",
            time_unit="us",
            eager=True,
        )
        found = impact.of_incident(
            pl.DataFrame({"time": times, "value": draw.figure}),
            START + timedelta(minutes=5 * draw.first),
            START + timedelta(minutes=5 * draw.last),
            control=pl.Series(draw.control) if with_control else None,
        ).impact
        covered.append(found.loss_lower <= draw.loss <= found.loss_upper)
        if depth:
            during = slice(draw.first, draw.last)
            before = slice(draw.first - WEEK, draw.last - WEEK)
            naive = float(draw.figure[before].sum() - draw.figure[during].sum())
            errors.append(abs(found.loss / draw.loss - 1))
            peers.append(abs(naive / draw.loss - 1))
            widths.append((found.loss_upper - found.loss_lower) / draw.loss)
    average: Callable[[list[float]], float] = lambda some: float(np.mean(some)) if some else 0.0  # noqa: E731
    return Losses(
        float(np.mean(covered)),
        average(errors),
        float(np.median(widths)) if widths else 0.0,
        average(peers),
    )


def _mean(values: pl.Series) -> float:
    return float(values.cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
