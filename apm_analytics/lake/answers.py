"""Run SQL or a named query and render the result as a table, CSV, JSON or Parquet.

In:  a lake, SQL or a query's name, `NAME=VALUE` parameters.
Out: bytes in the chosen format.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import orjson
import polars as pl

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadInput, BadParameter
from apm_analytics.lake import query
from apm_analytics.lake.schema import TABLES

# Rows and characters of a text table.
TEXT_ROWS = 200
TEXT_WIDTH = 200
NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+")
INTEGER = re.compile(r"[-+]?[0-9]+")
PARAMETER = re.compile(r"\$([a-z_]+)")


def answer(
    lake: Path, question: str, *, form: str = "table", parameters: dict[str, object] | None = None
) -> bytes:
    """Run one query on a lake and render its result.

    Parameters
    ----------
    question : SQL, or the name of a query in `lake/sql/`.

    Raises
    ------
    BadInput
        DuckDB rejected the SQL; its message says where.
    BadParameter
        An unknown format, or parameters that do not fit.
    """
    sql = question
    if question in query.names():
        sql = query.text(question)
        # A parameter of a named query that is not set, such as `since`, is null.
        parameters = dict.fromkeys(PARAMETER.findall(sql)) | (parameters or {})
    with query.connect(lake) as con:
        try:
            frame = query.frame(con, sql, parameters)
        except duckdb.InvalidInputException as error:
            raise BadParameter(f"{error}; set values with --set NAME=VALUE") from error
        except duckdb.Error as error:
            raise BadInput(
                f"the query failed: {error}; tables are {', '.join(TABLES)}; "
                "`apm queries` lists the named queries"
            ) from error
    return render(frame, form)


def parameters(pairs: Sequence[str]) -> dict[str, object]:
    """Parse `NAME=VALUE` pairs; a value that looks like a number becomes one.

    Raises
    ------
    BadParameter
        A pair without `=`.
    """
    values: dict[str, object] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise BadParameter(f"got {pair!r}, need NAME=VALUE, as in --set window_s=300")
        values[name] = _number_or_text(value)
    return values


def save(content: bytes, file: Path) -> None:
    """Write a result to a file in one step."""
    write_atomic(file, content)


def as_text(frame: pl.DataFrame) -> str:
    """Render a frame as a plain text table."""
    with pl.Config(
        tbl_rows=TEXT_ROWS,
        tbl_cols=-1,
        tbl_width_chars=TEXT_WIDTH,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_formatting="UTF8_BORDERS_ONLY",
        fmt_str_lengths=80,
        thousands_separator=True,
    ):
        return str(frame)


def render(frame: pl.DataFrame, form: str) -> bytes:
    """Render a frame as `table`, `csv`, `json` (an array of objects) or `parquet`.

    Raises
    ------
    BadParameter
        An unknown format.
    """
    sink = io.BytesIO()
    if form == "table":
        left = frame.height - TEXT_ROWS
        note = f"\n… {left:,} more rows; use --format csv for all" if left > 0 else ""
        return f"{as_text(frame)}{note}\n".encode()
    if form == "csv":
        _flat(frame).write_csv(sink)
    elif form == "json":
        frame.write_json(sink)
        sink.write(b"\n")
    elif form == "parquet":
        frame.write_parquet(sink)
    else:
        raise BadParameter(f"format {form!r} is none of table, csv, json, parquet")
    return sink.getvalue()


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Turn nested columns, which CSV does not have, into JSON text."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(
        pl.Series(name, [_json(value) for value in frame[name].to_list()], dtype=pl.String)
        for name in nested
    )


def _json(value: object) -> str | None:
    return None if value is None else orjson.dumps(value, default=str).decode()


def _number_or_text(value: str) -> object:
    if not NUMBER.fullmatch(value):
        return value
    number = float(value)
    return int(value) if INTEGER.fullmatch(value) and abs(number) < 2**63 else number
