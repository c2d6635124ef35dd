"""`charts.tables`: frames as escaped HTML."""

from datetime import datetime

import polars as pl

from apm_analytics.charts.tables import table


def test_numbers_are_short_and_stand_right() -> None:
    shown = table(
        pl.DataFrame({"spans": [182751], "p95_s": [0.0421234], "max": [float("inf")]})
    ).html()
    assert (
        '<td class="num">182\u202f751</td><td class="num">0.0421</td><td class="num">inf</td>'
        in shown
    )


def test_bytes_are_said_in_a_unit_that_fits() -> None:
    shown = table(pl.DataFrame({"bytes": [62_881_247, 999, 999_600], "rows": [1000] * 3})).html()
    assert ">62.9 MB<" in shown and ">999 B<" in shown and ">1 MB<" in shown
    assert ">1\u202f000<" in shown


def test_texts_are_escaped_and_nothing_is_a_dash() -> None:
    frame = pl.DataFrame({"<b>": ["</td><script>"], "empty": [None], "at": [datetime(2026, 3, 2)]})
    shown = table(frame).html()
    assert (
        '<th style="text-align:left">&lt;b&gt;</th>' in shown
        and "&lt;/td&gt;&lt;script&gt;" in shown
    )
    assert ">\u2013</td>" in shown and ">2026-03-02 00:00</td>" in shown


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    assert "and 70 more" in table(pl.DataFrame({"n": range(100)})).html()
    assert "none" in table(pl.DataFrame({"n": []})).html()


def test_a_table_shows_as_html_and_as_text() -> None:
    bundle = table(pl.DataFrame({"n": [1]}))._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
