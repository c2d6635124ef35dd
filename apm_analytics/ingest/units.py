"""Check that a metric keeps the unit that it began with.

In:  decoded tables of metric points; the lake, whose manifest holds the unit of each metric.
Out: the metrics that came in another unit, with the reason to reject their points.
"""

from pathlib import Path

import pyarrow as pa

from apm_analytics.lake import snapshots
from apm_analytics.lake.schema import METRIC_TABLES


class Units:
    """The unit that each metric began with; each is looked up in the manifest once."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._known: dict[tuple[str, str], str] = {}

    def forget(self) -> None:
        """Look up every metric again, because the manifest was replaced."""
        self._known.clear()

    def refused(self, tables: dict[str, pa.Table]) -> dict[tuple[str, str, str], str]:
        """Return why to reject each (service, metric, unit) whose unit has changed.

        Raises
        ------
        ApmError
            The manifest cannot be used.
        """
        triples = _units(tables)
        unknown = [triple for triple in triples if triple[:2] not in self._known]
        if unknown:
            self._known.update(snapshots.check_units(self._lake, unknown))
        return {
            (service, metric, unit): (
                f"metric {metric} of {service} changed its unit from "
                f"{self._known[service, metric]!r} to {unit!r}; "
                "give the metric a new name, or convert the values before sending"
            )
            for service, metric, unit in triples
            if self._known[service, metric] != unit
        }


def _units(tables: dict[str, pa.Table]) -> list[tuple[str, str, str]]:
    columns = ["service_name", "name", "unit"]
    triples: list[tuple[str, str, str]] = []
    for table_name in METRIC_TABLES:
        if table_name in tables:
            groups = tables[table_name].select(columns).group_by(columns, use_threads=False)
            rows = groups.aggregate([]).to_pylist()
            triples += [(row["service_name"], row["name"], row["unit"]) for row in rows]
    return triples
