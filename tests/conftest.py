"""What every test may ask for: the real data, the real servers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

# Minutes long: started last, they would leave one of two cores without work.
STARTED_FIRST = (
    "notebooks/test_recorded_numbers.py",
    "nightly/test_job.py",
    "baselines/training/test_stages.py",
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
    """Find a program that `make servers` installs; in CI a missing one fails the test."""

    def find(name: str) -> Path:
        found = shutil.which(name)
        if found:
            return Path(found)
        reason = f"{name} is not installed: run `make servers`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)

    return find
