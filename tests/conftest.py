"""Fixtures for all tests: the workspace, recorded telemetry, installed servers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

# These take minutes: started last, they would leave one of two workers idle.
STARTED_FIRST = (
    "notebooks/test_recorded_numbers.py",
    "baselines/training/test_stages.py",
    "nightly/test_job.py",
    "ingest/receiver/test_crashes.py",
    "ingest/receiver/test_bad_input.py",
    "instrument/test_wiring.py",
    "demo/test_demo.py",
    "notebooks/test_jupyterlab.py",
)
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files; the order within a file stays."""
    items.sort(key=lambda item: str(item.path.relative_to(TESTS)) not in STARTED_FIRST)


@pytest.fixture(scope="session")
def workspace() -> Path:
    """The checkout under test."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of recorded telemetry that APM_REAL_DATA names."""
    folder = os.environ.get("APM_REAL_DATA")
    if not folder:
        pytest.skip("APM_REAL_DATA is not set: this test needs recorded telemetry")
    return Path(folder)


@pytest.fixture(scope="session")
def server_binary() -> Callable[[str], Path]:
    """Return a function that finds a program; in CI a missing one fails the test."""

    def find(name: str) -> Path:
        program = shutil.which(name)
        if program:
            return Path(program)
        reason = f"{name} is not installed: run `make servers`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)

    return find
