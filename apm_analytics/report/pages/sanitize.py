"""Clean the HTML that notebooks emit, so that nothing in it can run, load or break out.

In:  HTML of a notebook: a rendered table, rendered Markdown. Operation names are user data.
Out: HTML of the tags and attributes below, closed as a browser would close it.

bleach parses as a browser does and drops the other tags. It keeps their text, so the content of
scripts, styles and drawings is dropped here.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bleach.sanitizer import Cleaner

# fmt: off
TAGS = frozenset({
    "a", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "details", "div",
    "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "li", "ol", "p",
    "pre", "s", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td",
    "tfoot", "th", "thead", "tr", "u", "ul",
})
# fmt: on
ATTRIBUTES = frozenset({"class", "colspan", "rowspan", "scope", "title", "alt"})
# The content of these is not text for a reader.
SWALLOWED = frozenset({"script", "style", "template", "iframe", "object", "svg", "math", "head"})
LINKS = ("#", "https://", "http://")
IMAGES = ("data:image/png;base64,", "data:image/jpeg;base64,", "data:image/svg+xml;base64,")


def clean(text: str) -> str:
    """Return `text` without anything that a browser would run or fetch.

    Examples
    --------
    >>> clean("<b onclick=x()>p95</b><script>x()</script>")
    '<b>p95</b>'
    """
    return str(_cleaner().clean(text))


@cache
def _cleaner() -> "Cleaner":
    from bleach.sanitizer import Cleaner  # costs a tenth of a second; only a report needs it

    return Cleaner(
        tags=TAGS | SWALLOWED,
        attributes=_kept,
        protocols={"http", "https", "data"},
        strip=True,
        filters=[_without_swallowed],
    )


def _without_swallowed(source: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    depth = 0
    for token in source:
        if token.get("name") in SWALLOWED:
            depth += {"StartTag": 1, "EndTag": -1}.get(token["type"], 0)
        elif not depth:
            yield token


def _kept(tag: str, name: str, value: str) -> bool:
    if tag == "a" and name == "href":
        return value.startswith(LINKS)
    if tag == "img" and name == "src":
        return value.startswith(IMAGES)
    return name in ATTRIBUTES
