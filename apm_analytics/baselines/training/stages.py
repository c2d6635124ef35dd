"""The first four stages of dvc.yaml, which a run outside DVC calls directly.

In:  a lake, and the files of the previous stage.
Out: derived/ (snapshot, features, bounds, scores, skipped, selection, plots) and models/
     (parameters, forests, cards, metrics). Every file is written atomically.

snapshot and features train nothing: they do not import the models, which costs 4 s of CPU.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from apm_analytics.baselines.models import store
from apm_analytics.baselines.training import registry
from apm_analytics.baselines.training.fleet import SKIPPED
from apm_analytics.foundation import settings as settings_of
from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import ApmError, NotEnoughData, NotFound
from apm_analytics.foundation.frames import read_parquet
from apm_analytics.foundation.provenance import current_provenance, read_run, write_run
from apm_analytics.foundation.settings import Settings
from apm_analytics.lake import query, snapshots
from apm_analytics.signals import OPERATION, operations, saturation

if TYPE_CHECKING:
    from apm_analytics.baselines.training.evaluate import Evaluation

Stage = Callable[[Path, Path, Path, Settings, str | None, bool], str]
SNAPSHOT = "snapshot.json"
FEATURES = "features.parquet"
SATURATION = "saturation.parquet"
PLOTS = "plots"
SECONDS_PER_DAY = 86_400.0


def snapshot(
    lake: Path, derived: Path, models: Path, settings: Settings, run_id: str | None, progress: bool
) -> str:
    """Write derived/snapshot.json: what the lake holds, with a hash that later stages depend on.

    Raises
    ------
    NotFound
        No lake there.
    NotEnoughData
        It holds no spans.
    """
    status = {row["table"]: row for row in snapshots.status(lake).iter_rows(named=True)}
    spans = status["spans"]
    if not spans["rows"]:
        raise NotEnoughData(f"the lake {lake} holds no spans; run `apm import` first")
    held: timedelta = spans["last_time"] - spans["first_time"]
    days = min(held.total_seconds() / SECONDS_PER_DAY, settings.params.snapshot.history_days)
    content = {
        "lake": str(lake),
        "data_hash": snapshots.data_hash(lake),
        "first_time": spans["first_time"].isoformat(),
        "last_time": spans["last_time"].isoformat(),
        "rows": {table: row["rows"] for table, row in status.items()},
        "history_days": round(days, 4),
        "note": _season_note(days, settings.params.baselines.min_season_days),
    }
    _write_json(derived / SNAPSHOT, content)
    return f"snapshot: {spans['rows']} spans over {days:.2f} days; {content['note']}"


def features(
    lake: Path, derived: Path, models: Path, settings: Settings, run_id: str | None, progress: bool
) -> str:
    """Write derived/features.parquet (rate, errors, duration) and saturation.parquet."""
    params = settings.params
    last = datetime.fromisoformat(_read_json(derived / SNAPSHOT)["last_time"])
    since = last - timedelta(days=params.snapshot.history_days)
    with query.connect(lake) as con:
        measured = operations.features(
            con,
            window_s=params.features.window_s,
            min_requests=params.features.min_requests,
            retired_after_days=params.features.retired_after_days,
            since=since,
        )
        saturated = saturation.saturation(con, window_s=params.features.window_s, since=since)
    store.write_frame(measured, derived / FEATURES)
    store.write_frame(saturated, derived / SATURATION)
    return (
        f"features: {len(measured)} windows of {measured.select(OPERATION).n_unique()} operations, "
        f"saturation of {saturated['service_name'].n_unique()} services"
    )


def train(
    lake: Path, derived: Path, models: Path, settings: Settings, run_id: str | None, progress: bool
) -> str:
    """Write models/ and derived/bounds, scores, skipped and contributions."""
    from apm_analytics.baselines.detection import forest
    from apm_analytics.baselines.training import engines, masks, training

    content = _read_json(derived / SNAPSHOT)
    provenance = current_provenance(settings.workspace, content["data_hash"], run_id)
    history = _read_features(derived)
    trained = training.train(
        history,
        settings.params.baselines,
        window_s=settings.params.features.window_s,
        seed=settings.params.seed,
        masked=masks.of_workspace(history, settings),
        saturation=read_parquet(derived / SATURATION),
        by_library=engines.of_workspace(settings.workspace),
        progress=progress,
    )
    registry.keep(trained.fleets, models, provenance, keep_runs=settings.params.baselines.keep_runs)
    forest.save(trained.forests, models)
    for name in training.FRAMES:
        store.write_frame(getattr(trained, name), derived / f"{name}.parquet")
    write_run(models, provenance)
    kinds = Counter(model for one in trained.fleets for model in [one.model] * len(one))
    counts = ", ".join(f"{count} {model}" for model, count in kinds.most_common())
    skipped = trained.skipped.filter(outcome=SKIPPED)
    return f"train: {counts}, {len(trained.forests)} forests, {len(skipped)} skipped"


def evaluate(
    lake: Path, derived: Path, models: Path, settings: Settings, run_id: str | None, progress: bool
) -> str:
    """Write models/metrics.json, the model cards and derived/plots/*.csv."""
    from apm_analytics.baselines.detection.together import FOREST
    from apm_analytics.baselines.training import cards, engines, masks
    from apm_analytics.baselines.training import evaluate as evaluation

    params = settings.params
    history = _read_features(derived)
    result = evaluation.evaluate(
        history,
        params.baselines,
        window_s=params.features.window_s,
        seed=params.seed,
        masked=masks.of_workspace(history, settings),
        saturation=read_parquet(derived / SATURATION),
        by_library=engines.of_workspace(settings.workspace),
        progress=progress,
    )
    content = _read_json(derived / SNAPSHOT)
    skipped = read_parquet(derived / "skipped.parquet")
    flagged = _flagged(read_parquet(derived / "scores.parquet"))
    selection = read_parquet(derived / "selection.parquet")
    described = cards.Training(
        provenance=read_run(models),
        snapshot=content,
        params=params.baselines,
        evaluation=result,
        selection=selection,
        skipped=skipped,
        flagged=flagged,
    )
    write_atomic(models / "baselines" / "card.md", cards.baselines_card(described).encode())
    write_atomic(models / FOREST / "card.md", cards.forest_card(described).encode())
    _write_json(models / "metrics.json", _metrics(content, result, selection, skipped, flagged))
    _write_plots(derived / PLOTS, result, selection)
    return f"evaluate: {result.note}"


def main(stage: Stage) -> None:
    """Run one stage as a command: parse, call, print; an error of ours ends with code 1."""

    @click.command(help=stage.__doc__)
    @click.option("--lake", type=click.Path(path_type=Path), default=Path("data/lake"))
    @click.option("--derived", type=click.Path(path_type=Path), default=Path("data/derived"))
    @click.option("--models", type=click.Path(path_type=Path), default=Path("models"))
    @click.option("--run-id", envvar="APM_RUN_ID", help="Of the run that trains.")
    @click.option("--progress/--no-progress", default=sys.stderr.isatty)
    def command(
        lake: Path, derived: Path, models: Path, run_id: str | None, progress: bool
    ) -> None:
        try:
            click.echo(stage(lake, derived, models, settings_of.load(), run_id, progress))
        except ApmError as error:
            click.echo(f"{stage.__name__}: {error}", err=True)
            sys.exit(1)

    command()


def _season_note(days: float, needed: float) -> str:
    if days >= needed:
        return f"{days:.1f} days of history: daily and weekly seasons are learned."
    held = f"{days * 24:.1f} hours" if days < 2 else f"{days:.1f} days"
    return (
        f"{held} of history, a season needs {needed:g} days (baselines.min_season_days): "
        "no season is learned, the bounds are robust ones, the same in every hour of the week."
    )


def _metrics(
    content: dict[str, Any],
    evaluation: "Evaluation",
    selection: pl.DataFrame,
    skipped: pl.DataFrame,
    flagged: pl.DataFrame,
) -> dict[str, Any]:
    """Nest the numbers that `dvc metrics diff` compares."""
    shares: dict[str, dict[str, dict[str, float]]] = {}
    for row in flagged.iter_rows(named=True):
        shares.setdefault(row["model"], {})[row["signal"]] = {
            "n_series": row["n_series"],
            "flagged": float(f"{row['flagged']:.6g}"),
        }
    return {
        "history": {
            "days": content["history_days"],
            "holdout_days": round(evaluation.holdout_days, 4),
            "skipped": len(skipped.filter(outcome=SKIPPED)),
            "note": content["note"],
        },
        "backtest": _backtest(selection),
        "holdout": evaluation.metrics,
        "trained": shares,
    }


def _backtest(selection: pl.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean errors and series won: model -> signal -> numbers."""
    summed = (
        selection.group_by("model", "signal")
        .agg(
            pl.len().alias("n_series"),
            pl.col("chosen").sum().alias("won"),
            pl.col("scaled_error", "pinball", "coverage").mean(),
        )
        .sort("model", "signal")
    )
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for row in summed.iter_rows(named=True):
        numbers = {
            name: value if isinstance(value, int) else float(f"{value:.6g}")
            for name, value in row.items()
            if name not in {"model", "signal"} and value is not None
        }
        nested.setdefault(row["model"], {})[row["signal"]] = numbers
    return nested


def _flagged(scores: pl.DataFrame) -> pl.DataFrame:
    """Return the share of windows with a score above 1, by signal and model."""
    return (
        scores.group_by("signal", "model")
        .agg(
            pl.struct(OPERATION).n_unique().alias("n_series"),
            (pl.col("score") > 1.0).mean().fill_null(0.0).alias("flagged"),
        )
        .sort("model", "signal")
    )


def _write_plots(folder: Path, evaluation: "Evaluation", selection: pl.DataFrame) -> None:
    """Write one CSV per plot of dvc.yaml; it is empty for a signal without series."""
    from apm_analytics.baselines.training.evaluate import FORECAST_SCHEMA

    errors = (
        selection.group_by("model").agg(pl.col("scaled_error").mean()).sort("scaled_error", "model")
    )
    store.write_csv(errors, folder / "backtest.csv")
    for signal in operations.SIGNALS:
        coverage = (
            evaluation.scored.filter(signal=signal)
            .select(pl.concat_str(OPERATION, separator=" ").alias("series"), "coverage", "mae")
            .sort("coverage", "series")
        )
        store.write_csv(coverage, folder / f"coverage_{signal}.csv")
        empty = pl.DataFrame(schema=FORECAST_SCHEMA)
        store.write_csv(evaluation.forecasts.get(signal, empty), folder / f"forecast_{signal}.csv")


def _read_features(derived: Path) -> pl.DataFrame:
    file = derived / FEATURES
    if not file.exists():
        raise NotFound(f"no features at {file}; run the stage before: dvc repro features")
    return read_parquet(file)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise NotFound(f"no {file}; run the stage before: dvc repro {file.stem}")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_atomic(file, json.dumps(content, indent=2).encode() + b"\n")
