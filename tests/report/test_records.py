"""Numbers that notebooks record, and the folders that they locate."""

from pathlib import Path

import pytest

from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadInput
from apm_analytics.report import records


def test_a_record_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot record p95 = nan"):
        records.record("p95", float("nan"))


def test_relative_folders_start_at_the_workspace(tmp_path: Path) -> None:
    assert records.locate("data/lake") == settings.load().workspace / "data" / "lake"
    assert records.locate(str(tmp_path)) == tmp_path
