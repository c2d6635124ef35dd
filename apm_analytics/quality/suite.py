"""Check the data before anything is learned from it: a Great Expectations suite over the lake.

In:  a connection to the lake, the `quality` block of params.yaml.
Out: a `QualityResult`: one expectation a defect, what was observed, and what to do about it.

Great Expectations judges the few numbers that `quality_measures` counts. It takes pandas frames
only, and a frame of all rows would not fit into a night.
"""

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apm_analytics.foundation.errors import ApmError
from apm_analytics.foundation.settings import QualityParams
from apm_analytics.lake.arrivals import is_live
from apm_analytics.lake.query import Connection
from apm_analytics.quality.measures import Measures, measure
from apm_analytics.quality.result import Expectation, QualityResult, Severity
from apm_analytics.quality.rules import Rule, rules

# Great Expectations' own words for our severities.
SEVERITIES: Mapping[str, Severity] = {"critical": "error", "warning": "warning"}


def check(
    con: Connection,
    params: QualityParams,
    *,
    now: datetime | None,
    history_days: float | None = None,
) -> QualityResult:
    """Judge a lake.

    Parameters
    ----------
    con : what `lake.query.connect` gave.
    params : the limits.
    now : the time that the newest span's age is measured against, see `age_clock`; None leaves
        its age unmeasured.
    history_days : judge only the last days before the newest span, as the baselines see them.

    Returns
    -------
    One expectation a rule of `quality_rules.rules`, of the tables that have rows. A table whose
    columns do not fit has only its failed `schema`; an empty lake has only its failed `rows`.

    Examples
    --------
    >>> check(con, settings.params.quality, now=None).passed  # doctest: +SKIP
    True
    """
    measured = measure(con, params, now=now, history_days=history_days)
    asked = [rule for rule in rules(params) if rule.name in measured.get(rule.table, {})]
    measurable = [rule for rule in asked if measured[rule.table][rule.name] is not None]
    failed = _judge(measurable, measured)
    return QualityResult(
        checked_at=datetime.now(UTC).isoformat(timespec="seconds"),
        expectations=tuple(
            _expectation(rule, measured[rule.table], failed.get((rule.table, rule.name)))
            for rule in asked
        ),
    )


def age_clock(lake: Path, params: QualityParams, *, now: datetime) -> datetime | None:
    """Tell against which time the age of a lake's newest span counts.

    Returns
    -------
    `now` for a lake that is fed live, so that a stalled exporter is found. None for a recording
    of the past, whose age says nothing, and where `check_age` is off.
    """
    live = params.check_age and is_live(lake, max_delay_s=params.max_age_s)
    return now if live else None


def _judge(
    asked: Collection[Rule], measured: Mapping[str, Measures]
) -> dict[tuple[str, str], Severity]:
    """Run the suites, one a table; give the severity of what failed."""
    with _quiet():
        import great_expectations as gx  # here: the import alone costs 8 to 12 s of CPU
        import pandas as pd
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        source = context.data_sources.add_pandas("lake")
        failed: dict[tuple[str, str], Severity] = {}
        for table in dict.fromkeys(rule.table for rule in asked):
            own = [rule for rule in asked if rule.table == table]
            values = {rule.name: [measured[table][rule.name]] for rule in own}
            frame = pd.DataFrame(values, dtype="float64")
            suite = gx.ExpectationSuite(
                name=table, expectations=[limit for rule in own for limit in _limits(gx, rule)]
            )
            batch = (
                source.add_dataframe_asset(table)
                .add_batch_definition_whole_dataframe("measures")
                .get_batch({"dataframe": frame})
            )
            for outcome in batch.validate(suite, result_format="BOOLEAN_ONLY").results:
                _note(outcome, table, failed)
    return failed


def _limits(gx: Any, rule: Rule) -> Iterator[Any]:
    """Give one Great Expectations expectation a limit; a measure is a column of one row."""
    # Of the expectations that compare, the one of an aggregate costs the least: 5 ms.
    between = gx.expectations.ExpectColumnMaxToBeBetween
    if rule.warn_above is not None:
        yield between(column=rule.name, max_value=rule.warn_above, severity="warning")
    if rule.stop_above is not None or rule.stop_below is not None:
        yield between(
            column=rule.name,
            min_value=rule.stop_below,
            max_value=rule.stop_above,
            severity="critical",
        )


def _note(outcome: Any, table: str, failed: dict[tuple[str, str], Severity]) -> None:
    config = outcome.expectation_config
    name = config.kwargs["column"]
    if outcome.exception_info.get("raised_exception"):
        raise ApmError(
            f"the expectation {name} of {table} could not be judged: "
            f"{outcome.exception_info['exception_message']}; "
            "see that `pip check` finds no conflict with great-expectations"
        )
    if not outcome.success and failed.get((table, name)) != "error":
        failed[table, name] = SEVERITIES[config.severity.value]


def _expectation(rule: Rule, measures: Measures, failed: Severity | None) -> Expectation:
    observed: float | None = measures[rule.name]
    limit, at_least = _nearest_limit(rule, observed, failed)
    return Expectation(
        table=rule.table,
        name=rule.name,
        description=rule.description,
        observed=observed,
        limit=limit,
        at_least=at_least,
        unit=rule.unit,
        passed=failed is None,
        severity=failed or ("error" if rule.warn_above is None else "warning"),
        advice=rule.advice,
        note=measures.get(f"{rule.name}_note") or "",
    )


def _nearest_limit(
    rule: Rule, observed: float | None, failed: Severity | None
) -> tuple[float, bool]:
    """Give the limit that was passed, else the first one that would be, and its direction."""
    above = (
        rule.warn_above if failed != "error" and rule.warn_above is not None else rule.stop_above
    )
    below = rule.stop_below
    if below is not None and (above is None or (observed is not None and observed < below)):
        return below, True
    assert above is not None  # a rule without any limit expects nothing
    return above, False


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Great Expectations says about its own inner life from the user."""
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
