"""Read the KPIs of specs/kpis.yaml and their sources.

In:  specs/kpis.yaml.
Out: one checked `Kpi` each, in the order of the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from apm_analytics.foundation import specs
from apm_analytics.foundation.specs import Spec

FILE_NAME = "kpis.yaml"


class _LakeSource(Spec):
    """The common keys of sources in the lake; `where` is SQL over the columns of the table."""

    where: str | None = None
    segment: str | None = Field(default=None, min_length=1)


class MetricSource(_LakeSource):
    """Points of a metric. `sum` is for deltas, `increase` for cumulative counters."""

    kind: Literal["metric"]
    name: str = Field(min_length=1)
    aggregate: Literal["sum", "mean", "last", "increase"]


class SpanSource(_LakeSource):
    """Spans selected by `where`: their number, sessions, users, or the share that failed."""

    kind: Literal["spans"]
    aggregate: Literal["count", "sessions", "users", "error_ratio"]


class ShareSource(_LakeSource):
    """The share of sessions (or users, or spans) selected by `where` that `of` selects too."""

    kind: Literal["share"]
    of: str = Field(min_length=1)
    per: Literal["sessions", "users", "spans"] = "sessions"


class LogSource(_LakeSource):
    """Events in the logs: their number, or the sum or mean of a numeric attribute."""

    kind: Literal["logs"]
    event: str = Field(min_length=1)
    aggregate: Literal["count", "sum", "mean"]
    attribute: str | None = None

    @model_validator(mode="after")
    def _attribute_fits(self) -> "LogSource":
        if (self.aggregate == "count") == (self.attribute is not None):
            raise ValueError(
                f"aggregate {self.aggregate} "
                + ("takes no attribute" if self.attribute else "needs an attribute")
            )
        return self


class ApdexSource(_LakeSource):
    """Apdex of the spans selected by `where`: satisfied up to T, tolerating up to 4 T."""

    kind: Literal["apdex"]
    threshold_s: float = Field(gt=0)


class SqlSource(Spec):
    """A SQL query with columns `time` (UTC, any spacing), `value` and optionally `segment`."""

    kind: Literal["sql"]
    query: str = Field(min_length=1)
    aggregate: Literal["sum", "mean", "last"]


class FileSource(Spec):
    """A CSV or Parquet file; a relative path starts at the folder of kpis.yaml."""

    kind: Literal["file"]
    path: Path
    time: str = "time"
    value: str = "value"
    segment: str | None = None
    zone: str = "UTC"  # of naive times
    aggregate: Literal["sum", "mean", "last"]

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"{zone!r} is not a time zone; use a name such as Europe/Berlin"
            ) from error
        return zone


Source = Annotated[
    MetricSource | SpanSource | ShareSource | LogSource | ApdexSource | SqlSource | FileSource,
    Field(discriminator="kind"),
]
_ADDITIVE = ("sum", "increase", "count", "sessions")


class Kpi(Spec):
    """One KPI; the comment at the top of specs/kpis.yaml describes the format."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_.]*$")
    title: str = Field(min_length=1)
    unit: str = Field(min_length=1)
    better: Literal["up", "down"]
    money: bool = False
    source: Source

    @property
    def additive(self) -> bool:
        """Whether values of windows can be summed, so that an incident can have a loss.

        A session that spans two windows counts in both, so the sum counts session windows; their
        relative loss is that of the sessions.
        """
        return getattr(self.source, "aggregate", None) in _ADDITIVE

    @property
    def technical(self) -> bool:
        """Whether the KPI is computed from latency or errors, and so follows them by definition."""
        return isinstance(self.source, ApdexSource) or (
            isinstance(self.source, SpanSource) and self.source.aggregate == "error_ratio"
        )

    @model_validator(mode="after")
    def _money_adds_up(self) -> "Kpi":
        if self.money and not self.additive:
            raise ValueError("money needs an additive aggregate: sum or increase")
        return self


class KpiFile(Spec):
    """The content of kpis.yaml."""

    kpis: tuple[Kpi, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> "KpiFile":
        names = [kpi.name for kpi in self.kpis]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is defined twice; give each KPI its own name")
        return self


def load(path: Path) -> dict[str, Kpi]:
    """Read and check the KPIs.

    Parameters
    ----------
    path : the folder with kpis.yaml, or the file itself.

    Returns
    -------
    KPI name -> its spec; relative paths of files are made absolute.

    Raises
    ------
    BadParameter
        The file is missing or has a wrong value; the message names file, line and key.
    """
    file = path / FILE_NAME if path.is_dir() else path
    return {kpi.name: _absolute(kpi, file.parent) for kpi in specs.load(file, KpiFile).kpis}


def metric_names(kpis: Mapping[str, Kpi]) -> frozenset[str]:
    """Return the metrics that are KPIs, which must not be compared with themselves."""
    sources = (kpi.source for kpi in kpis.values())
    return frozenset(source.name for source in sources if isinstance(source, MetricSource))


def technical_names(kpis: Mapping[str, Kpi]) -> list[str]:
    """Return the names of the KPIs computed from latency or errors."""
    return [name for name, kpi in kpis.items() if kpi.technical]


def _absolute(kpi: Kpi, folder: Path) -> Kpi:
    if not isinstance(kpi.source, FileSource):
        return kpi
    source = kpi.source.model_copy(update={"path": folder / kpi.source.path})
    return kpi.model_copy(update={"source": source})
