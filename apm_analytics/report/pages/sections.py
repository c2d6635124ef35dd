"""Turn an executed notebook into a section of the report.

In:  the outcome of a notebook, and its executed file.
Out: HTML that cannot affect the rest of the page, with chart specifications as JSON.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from apm_analytics.report.pages.sanitize import clean
from apm_analytics.report.records import RECORD_MIME, NotebookResult

CHART_HEIGHT_PX = 240  # placeholder of a chart without a height
_COLOURS = re.compile("\x1b\\[[0-9;]*[A-Za-z]")
_HEADING = re.compile(r"<(/?)h([1-5])\b")
ACRONYMS = ("kpi", "sla", "slo")


@dataclass(frozen=True)
class Section:
    """One notebook, ready for the page."""

    id: str
    title: str
    short: str  # for the table of contents
    abstract: Markup
    status: str
    seconds: float
    error: str | None
    link: str | None  # to the executed notebook, beside the report
    body: Markup
    records: dict[str, Any] = field(default_factory=dict)


def section(result: NotebookResult, *, link: str | None = None) -> Section:
    """Turn one notebook into a section; a skipped one has only a title and a reason."""
    title, abstract, body = result.name, Markup(""), Markup("")
    if result.path is not None:
        cells = json.loads(result.path.read_text(encoding="utf-8"))["cells"]
        title, abstract = _opening(cells, result.name)
        body = Markup("\n").join(_blocks(cells, result.name))
    return Section(
        id=f"n-{result.name}",
        title=title,
        short=_short(result.name),
        abstract=abstract,
        status=result.status,
        seconds=result.seconds,
        error=result.error,
        link=link,
        body=body,
        records=result.records,
    )


def markdown(text: str) -> Markup:
    """Render Markdown as sanitised HTML, with headings one level deeper."""
    from nbconvert.filters.markdown import markdown2html  # takes seconds; only a report needs it

    rendered = re.sub(r'<a class="anchor-link"[^<>]*>[^<>]*</a>', "", markdown2html(text))
    deeper = _HEADING.sub(lambda match: f"<{match[1]}h{int(match[2]) + 1}", rendered)
    return Markup(clean(deeper))


def chart(spec: dict[str, Any], name: str) -> Markup:
    """Return a placeholder with its specification; a script draws the chart when visible."""
    height = spec.get("height")
    pixels = height if isinstance(height, int | float) else CHART_HEIGHT_PX
    return Markup(
        '<div class="chart" data-spec="{0}" style="min-height:{1}px">'
        '</div><script type="application/json" id="{0}">{2}</script>'
    ).format(name, int(pixels), json_text(spec))


def json_text(value: object) -> Markup:
    """Return JSON for a script element, in which nothing can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _short(name: str) -> str:
    """Derive the short title of a notebook: 10_explore_services -> Explore services."""
    words = (name.lstrip("0123456789_") or name).split("_")
    title = " ".join(word.upper() if word in ACRONYMS else word for word in words)
    return title[0].upper() + title[1:]


def _opening(cells: list[dict[str, Any]], name: str) -> tuple[str, Markup]:
    """Return title and abstract from the first Markdown cell."""
    for cell in cells:
        if cell["cell_type"] == "markdown" and not _is_papermill_error(cell):
            lines = _text(cell["source"]).strip().splitlines()
            if lines and lines[0].startswith("# "):
                return lines[0][2:].strip(), markdown("\n".join(lines[1:]))
            break
    return name, Markup("")


def _blocks(cells: list[dict[str, Any]], name: str) -> Iterator[Markup]:
    opened = False
    for number, cell in enumerate(cells):
        if _is_papermill_error(cell):
            continue
        if cell["cell_type"] == "markdown":
            if opened or not _text(cell["source"]).lstrip().startswith("# "):
                yield markdown(_text(cell["source"]))
            opened = True
        elif cell["cell_type"] == "code":
            source = _text(cell["source"]).strip()
            if source:
                yield Markup(
                    '<details class="code"><summary>code</summary><pre>{}</pre></details>'
                ).format(source)
            for index, output in enumerate(cell.get("outputs", [])):
                block = _output(output, f"c-{name}-{number}-{index}")
                if block:
                    yield block


def _is_papermill_error(cell: dict[str, Any]) -> bool:
    tags = cell.get("metadata", {}).get("tags", [])
    return "papermill-error-cell-tag" in tags


def _output(output: dict[str, Any], name: str) -> Markup | None:
    kind = output["output_type"]
    if kind == "error":
        trace = "\n".join(output.get("traceback", [])) or f"{output['ename']}: {output['evalue']}"
        return Markup('<pre class="error">{}</pre>').format(_COLOURS.sub("", trace))
    if kind == "stream":
        text = _COLOURS.sub("", _text(output["text"]))
        return Markup('<pre class="stream">{}</pre>').format(text) if text.strip() else None
    data = output.get("data", {})
    if RECORD_MIME in data:
        return None  # records are listed together at the end of the section
    specs = [data[mime] for mime in data if mime.startswith("application/vnd.vegalite.")]
    if specs:
        return chart(specs[0], re.sub(r"[^\w-]", "-", name))
    for mime in ("image/png", "image/jpeg"):
        if mime in data:
            return _image(mime, _text(data[mime]).replace("\n", ""))
    if "text/html" in data:
        return Markup('<div class="scroll">{}</div>').format(
            Markup(clean(_text(data["text/html"])))
        )
    if "text/markdown" in data:
        return markdown(_text(data["text/markdown"]))
    if "text/plain" in data:
        return Markup('<pre class="stream">{}</pre>').format(_text(data["text/plain"]))
    return None


def _image(mime: str, base64: str) -> Markup:
    return Markup('<img alt="an image of the notebook" src="data:{};base64,{}">').format(
        mime, base64
    )


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def link_to(release: Path, result: NotebookResult) -> str | None:
    """Return the relative link to the executed notebook if the release contains it."""
    if result.path is None or not (release / "notebooks" / result.path.name).exists():
        return None
    return f"notebooks/{result.path.name}"
