"""What is expected of a lake: one rule a defect, each with its limits and its way out.

In:  the `quality` block of params.yaml.
Out: the rules of every table.

A rule has two limits. Above the first the report warns, because real telemetry is never perfect;
above the second so much is wrong that thresholds learned from it would be wrong too.
"""

from dataclasses import dataclass

from apm_analytics.foundation.settings import QualityParams
from apm_analytics.lake.arrivals import MAX_LEAD_S
from apm_analytics.lake.schema import METRIC_TABLES, TABLES

# A span of a day is a clock that jumped or an end that was never recorded, not a request.
MAX_DURATION_S = 86_400.0
# Traces this near to the recording's begin or end may have been cut by it.
EDGE_S = 60.0
# What two clocks that NTP keeps may differ by.
CLOCK_TOLERANCE_S = 0.001

COUNTED = {"rows": "rows", "schema": "columns"}
NAME_THE_SERVICE = "set service.name in the resource of every sender (OTEL_SERVICE_NAME)"


@dataclass(frozen=True)
class Rule:
    """One expectation about one measure; `name` is the measure's column in `lake/sql/quality_*`."""

    table: str
    name: str
    description: str  # what is measured, in plain words
    advice: str
    warn_above: float | None = None
    stop_above: float | None = None
    stop_below: float | None = None

    @property
    def unit(self) -> str:
        """`1` for a share, `s` for seconds, else what is counted."""
        if self.name.endswith("_ratio"):
            return "1"
        return "s" if self.name.endswith("_s") else COUNTED[self.name]


def rules(params: QualityParams) -> list[Rule]:
    """List the rules of all tables."""
    null = (params.warn_null_ratio, params.max_null_ratio)
    invalid = (params.warn_invalid_ratio, params.max_invalid_ratio)
    return [
        Rule(
            "spans",
            "rows",
            "spans to learn from",
            "import telemetry with `apm import PATH --lake DIR`, or run `apm simulate`",
            stop_below=1,
        ),
        *(
            Rule(
                table,
                "schema",
                "columns that are missing, of another type, or unreadable",
                "another program or version wrote these parts, or the disk damaged them: import "
                "the original files into a new lake",
                stop_above=0,
            )
            for table in TABLES
        ),
        Rule(
            "spans",
            "null_ratio",
            "spans without a value in a key column",
            f"{NAME_THE_SERVICE}; mend the sender of spans without id, name or kind",
            *null,
        ),
        Rule(
            "spans",
            "negative_duration_ratio",
            "spans that end before they start",
            "look at the clocks of the hosts that send them",
            *invalid,
        ),
        Rule(
            "spans",
            "long_duration_ratio",
            "spans that last longer than a day",
            "look for spans that are never ended; keep batch jobs out of the lake",
            *invalid,
        ),
        Rule(
            "spans",
            "http_status_ratio",
            "spans with an HTTP status outside 100 to 599",
            "record no http.response.status_code where no response came",
            *invalid,
        ),
        Rule(
            "spans",
            "unknown_word_ratio",
            "spans whose kind or status is none of OpenTelemetry's",
            "another program wrote these parts: import the OTLP files themselves",
            *invalid,
        ),
        Rule(
            "spans",
            "threshold_ratio",
            "spans whose sampling threshold (ot=th in the trace state) cannot be read",
            "each counts as one request: mend the sampler, which must write 1 to 14 hex digits",
            *invalid,
        ),
        *_relations_of_spans(params),
        *_times_of_spans(params),
        *(
            Rule(
                table, "null_ratio", "rows without a value in a key column", NAME_THE_SERVICE, *null
            )
            for table in (*METRIC_TABLES, "logs")
        ),
        *(
            Rule(
                table,
                "invalid_ratio",
                "points whose value, counts or times cannot be",
                "find the sender with `apm query`; its SDK or a processor after it is at fault",
                *invalid,
            )
            for table in METRIC_TABLES
        ),
        Rule(
            "metrics",
            "mixed_unit_ratio",
            "metrics that come in several units",
            "give a metric one unit in all versions of its service, or a new name",
            *invalid,
        ),
        Rule(
            "logs",
            "severity_ratio",
            "log records with a severity number outside 0 to 24",
            "map severities to OpenTelemetry's numbers in the Collector's log receiver",
            *invalid,
        ),
    ]


def _relations_of_spans(params: QualityParams) -> list[Rule]:
    return [
        Rule(
            "spans",
            "duplicate_ratio",
            "spans whose trace id and span id came before",
            "look for two exporters in one process, two Collectors on one stream, or the same "
            "data imported in two formats",
            params.warn_duplicate_ratio,
            params.max_duplicate_ratio,
        ),
        Rule(
            "spans",
            "orphan_ratio",
            "child spans whose parent never arrived",
            "look for a service that does not export, spans dropped by a full queue, or sampling "
            "that every service decides by itself",
            params.warn_orphan_ratio,
            params.max_orphan_ratio,
        ),
        Rule(
            "spans",
            "skew_ratio",
            "child spans that start before or end after their parent by more than 1 ms",
            "synchronise the hosts' clocks (NTP); link background work to its cause instead of "
            "making it a child",
            params.warn_skew_ratio,
            params.max_skew_ratio,
        ),
    ]


def _times_of_spans(params: QualityParams) -> list[Rule]:
    return [
        Rule(
            "spans",
            "gap_s",
            "longest time without a single span",
            "import what is missing, or shorten snapshot.history_days in params.yaml until the "
            "hole lies outside",
            params.warn_gap_s,
            params.max_gap_s,
        ),
        Rule(
            "spans",
            "age_s",
            "age of the newest span",
            "see whether exporter and Collector still send; a recording of the past is fine with "
            "quality.check_age: false in params.yaml",
            stop_above=params.max_age_s,
            stop_below=-MAX_LEAD_S,  # a span of the future would hide a stalled exporter
        ),
    ]
