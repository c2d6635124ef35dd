"""Read the results of a training run: frames, metrics, cards, and a summary.

In:  derived/ and models/ of a run.
Out: frames, tables, Markdown.
"""

import html
import json
from pathlib import Path
from typing import Any

import polars as pl
from IPython.display import Markdown

from apm_analytics.charts import words
from apm_analytics.foundation.errors import NotEnoughData, NotFound
from apm_analytics.foundation.frames import read_parquet
from apm_analytics.foundation.settings import Params

# Thresholds that moved by a smaller factor count as unchanged.
MOVED = 1.10
SERIES = ["service_name", "operation", "signal"]


def frame(derived: Path, name: str) -> pl.DataFrame:
    """Read one of derived/: features, scores, bounds or skipped.

    Raises
    ------
    NotFound
        It is not there: nothing was trained yet.
    """
    file = derived / f"{name}.parquet"
    if not file.exists():
        raise NotFound(f"no {file}; train first: `apm nightly` or `dvc repro`")
    return read_parquet(file)


def frame_if_there(derived: Path, name: str) -> pl.DataFrame | None:
    """Read one of derived/; None where nothing was trained yet."""
    file = derived / f"{name}.parquet"
    return read_parquet(file) if file.exists() else None


def frame_before(release: Path) -> pl.DataFrame | None:
    """Read the thresholds that a release holds; None when it holds none yet."""
    file = release / "thresholds.parquet"
    return read_parquet(file) if file.exists() else None


def summary(
    features: pl.DataFrame, bounds: pl.DataFrame, skipped: pl.DataFrame, params: Params
) -> Markdown:
    """Summarise the length of the history, the models trained, and the series skipped.

    Raises
    ------
    NotEnoughData
        There is not one window.
    """
    first: Any = features["time"].min()
    last: Any = features["time"].max()
    if first is None:
        raise NotEnoughData("the features hold no window; import more telemetry and train again")
    covered = (last - first).total_seconds() + params.features.window_s
    needed = params.baselines.min_season_days
    models = series_by_model(bounds).group_by("model").agg(pl.col("series").sum()).sort("model")
    learned = " and ".join(f"{words.count(count)} {model}" for model, count in models.rows())
    text = f"The history covers {words.span(covered)}. Series with a baseline: {learned or 'none'}."
    if covered < needed * 86_400:
        text += (
            f" That is less than {needed:g} days, so no season could be learned: "
            "all bounds are the same at every hour of the week."
        )
    without = skipped.filter(outcome="skipped").height
    if without:
        text += f" {words.count(without)} series could not be learned from and have none."
    return Markdown(text)  # type: ignore[no-untyped-call]


def series_by_model(bounds: pl.DataFrame) -> pl.DataFrame:
    """Count the series of each signal and model."""
    return (
        bounds.select(*SERIES, "model")
        .unique()
        .group_by("signal", "model")
        .agg(series=pl.len())
        .sort("signal", "model")
    )


def metrics(models: Path) -> pl.DataFrame:
    """Read models/metrics.json as a table: one row per group of numbers, one column per metric.

    Raises
    ------
    NotFound
        It is not there: nothing was evaluated yet.
    """
    file = models / "metrics.json"
    if not file.exists():
        raise NotFound(f"no {file}; train first: `apm nightly` or `dvc repro`")
    rows = _groups("", json.loads(file.read_text()))
    return pl.DataFrame(rows, infer_schema_length=None)


def cards(models: Path) -> Markdown:
    """Return the model cards, each in a collapsible section."""
    parts = []
    for file in sorted(models.glob("*/card.md")):
        title, _, body = file.read_text(encoding="utf-8").strip().partition("\n")
        title = html.escape(title.lstrip("# "))
        parts.append(f"<details>\n<summary>{title}</summary>\n\n{body.strip()}\n\n</details>")
    return Markdown("\n\n".join(parts) or "There are no model cards yet.")  # type: ignore[no-untyped-call]


def moved(changes: pl.DataFrame, factor: float = MOVED) -> pl.DataFrame:
    """Return the rows of `alerts.thresholds.changes` that moved by `factor` or more, most first."""
    ratio = pl.col("ratio")
    return (
        changes.filter(pl.col("change") == "kept")
        .filter((ratio >= factor) | (ratio <= 1 / factor) | ratio.is_null())
        .sort(ratio.log().abs(), *SERIES, "bound", descending=[True, *[False] * 4], nulls_last=True)
    )


def _groups(path: str, value: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per object that holds numbers, with its path."""
    numbers = {name: float(item) for name, item in value.items() if isinstance(item, int | float)}
    rows: list[dict[str, Any]] = [{"of": path or "all", **numbers}] if numbers else []
    for name, item in value.items():
        if isinstance(item, dict):
            rows += _groups(f"{path} / {name}" if path else name, item)
    return rows
