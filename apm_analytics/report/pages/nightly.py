"""Write the nightly report: one self-contained HTML file that makes no request.

In:  the executed notebooks of a run, derived/, the release and the previous one.
Out: `report.html` in the release.

Everything from telemetry and notebooks is escaped or sanitised. A content security policy allows
only the two scripts of the page, by their hash.
"""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import altair
import jinja2
import vl_convert
from markupsafe import Markup

from apm_analytics.charts import words
from apm_analytics.foundation import settings
from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.provenance import Provenance
from apm_analytics.foundation.settings import Params
from apm_analytics.report.pages import first_screen, sections, templates
from apm_analytics.report.pages.templates import ASSETS
from apm_analytics.report.records import NotebookResult

FILE_NAME = "report.html"
# The Vega-Lite version of Altair; vl_convert names versions without the patch number.
VEGA_LITE = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def write(
    release: Path,
    *,
    results: Sequence[NotebookResult],
    derived: Path,
    models: Path,
    quality: Mapping[str, Any] | None = None,
    previous: Path | None,
    provenance: Provenance,
    published: bool,
    reasons: Sequence[str],
    params: Params | None = None,
) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    release : the folder of the release; links point into it.
    results : from `nightly.notebooks.run_all`, in the order of the sections.
    derived, models : outputs of the training run; the page says which files are missing.
    quality : the result of the quality checks; by default derived/quality.json.
    previous : the previous release, if any.
    provenance : of this run.
    published : whether this run published thresholds.
    reasons : why it did not publish, or what failed; one sentence each.
    params : by default those of the workspace.

    Returns
    -------
    The path of report.html.
    """
    params = params or settings.load().params
    if quality is None and (derived / "quality.json").exists():
        quality = json.loads((derived / "quality.json").read_text())
    vega = Markup(bundle())
    boot = Markup((ASSETS / "report.js").read_text(encoding="utf-8"))
    page = _template().render(
        policy=_policy(vega, boot),
        style=Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        bundle=vega,
        boot=boot,
        made=datetime.now(UTC),
        period=first_screen.period(derived),
        provenance=provenance,
        trained=_training(models),
        published=published,
        reasons=list(reasons),
        previous_run=_run_of(previous),
        now=first_screen.now(derived, params),
        changes=first_screen.changes(derived, release, previous, published=published),
        quality=first_screen.quality(quality, release),
        sections=[
            sections.section(result, link=sections.link_to(release, result)) for result in results
        ],
    )
    file = release / FILE_NAME
    write_atomic(file, page.encode("utf-8", "replace"))
    return file


def _template() -> jinja2.Template:
    filters = {"span": words.span, "count": words.count, "recorded": _recorded}
    return templates.template("report.html.j2", filters)


def _recorded(value: object) -> str:
    """Format a recorded value in short."""
    if isinstance(value, list):
        return ", ".join(_recorded(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@functools.cache
def bundle(vega_lite: str = VEGA_LITE) -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script without any `</script`."""
    script: str = vl_convert.javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", vl_version=vega_lite
    )
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(*scripts: str) -> str:
    """Return a policy that allows only these scripts; Vega compiles expressions, hence eval."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _training(models: Path) -> dict[str, Any] | None:
    file = models / "run.json"
    if not file.exists():
        return None
    run: dict[str, Any] = json.loads(file.read_text())
    return run


def _run_of(previous: Path | None) -> str | None:
    return previous.resolve().name if previous is not None else None
