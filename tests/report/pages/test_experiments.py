"""`report.pages.experiments`: the page that compares training runs is self-contained."""

from collections.abc import Callable
from pathlib import Path

import browser
import pytest

from apm_analytics.foundation.errors import ApmError, NotFound
from apm_analytics.report.pages import experiments

PROJECT = """
plots:
  - errors by model:
      template: bar_horizontal_sorted
      x: scaled_error
      y: {errors.csv: model}
  - a forecast:
      template: linear
      x: hour
      y: {forecast.csv: [value, expected]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A minimal DVC workspace: plots of two tables, outside git."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    (tmp_path / "dvc.yaml").write_text(PROJECT)
    (tmp_path / "errors.csv").write_text("model,scaled_error\nprophet,0.7\nrobust,0.9\n")
    rows = [f"{hour},{hour % 5},{hour % 4}" for hour in range(48)]
    (tmp_path / "forecast.csv").write_text("\n".join(["hour,value,expected", *rows]) + "\n")
    return tmp_path


def test_plots_of_trainings_are_drawn_without_a_network(
    project: Path, server_binary: Callable[[str], Path]
) -> None:
    page_file = experiments.plots(project)
    asked: list[str] = []
    said: list[str] = []
    with browser.page(server_binary("chromium")) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(page_file.as_uri())
        drawings = page.locator("canvas.marks, svg.marks")
        drawings.nth(1).wait_for(timeout=20_000)
        assert drawings.count() == 2
        box = drawings.nth(1).bounding_box()
        assert box is not None and box["width"] > 100 and box["height"] > 50
    assert asked == [page_file.as_uri()]
    assert said == []


def test_plots_that_cannot_be_made_say_what_is_missing(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ApmError, match=r"no plots: .*see `dvc exp show`"):
        experiments.plots(project, ["nothing-of-that-name"])
    with pytest.raises(NotFound, match=r"no dvc\.yaml in"):
        experiments.plots(tmp_path / "elsewhere")
