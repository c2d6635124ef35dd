"""Start Debian's Chromium for tests, without background network traffic."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def page(chromium: Path, **options: object) -> Iterator[Page]:
    """Open one page; options are those of playwright's `new_page`."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(chromium), args=FLAGS)
        try:
            yield browser.new_page(**options)  # type: ignore[arg-type]
        finally:
            browser.close()
