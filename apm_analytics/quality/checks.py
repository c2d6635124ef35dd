"""Check the data before anything is learned from it: one Great Expectations suite over the lake.

In:  a connection to the lake, the `quality` block of params.yaml, specs/quality.yaml.
Out: a suite to open and extend; a `QualityResult` with one entry per table and measure.

Great Expectations validates one row of measured numbers, a column `table.measure` each. It takes
pandas frames only, and a frame of all spans would not fit into memory.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from apm_analytics.foundation.errors import ApmError, BadParameter
from apm_analytics.foundation.settings import QualityParams
from apm_analytics.lake import Connection, is_live
from apm_analytics.quality import rules
from apm_analytics.quality.measures import Measures, measure
from apm_analytics.quality.result import Expectation, QualityResult, Severity

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

# Our severities as Great Expectations names them; a rule lists its limits in this order.
SEVERITIES: dict[str, Severity] = {"warning": "warning", "critical": "error"}


def suite(params: QualityParams, *, specs: Path | None = None) -> "ExpectationSuite":
    """Return the expectations of the package and those of specs/quality.yaml.

    Parameters
    ----------
    params : the limits that expectations refer to by name.
    specs : the folder of quality.yaml; None leaves it out.

    Returns
    -------
    A suite for a frame of one row with a column `table.measure` each. The `meta` of an expectation
    holds table, name, description, advice, unit and at (file and line).

    Raises
    ------
    BadParameter
        A file does not fit; the message names file and line.
    """
    gx = _great_expectations()
    # Of the expectations that compare a number, the one of an aggregate costs the least: 5 ms.
    between = gx.expectations.ExpectColumnMaxToBeBetween
    built = [
        between(
            column=f"{table}.{entry.measure}",
            min_value=rules.number(limits.min, at, params),
            max_value=rules.number(limits.max, at, params),
            severity=severity,
            meta=entry.meta(table, at),
        )
        for entry, table, at in rules.load(specs).entries
        for severity, ours in SEVERITIES.items()
        if (limits := getattr(entry, ours)) is not None
    ]
    return gx.ExpectationSuite(name="lake", expectations=built)  # type: ignore[no-any-return]


def table(suite: "ExpectationSuite") -> pl.DataFrame:
    """Return one row per expectation of a suite, for reading."""
    expectations: list[Any] = suite.expectations  # the limits are fields of the subclass
    rows = [
        one.meta
        | {"min": one.min_value, "max": one.max_value, "severity": SEVERITIES[one.severity.value]}
        for one in expectations
    ]
    limits = {"min": pl.Float64, "max": pl.Float64}
    columns = ("table", "name", "min", "max", "unit", "severity", "description", "advice", "at")
    return pl.DataFrame(rows, schema_overrides=limits, infer_schema_length=None).select(columns)


def check(
    con: Connection,
    params: QualityParams,
    *,
    now: datetime | None,
    history_days: float | None = None,
    specs: Path | None = None,
) -> QualityResult:
    """Measure a lake and validate the suite on the measures.

    Parameters
    ----------
    con : a connection of `lake.query.connect`.
    params : the limits.
    now : the time that the newest span's age is measured against, see `age_clock`; None leaves
        its age unmeasured.
    history_days : check only the last days before the newest span, as the baselines see them.
    specs : the folder of quality.yaml; None leaves it out.

    Returns
    -------
    One expectation per rule, of the tables that have rows. A table whose columns do not fit has
    only its failed `schema`; an empty lake has only its failed `rows`.

    Raises
    ------
    BadParameter
        quality.yaml does not fit; the message names file and line.

    Examples
    --------
    >>> check(con, settings.params.quality, now=None).passed  # doctest: +SKIP
    True
    """
    expected = suite(params, specs=specs)
    measured = measure(
        con, params, now=now, history_days=history_days, own=rules.load(specs).measures
    )
    present: dict[tuple[str, str], list[Any]] = {}  # warning before error, by file, line and table
    expectations: list[Any] = expected.expectations
    for one in expectations:
        measures, name = measured.get(one.meta["table"], {}), one.meta["name"]
        if name in measures:
            present.setdefault((one.meta["at"], one.meta["table"]), []).append(one)
        elif measures.get("schema") == 0 and not one.meta["at"].startswith(str(rules.FILE)):
            raise BadParameter(
                f"{one.meta['at']}: {one.meta['table']} has no measure {name!r}; "
                f"has {', '.join(sorted(measures))}"
            )
    failed = _failed(expected, measured)
    return QualityResult(
        checked_at=datetime.now(UTC).isoformat(timespec="seconds"),
        expectations=tuple(
            _outcome(limits, measured[limits[0].meta["table"]], failed)
            for limits in present.values()
        ),
    )


def age_clock(lake: Path, params: QualityParams, *, now: datetime) -> datetime | None:
    """Return the time against which the age of a lake's newest span counts.

    Returns
    -------
    `now` for a lake that is fed live, so that a stalled exporter is found. None for a recording
    of the past, whose age means nothing, and where `check_age` is off.
    """
    live = params.check_age and is_live(lake, max_delay_s=params.max_age_s)
    return now if live else None


def _failed(suite: "ExpectationSuite", measured: dict[str, Measures]) -> set[str]:
    """Run the suite on the measures that have a value; return the keys of what failed."""
    import pandas as pd

    values = {
        f"{table}.{name}": [value]
        for table, measures in measured.items()
        for name, value in measures.items()
        if isinstance(value, int | float)
    }
    everything: list[Any] = suite.expectations
    expectations = [one for one in everything if one.column in values]
    with _quiet():
        batch = _batches().get_batch({"dataframe": pd.DataFrame(values, dtype="float64")})
        measurable = _great_expectations().ExpectationSuite("lake", expectations=expectations)
        outcomes = batch.validate(measurable, result_format="BOOLEAN_ONLY").results
    for outcome in outcomes:
        if outcome.exception_info.get("raised_exception"):
            raise ApmError(
                f"the expectation {outcome.expectation_config.kwargs['column']} could not be "
                f"validated: {outcome.exception_info['exception_message']}; "
                "see that `pip check` finds no conflict with great-expectations"
            )
    return {_key(outcome.expectation_config) for outcome in outcomes if not outcome.success}


def _key(expectation: Any) -> str:
    meta = expectation.meta
    return f"{meta['at']} {meta['table']} {expectation.severity.value}"


def _outcome(limits: list[Any], measures: Measures, failed: set[str]) -> Expectation:
    """Report the limit that was exceeded, errors before warnings, else the first that would be."""
    exceeded = [one for one in limits if _key(one) in failed]
    chosen = exceeded[-1] if exceeded else limits[0]
    low, high, meta = chosen.min_value, chosen.max_value, chosen.meta
    observed: float | None = measures[meta["name"]]
    at_least = high is None or (low is not None and observed is not None and observed < low)
    return Expectation(
        table=meta["table"],
        name=meta["name"],
        description=meta["description"],
        observed=observed,
        limit=low if at_least else high,
        at_least=at_least,
        unit=meta["unit"],
        passed=not exceeded,
        severity=SEVERITIES[chosen.severity.value],
        advice=meta["advice"],
        note=measures.get(f"{meta['name']}_note") or "",
    )


@cache
def _great_expectations() -> Any:
    with _quiet():
        import great_expectations as gx  # here: the import alone costs 8 to 12 s of CPU
    return gx


@cache
def _batches() -> Any:
    """Return the definition of a batch of measures; one context serves the whole process."""
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = _great_expectations().get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("lake").add_dataframe_asset("measures")
    return asset.add_batch_definition_whole_dataframe("row")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of Great Expectations about its own configuration."""
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
