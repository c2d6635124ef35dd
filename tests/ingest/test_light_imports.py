"""Importing a small thing does not load a large one."""

import subprocess
import sys

import pytest

SERVERS = ("uvicorn", "uvloop", "grpc", "starlette", "httptools")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("apm_analytics.ingest.exporter", SERVERS),
        ("apm_analytics.ingest", ("duckdb", "numba", "pyarrow")),
        ("apm_analytics", ("duckdb", "polars", "pyarrow", "pydantic")),
    ],
)
def test_an_import_loads_only_what_it_needs(module: str, heavy: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print(*(m for m in {heavy} if m in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
