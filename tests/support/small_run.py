"""A small shop of two days with one incident, trained by the real stages.

In:  a folder to write to.
Out: a lake of about 20,000 spans, derived/ and models/. The checkout is slow and fails in the
     last 45 minutes; one operation is new, one is gone.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import shared_folder
from rows import MONDAY_NS, NS_PER_S, table

from apm_analytics.foundation import settings
from apm_analytics.lake import snapshots
from apm_analytics.nightly.job import STAGES

DAYS = 2
EVERY_S = 30  # one request
INCIDENT_S = 45 * 60
SLOW = ("storefront", "POST /checkout")
NEW = ("storefront", "GET /wishlist")
GONE = ("storefront", "GET /legacy")
HOSTILE = "GET /</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"
RUN_ID = "20260304T000500Z-00aa"


@dataclass(frozen=True)
class SmallRun:
    """The folders of the run."""

    workspace: Path
    lake: Path
    derived: Path
    models: Path


def write(folder: Path, *, hostile: bool = False, trained: bool = True) -> SmallRun:
    """Write lake, derived and models under `folder`/data and `folder`/models."""
    run = _folders(folder)
    if not trained:
        _write_lake(run, hostile)
        return run
    name = "hostile-run" if hostile else "small-run"
    whole = shared_folder.once(name, lambda empty: _train(_folders(empty), hostile))
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    return run


def _folders(folder: Path) -> SmallRun:
    return SmallRun(folder, folder / "data/lake", folder / "data/derived", folder / "models")


def _write_lake(run: SmallRun, hostile: bool) -> None:
    spans = _spans(hostile).to_dict(as_series=False)
    snapshots.append(run.lake, {"spans": table("spans", spans)})


def _train(run: SmallRun, hostile: bool) -> None:
    _write_lake(run, hostile)
    for stage in STAGES:
        stage(run.lake, run.derived, run.models, settings.load(), RUN_ID, False)


def _spans(hostile: bool) -> pl.DataFrame:
    rng = np.random.default_rng(7)
    end_s = DAYS * 86_400
    rows: list[tuple[object, ...]] = []
    for number, start in enumerate(range(0, end_s, EVERY_S)):
        trace = f"{number + 1:032x}"
        at = MONDAY_NS + start * NS_PER_S + int(rng.integers(0, NS_PER_S))
        slow = start >= end_s - INCIDENT_S
        match number % 5:
            case 0 | 1:
                _checkout(rows, rng, trace, at, slow)
            case 2 | 3:
                name = HOSTILE if hostile and number % 5 == 3 else "GET /cart"
                _cart(rows, rng, trace, at, name)
            case _:
                later = start > end_s - 12 * 3_600
                early = start < 12 * 3_600
                name = NEW[1] if later else GONE[1] if early else "GET /"
                _span(rows, trace, 1, None, at, 0.02 * rng.lognormal(0, 0.2), "storefront", name)
    names = ("time", "duration_ns", "trace_id", "span_id", "parent_span_id")
    return pl.DataFrame(
        rows,
        schema=[*names, "service_name", "name", "kind", "status_code", "status_message"],
        orient="row",
        infer_schema_length=None,
    )


def _checkout(
    rows: list[tuple[object, ...]], rng: np.random.Generator, trace: str, at: int, slow: bool
) -> None:
    charge = rng.lognormal(0, 0.15) * (1.6 if slow else 0.25)
    failed = bool(rng.random() < (0.4 if slow else 0.004))
    ms = 10**6
    status = "error" if failed else "unset"
    _span(rows, trace, 1, None, at, charge + 0.06, *SLOW, "server", status)
    _span(rows, trace, 2, 1, at + 5 * ms, charge + 0.04, "storefront", "charge", "client", status)
    _span(
        rows, trace, 3, 2, at + 12 * ms, charge + 0.02, "payment", "POST /charge", "server", status
    )
    _span(rows, trace, 4, 3, at + 15 * ms, 0.01, "payment", "INSERT payments", "client")
    _span(rows, trace, 5, 3, at + 30 * ms, charge - 0.02, "payment", "POST bank.example", "client")


def _cart(
    rows: list[tuple[object, ...]], rng: np.random.Generator, trace: str, at: int, name: str
) -> None:
    took = 0.03 * rng.lognormal(0, 0.25)
    _span(rows, trace, 1, None, at, took + 0.02, "storefront", name)
    _span(rows, trace, 2, 1, at + 2 * 10**6, took + 0.01, "storefront", "items", "client")
    _span(rows, trace, 3, 2, at + 4 * 10**6, took, "cart", "GET /items")
    _span(rows, trace, 4, 3, at + 5 * 10**6, took / 2, "cart", "SELECT items", "client")


def _span(
    rows: list[tuple[object, ...]],
    trace: str,
    number: int,
    parent: int | None,
    at: int,
    seconds: float,
    service: str,
    name: str,
    kind: str = "server",
    status: str = "unset",
) -> None:
    rows.append(
        (
            at,
            int(seconds * NS_PER_S),
            trace,
            f"{trace[-14:]}{number:02x}",
            None if parent is None else f"{trace[-14:]}{parent:02x}",
            service,
            name,
            kind,
            status,
            "declined" if status == "error" else None,
        )
    )
