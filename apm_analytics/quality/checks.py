"""Check the data before anything is learned from it: one Great Expectations suite over the lake.

In:  a connection to the lake, the `quality` block of params.yaml, specs/quality.yaml.
Out: a suite to open and extend; a `QualityResult` with one entry per table and measure.

Great Expectations validates one row of measured numbers, a column `table.measure` each. It takes
pandas frames only, and a frame of all spans would not fit into memory.
"""

import logging
import warnings
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
    # The expectation of an aggregate is the cheapest that compares a number: 5 ms.
    between = _gx().expectations.ExpectColumnMaxToBeBetween
    built = [
        between(
            column=f"{table}.{entry.measure}",
            min_value=_number(limits.min, at, params),
            max_value=_number(limits.max, at, params),
            severity=severity,
            meta={"table": table, "name": entry.measure, "at": at}
            | entry.model_dump(include={"description", "advice", "unit"}),
        )
        for entry, at in rules.load(specs)
        if isinstance(entry, rules.Entry)
        for table in entry.tables
        for severity, ours in SEVERITIES.items()
        if (limits := getattr(entry, ours)) is not None
    ]
    return _gx().ExpectationSuite(name="lake", expectations=built)  # type: ignore[no-any-return]


def table(suite: "ExpectationSuite") -> pl.DataFrame:
    """Return one row per expectation of a suite, for reading."""
    columns = ("table", "name", "min", "max", "unit", "severity", "description", "advice", "at")
    return pl.DataFrame(
        [
            one.meta | {"min": low, "max": high, "severity": SEVERITIES[one.severity.value]}
            for one, low, high in _limits(suite)
        ],
        schema_overrides={"min": pl.Float64, "max": pl.Float64},
    ).select(columns)


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
    extra = [(item, at) for item, at in rules.load(specs) if isinstance(item, rules.UserMeasure)]
    measured = measure(con, params, now=now, history_days=history_days, user_measures=extra)
    for one, *_ in _limits(expected):
        meta = one.meta
        measures = measured.get(meta["table"], {})
        if meta["name"] not in measures and measures.get("schema") == 0:
            raise BadParameter(
                f"{meta['at']}: {meta['table']} has no measure {meta['name']!r}; "
                f"has {', '.join(sorted(measures))}"
            )
    failed = _failed(expected, measured)
    outcomes: dict[tuple[str, str], Expectation] = {}
    for one, low, high in _limits(expected):
        meta, measures = one.meta, measured.get(one.meta["table"], {})
        rule = (meta["at"], meta["table"])
        exceeded = (*rule, one.severity.value) in failed
        # Report the limit that was exceeded, errors before warnings; else the first limit.
        if meta["name"] in measures and (exceeded or rule not in outcomes):
            value = measures[meta["name"]]
            at_least = high is None or (None not in (low, value) and value < low)
            outcomes[rule] = Expectation(
                **{key: text for key, text in meta.items() if key != "at"},
                observed=value,
                limit=low if at_least else high,
                at_least=at_least,
                passed=not exceeded,
                severity=SEVERITIES[one.severity.value],
                note=measures.get(f"{meta['name']}_note") or "",
            )
    checked_at = datetime.now(UTC).isoformat(timespec="seconds")
    return QualityResult(checked_at=checked_at, expectations=tuple(outcomes.values()))


def age_clock(lake: Path, params: QualityParams, *, now: datetime) -> datetime | None:
    """Return the time against which the age of a lake's newest span counts.

    Returns
    -------
    `now` for a lake that is fed live, so that a stalled exporter is found. None for a recording
    of the past, whose age means nothing, and where `check_age` is off.
    """
    live = params.check_age and is_live(lake, max_delay_s=params.max_age_s)
    return now if live else None


def _limits(suite: "ExpectationSuite") -> list[tuple[Any, float | None, float | None]]:
    everything: list[Any] = suite.expectations  # the limits are fields of the subclass
    return [(one, one.min_value, one.max_value) for one in everything]


def _failed(suite: "ExpectationSuite", measured: dict[str, Measures]) -> set[tuple[str, str, str]]:
    """Run the suite on the measures that have a value; return what failed: at, table, severity."""
    import pandas as pd

    values = {
        f"{table}.{name}": [value]
        for table, measures in measured.items()
        for name, value in measures.items()
        if isinstance(value, int | float)
    }
    expectations = [one for one, *_ in _limits(suite) if one.column in values]
    measurable = _gx().ExpectationSuite("lake", expectations=expectations)
    with warnings.catch_warnings(action="ignore"):
        batch = _batches().get_batch({"dataframe": pd.DataFrame(values, dtype="float64")})
        outcomes = batch.validate(measurable, result_format="BOOLEAN_ONLY").results
    for outcome in outcomes:
        if outcome.exception_info.get("raised_exception"):
            raise ApmError(
                f"the expectation {outcome.expectation_config.kwargs['column']} could not be "
                f"validated: {outcome.exception_info['exception_message']}; "
                "see that `pip check` finds no conflict with great-expectations"
            )
    failures = [outcome.expectation_config for outcome in outcomes if not outcome.success]
    return {(one.meta["at"], one.meta["table"], one.severity.value) for one in failures}


def _number(limit: float | str | None, at: str, params: QualityParams) -> float | None:
    """Return a limit as a number; a name is one of the `quality` block of params.yaml."""
    if not isinstance(limit, str):
        return limit
    numbers = params.model_dump(exclude={"check_age"})
    if limit not in numbers:
        raise BadParameter(
            f"{at}: the quality block of params.yaml has no {limit!r}; has {', '.join(numbers)}"
        )
    return float(numbers[limit])


@cache
def _gx() -> Any:
    logging.getLogger("great_expectations").setLevel(logging.ERROR)  # it logs its configuration
    with warnings.catch_warnings(action="ignore"):
        import great_expectations as gx  # imported here: it costs 8 to 12 s of CPU
    return gx


@cache
def _batches() -> Any:
    """Return the definition of a batch of measures; one context serves the whole process."""
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = _gx().get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("lake").add_dataframe_asset("measures")
    return asset.add_batch_definition_whole_dataframe("row")
