"""The report in Chromium: it draws every chart and makes no request."""

from collections.abc import Callable
from pathlib import Path

import browser
import pytest
import small_report


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_opened_from_a_file_draws_its_charts_and_makes_no_request(
    tmp_path: Path, server_binary: Callable[[str], Path], scheme: str
) -> None:
    report = small_report.make(tmp_path, hostile=True)
    report.write()
    file = report.release / "report.html"
    asked: list[str] = []
    said: list[str] = []
    with browser.page(
        server_binary("chromium"),
        color_scheme=scheme,
        viewport={"width": 1280, "height": 900},
    ) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.goto(file.as_uri())
        charts = page.locator(".chart")
        assert charts.count() == small_report.CHARTS
        for number in range(charts.count()):
            page.locator(f".chart[data-drawn] >> nth={number}").wait_for(timeout=20_000)
        for number in range(charts.count()):
            drawing = charts.nth(number).locator("svg.marks, canvas.marks").bounding_box()
            assert drawing is not None and drawing["width"] > 300 and drawing["height"] > 20
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        code = page.locator("pre", has_text="shown = 1 < 2").first
        assert code.is_hidden()
        page.get_by_role("button", name="Show code").click()
        assert code.is_visible()
    assert [url for url in asked if not url.startswith(file.as_uri())] == []
    assert said == []


def test_a_report_opens_before_its_charts_are_drawn_and_draws_them_unasked(
    tmp_path: Path, server_binary: Callable[[str], Path]
) -> None:
    report = small_report.make(tmp_path)
    report.write()
    with browser.page(server_binary("chromium"), viewport={"width": 1280, "height": 500}) as page:
        # Counts the charts drawn at the load event, before those drawn while idle.
        page.add_init_script(
            "addEventListener('load', () => {"
            " window.atLoad = document.querySelectorAll('.chart[data-drawn]').length; })"
        )
        page.goto((report.release / "report.html").as_uri())
        assert page.evaluate("atLoad") == 0
        page.locator(f".chart[data-drawn] >> nth={small_report.CHARTS - 1}").wait_for()
