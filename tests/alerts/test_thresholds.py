"""Bounds become thresholds, whole and traceable; publishing them is all or nothing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import publishing
import pytest
from bounds_frames import OPERATIONS, make_bounds, make_provenance

from apm_analytics.alerts import publication, thresholds
from apm_analytics.foundation.errors import ApmError, BadInput, NotEnoughData, NotFound

RUN_ID = "20261123T020000Z-4f2a"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return publication.begin(tmp_path, RUN_ID)


@pytest.fixture
def no_promtool(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip promtool in tests that do not need it: it takes three seconds."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("nothing")))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def spoil(**changed: object) -> pl.DataFrame:
    """Bounds where hour 5 of the rate of POST /checkout has other values."""
    here = (
        (pl.col("operation") == "POST /checkout")
        & (pl.col("signal") == "rate")
        & (pl.col("hour_of_week") == 5)
    )
    return make_bounds().with_columns(
        pl.when(here).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in changed.items()
    )


def test_each_signal_gets_the_bounds_that_are_watched_for_every_hour() -> None:
    frame = thresholds.thresholds(make_bounds(), make_provenance())
    assert frame.schema == pl.Schema(thresholds.COLUMNS)
    watched = frame.group_by("signal", "bound").agg(pl.len()).sort("signal", "bound")
    hours = 168 * len(OPERATIONS)
    assert watched.rows() == [
        ("error_ratio", "upper", hours),
        ("latency_p95", "upper", hours),
        ("rate", "lower", hours),
        ("rate", "upper", hours),
    ]


def test_a_threshold_is_the_bound_of_its_hour_with_its_provenance() -> None:
    bounds = make_bounds()
    row = (
        thresholds.thresholds(bounds, make_provenance(RUN_ID))
        .filter(
            pl.col("service_name") == "cart",
            pl.col("signal") == "rate",
            pl.col("bound") == "lower",
            pl.col("hour_of_week") == 30,
        )
        .row(0, named=True)
    )
    source = bounds.filter(
        pl.col("service_name") == "cart",
        pl.col("signal") == "rate",
        pl.col("hour_of_week") == 30,
    ).row(0, named=True)
    assert (row["value"], row["expected"]) == (source["lower"], source["expected"])
    assert (row["run_id"], row["git_commit"], row["data_hash"]) == (
        RUN_ID,
        "0123abc-dirty",
        "sha256:feed",
    )


def test_the_training_time_is_kept_in_utc_whatever_its_zone() -> None:
    there = datetime(2026, 11, 23, 4, 0, tzinfo=timezone(timedelta(hours=2)))
    frame = thresholds.thresholds(make_bounds(), make_provenance(trained_at=there))
    assert frame["trained_at"][0] == datetime(2026, 11, 23, 2, 0)


@pytest.mark.parametrize("column", ["lower", "upper", "expected"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, None])
def test_a_bound_that_is_no_number_or_negative_is_refused_with_its_series(
    column: str, value: float | None
) -> None:
    bounds = spoil(**{column: value})
    with pytest.raises(BadInput, match=r"checkout/POST /checkout/rate.* hour_of_week=5"):
        thresholds.thresholds(bounds, make_provenance())


def test_a_lower_bound_above_the_upper_one_is_refused_with_its_series() -> None:
    with pytest.raises(BadInput, match=r"lower bound above .*POST /checkout/rate hour_of_week=5"):
        thresholds.thresholds(spoil(lower=5.0, upper=4.0), make_provenance())


def test_a_bound_that_nobody_watches_may_be_anything() -> None:
    bounds = make_bounds().with_columns(
        lower=pl.when(pl.col("signal") == "rate").then("lower").otherwise(-1.0)
    )
    assert len(thresholds.thresholds(bounds, make_provenance()))


@pytest.mark.parametrize("hour", [6, 168, -1, None])
def test_missing_doubled_or_impossible_hours_are_refused_with_the_series(hour: int | None) -> None:
    bounds = spoil(hour_of_week=hour)
    with pytest.raises(BadInput, match=r"hours 0 to 167.*checkout/POST /checkout/rate"):
        thresholds.thresholds(bounds, make_provenance())


def test_many_faults_are_named_in_part_and_counted() -> None:
    operations = [("shop", f"GET /{n}") for n in range(9)]
    bounds = make_bounds(operations).filter(pl.col("hour_of_week") != 3)
    with pytest.raises(BadInput, match=r"36 series with .* and 33 more"):
        thresholds.thresholds(bounds, make_provenance())


def test_a_missing_column_an_unknown_signal_and_no_rows_are_refused() -> None:
    with pytest.raises(BadInput, match=r"no column \['upper'\]"):
        thresholds.thresholds(make_bounds().drop("upper"), make_provenance())
    odd = make_bounds().with_columns(signal=pl.lit("apdex"))
    with pytest.raises(BadInput, match=r"\['apdex'\]"):
        thresholds.thresholds(odd, make_provenance())
    with pytest.raises(NotEnoughData, match=r"skipped\.parquet"):
        thresholds.thresholds(make_bounds().clear(), make_provenance())


def test_publish_writes_thresholds_textfile_rules_and_tests_that_promtool_passes(
    release: Path, workspace: Path, server_binary: Callable[[str], Path]
) -> None:
    server_binary("promtool")
    frame = thresholds.thresholds(make_bounds(), make_provenance(RUN_ID))
    publishing.publish(frame, release, workspace / "specs")
    written = files(release)
    assert set(written) == {
        "thresholds.parquet",
        "prometheus/apm_thresholds.prom",
        "prometheus/rules/apm_slo.yml",
        "prometheus/rules/apm_thresholds.yml",
        "prometheus/tests/apm_slo_test.yml",
        "prometheus/tests/apm_thresholds_test.yml",
        "prometheus/tests/apm_week_test.yml",
    }
    assert pl.read_parquet(release / "thresholds.parquet").equals(frame)
    for name, content in written.items():
        assert RUN_ID.encode() in content, name


@pytest.mark.usefixtures("no_promtool")
def test_the_same_thresholds_publish_the_same_bytes_in_any_order(
    release: Path, workspace: Path
) -> None:
    frame = thresholds.thresholds(make_bounds(), make_provenance())
    publishing.publish(frame, release, workspace / "specs")
    first = files(release)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=3)
    publishing.publish(shuffled, release, workspace / "specs")
    assert files(release) == first


@pytest.mark.usefixtures("no_promtool")
def test_other_users_may_read_what_is_published(release: Path, workspace: Path) -> None:
    frame = thresholds.thresholds(make_bounds(), make_provenance())
    publishing.publish(frame, release, workspace / "specs")
    prom = release / "prometheus" / "apm_thresholds.prom"
    plain = release / "plain"
    plain.touch()
    assert prom.stat().st_mode == plain.stat().st_mode


@pytest.mark.usefixtures("no_promtool")
def test_without_promtool_publishing_says_that_nobody_checked(
    release: Path, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = thresholds.thresholds(make_bounds(), make_provenance())
    publishing.publish(frame, release, workspace / "specs")
    assert "promtool is not on PATH" in caplog.text


@pytest.mark.usefixtures("no_promtool")
@pytest.mark.parametrize(
    ("age", "message"),
    [
        (timedelta(hours=36, seconds=1), r"36\.0 h ago, and may be at most 36 h"),
        (timedelta(hours=-1), r"1\.0 h in the future"),
    ],
)
def test_bounds_from_too_long_ago_or_the_future_are_refused(
    release: Path, workspace: Path, age: timedelta, message: str
) -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    frame = thresholds.thresholds(make_bounds(), make_provenance(trained_at=now - age))
    with pytest.raises(ApmError, match=message):
        publishing.publish(frame, release, workspace / "specs", now=now)
    assert files(release) == {}
    younger = thresholds.thresholds(
        make_bounds(), make_provenance(trained_at=now - timedelta(hours=36))
    )
    publishing.publish(younger, release, workspace / "specs", now=now)


@pytest.mark.usefixtures("no_promtool")
def test_thresholds_of_two_runs_another_unit_or_no_release_are_refused(
    release: Path, workspace: Path
) -> None:
    when = datetime.now(UTC)
    frame = thresholds.thresholds(make_bounds(), make_provenance("a", when))
    other = thresholds.thresholds(make_bounds([("x", "y")]), make_provenance("b", when))
    with pytest.raises(BadInput, match=r"run_ids \['a', 'b'\]"):
        publishing.publish(pl.concat([frame, other]), release, workspace / "specs")
    milliseconds = frame.with_columns(
        unit=pl.when(pl.col("signal") == "latency_p95").then(pl.lit("ms")).otherwise("unit")
    )
    with pytest.raises(BadInput, match=r"latency_p95 are in 'ms', signals\.yaml says 's'"):
        publishing.publish(milliseconds, release, workspace / "specs")
    with pytest.raises(NotFound, match=r"publication\.begin"):
        publishing.publish(frame, release / "nowhere", workspace / "specs")


def test_rules_that_promtool_refuses_leave_the_release_as_it_was(
    release: Path, workspace: Path, tmp_path: Path, server_binary: Callable[[str], Path]
) -> None:
    server_binary("promtool")
    (release / "prometheus").mkdir()
    (release / "prometheus" / "apm_thresholds.prom").write_text("yesterday")
    text = (workspace / "specs" / "signals.yaml").read_text()
    specs = tmp_path / "signals.yaml"
    specs.write_text(text.replace("histogram_quantile(0.95,", "histogram_quantile(0.95"))
    frame = thresholds.thresholds(make_bounds(), make_provenance())
    with pytest.raises(ApmError, match=r"(?s)promtool check rules refuses .*parse error"):
        publishing.publish(frame, release, specs)
    assert files(release) == {"prometheus/apm_thresholds.prom": b"yesterday"}


def test_changes_tell_kept_new_and_gone_series_with_their_medians() -> None:
    before = thresholds.thresholds(make_bounds(OPERATIONS[:2]), make_provenance())
    after = thresholds.thresholds(
        make_bounds(OPERATIONS[:2]).with_columns(pl.col("upper") * 1.5), make_provenance()
    )
    after = after.filter(pl.col("service_name") != "cart")
    new = thresholds.thresholds(make_bounds([("new", "GET /new")]), make_provenance())
    found = thresholds.changes(before, pl.concat([after, new]))
    by_service = {
        service: set(part["change"]) for (service,), part in found.group_by("service_name")
    }
    assert by_service == {"frontend": {"kept"}, "cart": {"gone"}, "new": {"new"}}
    kept = found.filter(pl.col("service_name") == "frontend")
    ratios = dict(kept.select(pl.format("{} {}", "signal", "bound"), "ratio").iter_rows())
    assert ratios == pytest.approx(
        {"latency_p95 upper": 1.5, "error_ratio upper": 1.5, "rate lower": 1, "rate upper": 1.5}
    )
    gone = found.filter(pl.col("change") == "gone")
    assert gone["after"].is_null().all() and gone["ratio"].is_null().all()
    assert found["unit"].null_count() == 0


def test_changes_from_nothing_are_all_new_and_from_zero_have_no_ratio() -> None:
    frame = thresholds.thresholds(make_bounds(), make_provenance())
    assert set(thresholds.changes(None, frame)["change"]) == {"new"}
    zero = frame.with_columns(value=pl.lit(0.0))
    assert thresholds.changes(zero, frame)["ratio"].null_count() == 4 * len(OPERATIONS)
    assert set(thresholds.changes(zero, zero)["ratio"]) == {1.0}
