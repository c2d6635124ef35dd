"""The labels that the gate judges by. The stage itself runs in tests/nightly/test_job.py."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from apm_analytics.alerts.gate import stage
from apm_analytics.signals import calendar
from apm_analytics.signals.calendar import Entry

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def incident(name: str) -> Entry:
    return Entry("incident", name, NOON, NOON + timedelta(hours=1), ("shop",))


def test_labels_come_from_the_calendars_of_the_workspace_and_of_the_lake(tmp_path: Path) -> None:
    lake = tmp_path / "data/lake"
    for folder, name in ((tmp_path / "specs", "ours"), (lake.parent, "of the lake")):
        folder.mkdir(parents=True)
        calendar.write(calendar.of([incident(name)]), folder / calendar.FILE_NAME)
    assert [entry.name for entry in stage.labels(tmp_path, lake)] == ["of the lake", "ours"]


def test_a_simulation_beside_the_lake_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated/truth.json").write_text("not read")
    assert not stage.labels(tmp_path, tmp_path / "lake")
