"""Read which business figures there are, and where each comes from.

In:  specs/kpis.yaml.
Out: one checked `Kpi` a figure, in the order of the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from apm_analytics.foundation import specs
from apm_analytics.foundation.specs import Spec

FILE_NAME = "kpis.yaml"


class _Asked(Spec):
    """What all sources in the lake share: `where` is SQL over the columns of the table."""

    where: str | None = None
    segment: str | None = Field(default=None, min_length=1)


class MetricSource(_Asked):
    """Points of a metric. `sum` is for deltas, `increase` for cumulative counters."""

    kind: Literal["metric"]
    name: str = Field(min_length=1)
    aggregate: Literal["sum", "mean", "last", "increase"]


class SpanSource(_Asked):
    """Spans that `where` chooses: how many, how many sessions or users, or which share failed."""

    kind: Literal["spans"]
    aggregate: Literal["count", "sessions", "users", "error_ratio"]


class ShareSource(_Asked):
    """Share of the sessions (or users, or spans) chosen by `where` that `of` chooses, too."""

    kind: Literal["share"]
    of: str = Field(min_length=1)
    per: Literal["sessions", "users", "spans"] = "sessions"


class LogSource(_Asked):
    """Events in the logs: how many, or the sum or mean of a numeric attribute."""

    kind: Literal["logs"]
    event: str = Field(min_length=1)
    aggregate: Literal["count", "sum", "mean"]
    attribute: str | None = None

    @model_validator(mode="after")
    def _has_what_it_adds(self) -> "LogSource":
        if (self.aggregate == "count") == (self.attribute is not None):
            raise ValueError(
                f"aggregate {self.aggregate} "
                + ("takes no attribute" if self.attribute else "needs the attribute to take")
            )
        return self


class ApdexSource(_Asked):
    """Apdex of the spans that `where` chooses: satisfied up to the threshold, tolerating to 4 T."""

    kind: Literal["apdex"]
    threshold_s: float = Field(gt=0)


class SqlSource(Spec):
    """A statement with columns `time` and `value` (and `segment`), rows of any spacing, UTC."""

    kind: Literal["sql"]
    query: str = Field(min_length=1)
    aggregate: Literal["sum", "mean", "last"]


class FileSource(Spec):
    """A CSV or Parquet file; a path that is not absolute begins at the folder of kpis.yaml."""

    kind: Literal["file"]
    path: Path
    time: str = "time"
    value: str = "value"
    segment: str | None = None
    zone: str = "UTC"  # of times without one
    aggregate: Literal["sum", "mean", "last"]

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{zone!r} is no time zone; name one such as Europe/Berlin") from error
        return zone


Source = Annotated[
    MetricSource | SpanSource | ShareSource | LogSource | ApdexSource | SqlSource | FileSource,
    Field(discriminator="kind"),
]
_ADDITIVE = ("sum", "increase", "count", "sessions")


class Kpi(Spec):
    """One business figure; see the head of specs/kpis.yaml."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_.]*$")
    title: str = Field(min_length=1)
    unit: str = Field(min_length=1)
    better: Literal["up", "down"]
    money: bool = False
    source: Source

    @property
    def additive(self) -> bool:
        """Tell whether windows add up, so that an incident can cost some of it.

        A session that spans two windows counts in both; of short windows the sum is session
        windows, whose relative loss is that of the sessions.
        """
        return getattr(self.source, "aggregate", None) in _ADDITIVE

    @property
    def technical(self) -> bool:
        """Tell whether it is made of latency or errors, so that it moves with them by itself."""
        return isinstance(self.source, ApdexSource) or (
            isinstance(self.source, SpanSource) and self.source.aggregate == "error_ratio"
        )

    @model_validator(mode="after")
    def _money_adds_up(self) -> "Kpi":
        if self.money and not self.additive:
            raise ValueError("money needs an aggregate that adds up: sum or increase")
        return self


class KpiFile(Spec):
    """The whole of kpis.yaml."""

    kpis: tuple[Kpi, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> "KpiFile":
        names = [kpi.name for kpi in self.kpis]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} named twice; give each KPI its own name")
        return self


def load(path: Path) -> dict[str, Kpi]:
    """Read and check the KPIs.

    Parameters
    ----------
    path : the folder with kpis.yaml, or the file itself.

    Returns
    -------
    KPI name -> its spec; a file's relative path is made absolute.

    Raises
    ------
    BadParameter
        The file is missing or does not fit; the message names file, line and key.
    """
    file = path / FILE_NAME if path.is_dir() else path
    return {kpi.name: _absolute(kpi, file.parent) for kpi in specs.load(file, KpiFile).kpis}


def metric_names(kpis: Mapping[str, Kpi]) -> frozenset[str]:
    """Give the metrics that are business figures, so that they are not compared with themselves."""
    sources = (kpi.source for kpi in kpis.values())
    return frozenset(source.name for source in sources if isinstance(source, MetricSource))


def technical_names(kpis: Mapping[str, Kpi]) -> list[str]:
    """Give the KPIs that are made of latency or errors."""
    return [name for name, kpi in kpis.items() if kpi.technical]


def _absolute(kpi: Kpi, folder: Path) -> Kpi:
    if not isinstance(kpi.source, FileSource):
        return kpi
    source = kpi.source.model_copy(update={"path": folder / kpi.source.path})
    return kpi.model_copy(update={"source": source})
