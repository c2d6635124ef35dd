"""Let through of foreign HTML only what cannot run, load or break out.

In:  HTML from a notebook: a rendered table, rendered Markdown. Operation names are user data.
Out: HTML of the tags and attributes below, everything else escaped or dropped.
"""

import html
from html.parser import HTMLParser

# fmt: off
TAGS = frozenset({
    "a", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "details", "div",
    "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "li", "ol", "p",
    "pre", "s", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td",
    "tfoot", "th", "thead", "tr", "u", "ul",
})
# fmt: on
VOID = frozenset({"br", "col", "hr", "img"})
ATTRIBUTES = frozenset({"class", "colspan", "rowspan", "scope", "title", "alt"})
# What is inside these is no text for a reader.
SWALLOWED = frozenset({"script", "style", "template", "iframe", "object", "svg", "math", "head"})
LINKS = ("#", "https://", "http://")
IMAGES = ("data:image/png;base64,", "data:image/jpeg;base64,", "data:image/svg+xml;base64,")


def clean(text: str) -> str:
    """Give `text` with nothing in it that a browser would run or fetch.

    Examples
    --------
    >>> clean("<b onclick=x()>p95</b><script>x()</script>")
    '<b>p95</b>'
    """
    parser = _Cleaner()
    parser.feed(text)
    parser.close()
    return parser.result()


class _Cleaner(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._open: list[str] = []
        self._swallowing: list[str] = []

    def result(self) -> str:
        closing = "".join(f"</{tag}>" for tag in reversed(self._open))
        return "".join(self._out) + closing

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SWALLOWED:
            self._swallowing.append(tag)
        if self._swallowing or tag not in TAGS:
            return
        kept = "".join(
            f' {name}="{html.escape(value or "")}"'
            for name, value in attrs
            if _kept(tag, name, value)
        )
        self._out.append(f"<{tag}{kept}>")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._swallowing:
            if tag == self._swallowing[-1]:
                self._swallowing.pop()
            return
        # An end without its start would close what is around this piece of HTML.
        if tag in self._open:
            while True:
                closed = self._open.pop()
                self._out.append(f"</{closed}>")
                if closed == tag:
                    break

    def handle_data(self, data: str) -> None:
        if not self._swallowing:
            self._out.append(html.escape(data, quote=False))


def _kept(tag: str, name: str, value: str | None) -> bool:
    if name in ATTRIBUTES:
        return True
    if tag == "a" and name == "href":
        return (value or "").startswith(LINKS)
    if tag == "img" and name == "src":
        return (value or "").startswith(IMAGES)
    return False
