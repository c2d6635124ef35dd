"""Model cards: what a model is, its training data, its quality and its limits.

In:  provenance, snapshot, params, metrics, and what was trained or skipped.
Out: Markdown, for models/<model>/card.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from apm_analytics.baselines.training.evaluate import Evaluation
from apm_analytics.baselines.training.fleet import MENDED, NO_SEASON, SKIPPED
from apm_analytics.foundation.provenance import Provenance
from apm_analytics.foundation.settings import BaselineParams
from apm_analytics.signals import SIGNALS

# A card names this many skipped series; derived/skipped.parquet has them all.
SHOWN = 20


@dataclass(frozen=True)
class Training:
    """The training run that a card describes.

    Parameters
    ----------
    snapshot : derived/snapshot.json.
    selection : derived/selection.parquet.
    skipped : derived/skipped.parquet.
    flagged : columns signal, model, n_series, flagged (share of the history with score > 1).
    """

    provenance: Provenance
    snapshot: Mapping[str, Any]
    params: BaselineParams
    evaluation: Evaluation
    selection: pl.DataFrame
    skipped: pl.DataFrame
    flagged: pl.DataFrame


def baselines_card(training: Training) -> str:
    """Describe the baselines of single signals: which models compete, which won, their limits."""
    params = training.params
    single = training.skipped.filter(pl.col("signal").is_in(list(SIGNALS)))
    return _page(
        "Baselines",
        [
            "Expected value and bounds of p95 latency, request rate and error ratio, one model "
            "per service and operation: the one of Prophet (linear trend, daily and weekly "
            "season), quantile profiles by time of day and of week, seasonal naive and plain "
            f"robust bounds that forecast the last {params.backtest_days} days best, one day at a "
            "time. None that loses to seasonal naive is published. Models are fitted to medians "
            f"of {params.fit_grid_s} s on a variance-stabilising scale. The bounds are empirical "
            "quantiles of the errors on days the model had not seen, meant to hold "
            f"{params.level:.2%} of quiet windows; windows that look like incidents are masked "
            "before. A history too short or too even for a season gets the median +- "
            f"{params.robust_deviations:g} robust standard deviations, the same in all hours.",
            f"**Season:** {training.snapshot['note']}",
        ],
        training,
        {
            "Which models won": _selection(training.selection),
            "Metrics on held-out days": _metrics_table(training.evaluation),
            "Share of the history outside the bounds": _flagged(training, list(SIGNALS)),
            "Limits": "\n".join(
                (
                    "- The bounds are those of the coming week, tested a day ahead; a trend is "
                    "carried on in a straight line.",
                    "- Holidays and one-off campaigns are not known and will look odd.",
                    "- A new level (a deployment) counts as an incident for about three days; "
                    "after a tenth of the history it is learned.",
                    "- With few requests a window, p95 is close to the maximum and one failure "
                    "is a large ratio: bounds are wide there, by hour of the week, and hold more "
                    "windows than was asked for.",
                    "- The held-out days contain their incidents; coverage counts them as misses, "
                    "coverage of quiet windows does not.",
                )
            ),
            "Series without a season, and why": _series_list(single.filter(outcome=NO_SEASON)),
            "Series that were corrected before training": _series_list(
                single.filter(outcome=MENDED)
            ),
            "Skipped series": _series_list(single.filter(outcome=SKIPPED)),
        },
    )


def forest_card(training: Training) -> str:
    """Describe the forests over the three signals of an operation together."""
    params = training.params
    skipped = training.skipped.filter(~pl.col("signal").is_in(list(SIGNALS)))
    measured = training.evaluation.metrics.get("forest", {}).get("together")
    return _page(
        "Isolation forests",
        [
            "One isolation forest per service and operation over p95 latency, rate, error ratio "
            "and, where the service reports it, saturation together, as distances from their "
            "expected values, 1 at the bound, "
            f"and the length of them ({params.forest_trees} trees). A score above 1 means "
            f"anomalous: {params.forest_contamination:.2%} of the quiet windows of the history "
            "are above it. A signal without a value counts as expected.",
        ],
        training,
        {
            "Metrics on held-out days": (
                f"{measured['flagged']:.3%} of the windows of {measured['n_series']} operations "
                "scored above 1, incidents included."
                if measured
                else "None: no operation had enough windows."
            ),
            "Share of the history above 1": _flagged(training, ["together"]),
            "Limits": "\n".join(
                (
                    "- It inherits the limits of the baselines that its deviations come from.",
                    "- A lone odd signal is better seen by its own baseline; the forest is for "
                    "several that are a little odd at once.",
                    "- It makes no thresholds: it ranks windows for a reader, Prometheus does "
                    "not see it.",
                )
            ),
            "Skipped operations": _series_list(skipped),
        },
    )


def _page(title: str, abstract: list[str], training: Training, sections: Mapping[str, str]) -> str:
    provenance, snapshot = training.provenance, training.snapshot
    params = training.params.model_dump()
    parts = [
        f"# {title}",
        *abstract,
        "## Trained",
        "\n".join(
            (
                "| | |",
                "|---|---|",
                f"| when | {provenance.trained_at:%Y-%m-%d %H:%M} UTC |",
                f"| run | `{provenance.run_id}` |",
                f"| code | `{provenance.git_commit}` |",
                f"| data | `{provenance.data_hash}` |",
                f"| params | `{provenance.params_hash}` |",
                f"| period | {snapshot['first_time']} to {snapshot['last_time']} UTC, "
                f"{snapshot['history_days']} days |",
                f"| evaluated | {training.evaluation.note} |",
            )
        ),
        "## Params",
        "\n".join(("```yaml", *(f"{key}: {value}" for key, value in params.items()), "```")),
    ]
    for heading, text in sections.items():
        parts += [f"## {heading}", text]
    return "\n\n".join(parts) + "\n"


def _selection(selection: pl.DataFrame) -> str:
    if selection.is_empty():
        return "No series has a history long enough for a backtest."
    lines = [
        "Errors are those of the seasonal naive forecast within the history times this: mean "
        "absolute, of error ratios root mean square. Coverage is of bounds that had not seen the "
        "day.",
        "",
        "| model | signal | series won | scaled error | pinball | coverage |",
        "|---|---|---|---|---|---|",
    ]
    summed = selection.group_by("signal", "model").agg(
        pl.col("chosen").sum(), pl.col("scaled_error", "pinball", "coverage").mean()
    )
    lines += [
        f"| {row['model']} | {row['signal']} | {row['chosen']} | {row['scaled_error']:.3f} "
        f"| {row['pinball']:.4f} | {row['coverage']:.4f} |"
        for row in summed.drop_nulls().sort("signal", "scaled_error", "model").iter_rows(named=True)
    ]
    return "\n".join(lines)


def _metrics_table(evaluation: Evaluation) -> str:
    lines = [
        "`published` is what the thresholds come from, below it by the model that a series got.",
        "",
        "| model | signal | series | coverage | when quiet | worst | MAE | MAPE | width | unit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, signals in evaluation.metrics.items():
        for signal, measured in signals.items():
            if signal not in SIGNALS:
                continue
            mape = f"{measured['mape']:.1%}" if "mape" in measured else ""
            lines.append(
                f"| {model} | {signal} | {measured['n_series']} | {measured['coverage']:.4f} "
                f"| {measured.get('coverage_quiet', float('nan')):.4f} "
                f"| {measured['coverage_worst']:.4f} | {measured['mae']:.4g} | {mape} "
                f"| {measured['width']:.4g} | {SIGNALS[signal].unit} |"
            )
    return "\n".join(lines)


def _flagged(training: Training, signals: list[str]) -> str:
    lines = ["| model | signal | series | share |", "|---|---|---|---|"]
    lines += [
        f"| {row['model']} | {row['signal']} | {row['n_series']} | {row['flagged']:.3%} |"
        for row in training.flagged.iter_rows(named=True)
        if row["signal"] in signals
    ]
    return "\n".join(lines)


def _series_list(series: pl.DataFrame) -> str:
    if series.is_empty():
        return "None."
    lines = [
        f"- {row['service_name']} / {row['operation']} / {row['signal']}: {row['reason']}"
        for row in series.head(SHOWN).iter_rows(named=True)
    ]
    if len(series) > SHOWN:
        lines.append(f"- and {len(series) - SHOWN} more")
    return "\n".join(lines)
