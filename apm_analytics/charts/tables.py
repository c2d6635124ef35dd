"""Show a frame as an aligned, rounded and escaped table.

In:  a Polars frame.
Out: a `Table` that notebooks and reports display.
"""

import html
import math
from datetime import datetime
from typing import Any

import polars as pl

from apm_analytics.charts import words

MAX_ROWS = 30


class Table:
    """A frame as HTML and text for Jupyter."""

    def __init__(self, frame: pl.DataFrame, rows: int) -> None:
        self._frame = frame
        self._rows = rows

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": str(self._frame.head(self._rows))}

    def html(self) -> str:
        """Return the table as HTML without a style sheet."""
        shown = self._frame.head(self._rows)
        numeric = {name for name, kind in shown.schema.items() if kind.is_numeric()}
        head = "".join(_cell("th", name, name in numeric) for name in shown.columns)
        body = "".join(
            "<tr>"
            + "".join(
                _cell("td", _text(row[name], name), name in numeric) for name in shown.columns
            )
            + "</tr>"
            for row in shown.iter_rows(named=True)
        )
        left = self._frame.height - shown.height
        more = f'<p class="more">and {words.count(left)} more</p>' if left else ""
        if not shown.height:
            more = '<p class="more">none</p>'
        return (
            f'<table class="dataframe"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table>{more}"
        )


def table(frame: pl.DataFrame, *, rows: int = MAX_ROWS) -> Table:
    """Return a table of the first `rows` rows and the number of the others.

    Examples
    --------
    >>> table(pl.DataFrame({"operation": ["GET /"], "p95_s": [0.0421234]})).html()[-48:]
    '<td class="num">0.0421</td></tr></tbody></table>'
    """
    return Table(frame, rows)


def _cell(tag: str, text: str, numeric: bool) -> str:
    # JupyterLab aligns every cell right; the report drops styles and aligns text left itself.
    kind = ' class="num"' if numeric else ' style="text-align:left"'
    return f"<{tag}{kind}>{html.escape(text)}</{tag}>"


def _text(value: object, name: str = "") -> str:
    match value:
        case None:
            return "\u2013"
        case bool():
            return "yes" if value else "no"
        case int() if name == "bytes" or name.endswith("_bytes"):
            return words.size(value)
        case int():
            return words.count(value)
        case float() if not math.isfinite(value):
            return str(value)
        case float():
            return f"{value:.3g}" if abs(value) < 1_000 else words.count(round(value))
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case list():
            return ", ".join(_text(item) for item in value)
    return str(value)
