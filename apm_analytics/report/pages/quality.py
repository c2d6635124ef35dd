"""Render the result of the quality checks as an HTML fragment or a page.

In:  a `QualityResult`.
Out: HTML without scripts, fonts or other external resources.
"""

from html import escape
from pathlib import Path

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.quality.result import Expectation, QualityResult, amount

STYLE = """
.quality table { border-collapse: collapse; width: 100%; }
.quality th, .quality td { text-align: left; padding: .3em .8em .3em 0; vertical-align: top;
  border-bottom: 1px solid #8884; }
.quality .state { font-weight: 600; }
.quality .state, .quality .limit { white-space: nowrap; }
.quality .error .state { color: #b3261e; }
.quality .warning .state { color: #8a5a00; }
.quality .ok .state { color: #1b6e3c; }
.quality .aside { opacity: .75; font-size: .9em; }
@media (prefers-color-scheme: dark) {
  .quality .error .state { color: #ff8a80; }
  .quality .warning .state { color: #ffca61; }
  .quality .ok .state { color: #7bd88f; }
}
"""
# The page follows the light or dark colours of the browser.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Data quality</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }}
</style>
</head>
<body>
<h1>Data quality</h1>
{fragment}
</body>
</html>
"""
STATES = {"error": "stops publishing", "warning": "warning", "ok": "ok"}


def page(result: QualityResult) -> str:
    """Return the fragment: failures first, with advice; what passed is folded below."""
    troubled = [*result.failures(), *result.warnings()]
    fine = [expectation for expectation in result.expectations if expectation.passed]
    parts = [
        f'<section class="quality"><style>{STYLE}</style>',
        f"<p><strong>{escape(result.summary())}</strong> "
        f'<span class="aside">Checked {escape(result.checked_at)}.</span></p>',
    ]
    if troubled:
        parts.append(_table(troubled))
    if fine:
        opened = "" if troubled else " open"
        parts.append(f"<details{opened}><summary>{len(fine)} expectations hold</summary>")
        parts.append(f"{_table(fine)}</details>")
    parts.append("</section>")
    return "\n".join(parts)


def write_page(result: QualityResult, path: Path) -> None:
    """Write the standalone page `quality.html` atomically."""
    write_atomic(path, PAGE.format(fragment=page(result)).encode())


def _table(expectations: list[Expectation]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("", "table", "what", "observed", "limit"))
    rows = "\n".join(_row(expectation) for expectation in expectations)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _row(expectation: Expectation) -> str:
    state = "ok" if expectation.passed else expectation.severity
    advice = "" if expectation.passed else _aside(f"What to do: {expectation.advice}.")
    cells = [
        f'<td class="state">{STATES[state]}</td>',
        f"<td>{escape(expectation.table)}</td>",
        f"<td>{escape(expectation.description)}{advice}</td>",
        f"<td>{escape(amount(expectation.observed, expectation.unit))}"
        f"{_aside(expectation.note) if expectation.note else ''}</td>",
        f'<td class="limit">{escape(expectation.bound())}</td>',
    ]
    return f'<tr class="{state}" data-name="{escape(expectation.name)}">{"".join(cells)}</tr>'


def _aside(text: str) -> str:
    return f'<br><span class="aside">{escape(text)}</span>'
