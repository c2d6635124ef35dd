"""`engines` in specs/signals.yaml, from the file to the bounds of the named series."""

from pathlib import Path

import polars as pl
import pytest
from telemetry import WINDOW_S, features

from apm_analytics.alerts.prometheus import signal_specs
from apm_analytics.baselines.training import engines, training
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadParameter

ENTRY = "{service: shop, operation: GET /, signal: rate, engine: prophet}"
NAMED = ("shop", "GET /", "rate")
LIBRARY = "prophet (library)"
PARAMS = settings.load().params.baselines
SERIES = ("service_name", "operation", "signal")


def write(folder: Path, *entries: str) -> Path:
    file = folder / "signals.yaml"
    file.write_text("signals: {}\nengines:\n" + "".join(f"  - {entry}\n" for entry in entries))
    return file


def test_the_named_series_are_read(tmp_path: Path) -> None:
    assert engines.load(write(tmp_path, ENTRY)) == {NAMED}
    assert engines.of_workspace(tmp_path / "nowhere") == frozenset()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([ENTRY.replace("prophet", "arima")], r"yaml:3: engines\.0\.engine: found 'arima'"),
        ([ENTRY.replace("rate", "saturation")], r"yaml:3: engines\.0\.signal: found 'saturation'"),
        ([ENTRY.replace(", engine: prophet", "")], r"yaml:3: engines\.0\.engine: field required"),
        ([ENTRY, ENTRY], r"yaml:4: engines\.1: .* has an engine already"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused_with_its_line(
    tmp_path: Path, entries: list[str], message: str
) -> None:
    with pytest.raises(BadParameter, match=message):
        engines.load(write(tmp_path, *entries))


def test_the_specs_of_the_workspace_take_engines(workspace: Path, tmp_path: Path) -> None:
    text = (workspace / "specs" / "signals.yaml").read_text()
    file = tmp_path / "signals.yaml"
    file.write_text(text.replace("engines: []", f"engines: [{ENTRY}]"))
    assert signal_specs.load(tmp_path).keys() == signal_specs.load(workspace / "specs").keys()
    file.write_text(text.replace("engines: []", "engines: [{engine: prophet}]"))
    with pytest.raises(BadParameter, match="service: field required"):
        signal_specs.load(tmp_path)


def train(frame: pl.DataFrame, *named: engines.Key) -> training.Trained:
    return training.train(frame, PARAMS, window_s=WINDOW_S, seed=7, by_library=named)


def test_only_the_named_series_changes_and_says_who_fitted_it() -> None:
    frame = pl.concat(
        [features(16, seed=seed, operation=name) for seed, name in ((1, "GET /"), (2, "GET /a"))]
    )
    without, with_engine = train(frame), train(frame, NAMED)
    named = pl.struct(SERIES) == pl.struct(
        *(pl.lit(part).alias(name) for part, name in zip(NAMED, SERIES, strict=True))
    )
    for name in ("bounds", "selection"):
        before, after = getattr(without, name), getattr(with_engine, name)
        order = [column for column in (*SERIES, "hour_of_week", "model") if column in after]
        assert after.filter(~named).sort(order).equals(before.filter(~named).sort(order))
    bounds = with_engine.bounds.filter(named)
    assert bounds["model"].unique().to_list() == [LIBRARY] and len(bounds) == 168
    assert LIBRARY not in without.bounds["model"].to_list()
    before = without.bounds.filter(named)
    assert bounds["expected"].sort().to_list() == pytest.approx(
        before["expected"].sort().to_list(), rel=0.2
    )
    chosen = with_engine.selection.filter(named, pl.col("chosen"))
    assert chosen["model"].to_list() == [LIBRARY]
    assert "set in specs/signals.yaml" in chosen["reason"][0]
    assert with_engine.scores.filter(named)["model"].unique().to_list() == [LIBRARY]
    again = train(frame, NAMED)
    assert again.bounds.equals(with_engine.bounds)


def test_an_engine_without_its_series_or_its_season_is_listed_with_the_reason() -> None:
    trained = train(features(2, seed=1), NAMED, ("shop", "GET /gone", "rate"))
    listed = {row["operation"]: row for row in trained.skipped.filter(signal="rate").to_dicts()}
    assert listed["GET /gone"]["outcome"] == "skipped"
    assert "unknown series" in listed["GET /gone"]["reason"]
    assert listed["GET /"]["outcome"] == "no season"
    assert listed["GET /"]["reason"].endswith("takes effect with a season")
    assert trained.bounds.filter(signal="rate")["model"].unique().to_list() == ["robust"]
