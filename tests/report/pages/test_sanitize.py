"""`report.pages.sanitize`: what notebooks emit becomes HTML that cannot run or load anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apm_analytics.report.pages.sanitize import TAGS, clean

END = "</tr></tbody></table>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b onclick=x()>p95</b>", "<b>p95</b>"),
        ("a<script>alert(1)</script>b", "ab"),
        ("a<style>p{}</style>b", "ab"),
        ("<svg onload=x()><circle/></svg>c", "c"),
        ("<a href='javascript:x()'>l</a>", "<a>l</a>"),
        ("<a href='https://example.org/?a=1&b=2'>l</a>", '<a href="https://example.org/?a=1&amp;b=2">l</a>'),
        ("<img src=https://example.org/x.png alt=x>", '<img alt="x">'),
        ("<img src='data:image/png;base64,AA=='>", '<img src="data:image/png;base64,AA==">'),
        ("<form action=/x><input name=q>t</form>", "t"),
        ("</div></section>t", "t"),
        ("<table><tr><td class=num>1", f'<table><tbody><tr><td class="num">1</td>{END}'),
        ("<details open><summary>s</summary>t", "<details><summary>s</summary>t</details>"),
        ("<svg><style>p{}</style><text>t</text></svg>c", "c"),
        ("<script><p>in</script><p>out", "<p>out</p>"),
        ("1 < 2 &amp; 3", "1 &lt; 2 &amp; 3"),
        ("<p style='background:url(https://example.org)'>t</p>", "<p>t</p>"),
    ],
)  # fmt: skip
def test_only_what_cannot_run_or_load_passes(text: str, expected: str) -> None:
    assert clean(text) == expected


@given(st.text(alphabet="<>/='\" abimgscriptonload&;#!-\n", max_size=80))
def test_nothing_that_runs_survives_any_text(text: str) -> None:
    cleaned = clean(text)
    assert "<script" not in cleaned and "<!--" not in cleaned
    opened = [
        piece.split(">")[0].split()[0] for piece in cleaned.split("<")[1:] if piece[:1] != "/"
    ]
    assert set(opened) <= TAGS
    assert clean(cleaned) == cleaned
