"""Record values in a notebook and read them back, for the report and the tests.

In:  named values of a notebook; an executed notebook.
Out: display data that contain the values; the values read back.

Every notebook imports this module, so it loads nothing heavy.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from IPython.display import display

from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadInput

RECORD_MIME = "application/vnd.apm.record+json"


@dataclass(frozen=True)
class NotebookResult:
    """The outcome of one notebook of a run."""

    name: str
    status: str  # ok, failed or skipped
    seconds: float = 0.0
    path: Path | None = None  # the executed file, also of a failed notebook
    error: str | None = None  # why it failed or was skipped
    records: dict[str, Any] = field(default_factory=dict)
    publishes: bool = False


def record(name: str, value: object) -> None:
    """Record a value in a notebook, so that the report and the tests can read it back.

    Parameters
    ----------
    name : name with the unit, such as `windows` or `history_days`.
    value : a number, text, boolean, or a list or dictionary of them.

    Raises
    ------
    BadInput
        The value cannot be written as JSON.
    """
    plain = _json(name, value)
    data = {RECORD_MIME: {"name": name, "value": plain}, "text/plain": f"{name} = {plain}"}
    display(data, raw=True)  # type: ignore[no-untyped-call]


def read_records(executed: Path) -> dict[str, Any]:
    """Return the values that an executed notebook recorded; the last one of a name counts."""
    records: dict[str, Any] = {}
    for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if RECORD_MIME in output.get("data", {}):
                entry = output["data"][RECORD_MIME]
                records[entry["name"]] = entry["value"]
    return records


def locate(path: str | Path) -> Path:
    """Return the absolute path of a folder parameter of a notebook.

    A relative path starts at the root of the workspace, wherever the notebook was opened from.
    """
    return settings.load().workspace / path


def _json(name: str, value: object) -> Any:
    if hasattr(value, "item"):  # a NumPy number
        value = value.item()
    if isinstance(value, list | tuple):
        return [_json(name, item) for item in value]
    if isinstance(value, dict):
        return {str(key): _json(name, item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise BadInput(f"cannot record {name} = {value!r}: it needs a finite number, text or a list")
