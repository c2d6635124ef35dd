"""Render the outcome of a quality check as `quality.html`.

In:  a `QualityResult`.
Out: HTML that loads nothing: no scripts, no fonts.
"""

from html import escape
from pathlib import Path

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.quality import Expectation, QualityResult, amount

# Neither light nor dark is forced: the browser's own colours apply.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Data quality</title>
<style>
:root { color-scheme: light dark; --error: #b3261e; --warning: #8a5a00; --ok: #1b6e3c; }
@media (prefers-color-scheme: dark) {
  :root { --error: #ff8a80; --warning: #ffca61; --ok: #7bd88f; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3em .8em .3em 0; vertical-align: top;
  border-bottom: 1px solid #8884; }
.state { font-weight: 600; }
.state, .limit { white-space: nowrap; }
.error .state { color: var(--error); }
.warning .state { color: var(--warning); }
.ok .state { color: var(--ok); }
.aside { opacity: .75; font-size: .9em; }
</style>
</head>
<body>
<h1>Data quality</h1>
BODY
</body>
</html>
"""
STATES = {"error": "stops publishing", "warning": "warning", "ok": "ok"}


def page(result: QualityResult) -> str:
    """Return the page: what failed first, with advice; the rest below, folded."""
    failed = [*result.failures(), *result.warnings()]
    passed = [e for e in result.expectations if e.passed]
    parts = [
        f"<p><strong>{escape(result.summary())}</strong> "
        f'<span class="aside">Checked {escape(result.checked_at)}.</span></p>'
    ]
    if failed:
        parts.append(_table(failed))
    if passed:
        opened = "" if failed else " open"
        parts.append(f"<details{opened}><summary>{len(passed)} expectations hold</summary>")
        parts.append(f"{_table(passed)}</details>")
    return PAGE.replace("BODY", "\n".join(parts))


def write_page(result: QualityResult, path: Path) -> None:
    """Write `quality.html` atomically."""
    write_atomic(path, page(result).encode())


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
