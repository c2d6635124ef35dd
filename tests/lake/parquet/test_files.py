"""pyarrow and DuckDB read back, value by value, what our Parquet writer writes."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apm_analytics.lake.parquet import digits, encodings, loops
from apm_analytics.lake.parquet.bloom import bloom_filter
from apm_analytics.lake.parquet.files import FileWriter
from apm_analytics.lake.parquet.reading import numbered, open_numbered
from apm_analytics.lake.schema import TABLES

TEXT, TIME = pa.string(), pa.timestamp("ns")
SCHEMA = pa.schema(
    [
        pa.field("time", TIME, nullable=False),
        pa.field("number", pa.int64()),
        pa.field("share", pa.float64()),
        pa.field("yes", pa.bool_()),
        pa.field("id", TEXT),
        pa.field("word", TEXT),
        pa.field("pairs", pa.map_(TEXT, TEXT)),
        pa.field("numbers", pa.map_(TEXT, pa.float64())),
        pa.field("counts", pa.list_(pa.int64())),
        pa.field("events", TABLES["spans"].field("events").type),
        pa.field("exemplars", TABLES["metric_points"].field("exemplars").type),
    ]
)
WORDS = st.none() | st.sampled_from(["", "a", "GET", "größer", "x" * 300])
PAIRS = st.lists(st.tuples(st.sampled_from("abc"), WORDS), max_size=3, unique_by=lambda one: one[0])
NUMBERS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 300)
SHARES = st.none() | st.floats(allow_nan=False)
TIMES = st.integers(0, 2**62)
EVENTS = st.fixed_dictionaries(
    {
        "time": st.none() | TIMES,
        "name": WORDS,
        "attributes": st.none() | PAIRS,
        "dropped_attributes_count": NUMBERS,
    }
)
EXEMPLARS = st.fixed_dictionaries(
    {"time": TIMES, "value": SHARES, "trace_id": WORDS, "span_id": WORDS, "attributes": PAIRS}
)
ROW = st.fixed_dictionaries(
    {
        "time": TIMES,
        "number": NUMBERS,
        "share": SHARES,
        "yes": st.none() | st.booleans(),
        "id": st.none() | st.text(max_size=40),
        "word": WORDS,
        "pairs": st.none() | PAIRS,
        "numbers": st.none() | st.lists(st.tuples(st.sampled_from("abc"), SHARES), max_size=2),
        "counts": st.none() | st.lists(NUMBERS, max_size=3),
        "events": st.none() | st.lists(st.none() | EVENTS, max_size=3),
        "exemplars": st.none() | st.lists(EXEMPLARS, max_size=2),
    }
)


def written(*tables: pa.Table, schema: pa.Schema = SCHEMA, **options: Any) -> bytes:
    file = io.BytesIO()
    writer = FileWriter(file.write, schema, without_dictionary={"id"}, **options)
    for table in tables:
        writer.write_table(table)
    writer.close()
    return file.getvalue()


def encoded(table: pa.Table) -> pa.Table:
    return table.set_column(
        table.column_names.index("word"), "word", table["word"].dictionary_encode()
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=8), st.integers(0, 7), st.integers(1, 9))
def test_every_value_comes_back(rows: list[dict[str, Any]], start: int, times: int) -> None:
    table = pa.Table.from_pylist(rows * times, schema=SCHEMA)
    part = table.slice(min(start, len(rows) - 1))
    content = written(table, encoded(part), pa.concat_tables([part, table]))
    found = pq.read_table(io.BytesIO(content))
    assert found.schema == SCHEMA
    assert found.equals(pa.concat_tables([table, part, part, table]))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 31, 33, 128, 129, 130, 161, 257, 1000, 70_000])
def test_every_number_of_rows_comes_back_from_duckdb(rows: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(rows)
    table = pa.table(
        [
            pa.array(np.sort(draw.integers(0, 2**40, rows)), TIME),
            pa.array(draw.integers(-(2**62), 2**62, rows)),
            pa.array(draw.random(rows)),
            pa.array(draw.random(rows) < 0.5),
            pa.array(draw.integers(0, 10**9, rows)).cast(TEXT),
            pa.array([f"word {number % 300}" if number % 5 else None for number in range(rows)]),
            pa.array(
                [[("key", f"{number % 3}")] * (number % 3 > 0) for number in range(rows)],
                SCHEMA.field("pairs").type,
            ),
            *(pa.nulls(rows, field.type) for field in list(SCHEMA)[7:]),
        ],
        schema=SCHEMA,
    )
    file = tmp_path / "one.parquet"
    file.write_bytes(written(table))
    assert pq.read_table(file).equals(table)
    found = duckdb.sql(f"select * from '{file}'").to_arrow_table()
    for name in ("time", "number", "share", "yes", "id", "word"):
        assert found[name].cast(SCHEMA.field(name).type).equals(table[name]), name
    assert found["pairs"].to_pylist() == table["pairs"].to_pylist()


def test_readers_skip_by_statistics_and_bloom_filter(tmp_path: Path) -> None:
    ids = [f"{number:032x}" for number in range(5000)]
    schema = pa.schema([pa.field("trace_id", TEXT), pa.field("n", pa.int64())])
    table = pa.table({"trace_id": ids, "n": list(range(5000))}, schema=schema)
    file = tmp_path / "ids.parquet"
    file.write_bytes(
        written(
            table, schema=schema, statistics={"n", "trace_id"}, bloom_filters={"trace_id": 5000}
        )
    )
    group = pq.read_metadata(file).row_group(0)
    assert (group.column(0).statistics.min, group.column(0).statistics.max) == (ids[0], ids[-1])
    assert (group.column(1).statistics.min, group.column(1).statistics.max) == (0, 4999)
    probe = f"select bloom_filter_excludes from parquet_bloom_probe('{file}', 'trace_id', ?)"
    assert not any(duckdb.execute(probe, [one]).fetchall()[0][0] for one in ids[::500])
    absent = [f"{number:032x}" for number in range(10**6, 10**6 + 200)]
    excluded = [duckdb.execute(probe, [one]).fetchall()[0][0] for one in absent]
    assert sum(excluded) >= 190


def test_a_bloom_filter_of_pyarrow_is_the_same(tmp_path: Path) -> None:
    ids = pa.array([f"{number * 7919:032x}" for number in range(1000)])
    file = tmp_path / "theirs.parquet"
    options = {"trace_id": {"ndv": 1000, "fpp": 0.01}}
    pq.write_table(pa.table({"trace_id": ids}), file, bloom_filter_options=options)
    column = pq.read_metadata(file).row_group(0).column(0)
    raw = file.read_bytes()[column.bloom_filter_offset :][: column.bloom_filter_length]
    characters = np.frombuffer(ids.buffers()[2], np.uint8).reshape(-1, 32)
    assert raw.endswith(bloom_filter(characters, 1000)[-2048:])


def test_texts_come_as_dictionaries_however_the_file_keeps_them(tmp_path: Path) -> None:
    few = pa.array(["a", "b", None] * 50)
    many = pa.array([f"{number}" for number in range(150)])
    schema = pa.schema([pa.field("few", TEXT), pa.field("many", TEXT)])
    file = tmp_path / "texts.parquet"
    file.write_bytes(written(pa.table([few, many], schema=schema), schema=schema))
    kind = pa.dictionary(pa.int32(), TEXT)
    with open_numbered(file, schema.names) as opened:
        read = opened.read()
    assert pa.types.is_dictionary(read["few"].type)
    for name, texts in (("few", few), ("many", many)):
        column = numbered(read[name], kind)
        assert column.type == kind
        assert column.cast(TEXT).combine_chunks().equals(texts)


def test_integers_that_are_far_apart_are_kept_plainly() -> None:
    near, far = np.arange(1000, dtype=np.int64), np.array([-(2**63), 2**63 - 1], np.int64)
    assert encodings.integers(near, 0, 999)[0] == encodings.DELTA_BINARY
    assert encodings.integers(far, int(far[0]), int(far[1]))[0] == encodings.PLAIN


@pytest.fixture(scope="module")
def _loops() -> Iterator[None]:
    """Load the compiled loops for one test only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "_loaded", None)
        loops.load()
        yield


@pytest.mark.usefixtures("_loops")
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40_000), st.integers(0, 2**32), st.binary(max_size=40))
def test_digits_come_back_from_zstd(more: int, seed: int, before: bytes) -> None:
    words = digits.LEAST_DIGITS // 8 + more
    raw = np.random.default_rng(seed).bytes(4 * words)
    texts = np.frombuffer(raw.hex().encode(), np.uint8)
    frame = digits.frame([before, b"x"], texts)
    whole = before + b"x" + texts.tobytes()
    assert frame is not None
    assert pa.Codec("zstd").decompress(frame, len(whole), asbytes=True) == whole
    assert len(frame) < len(whole) * 0.52


@pytest.mark.usefixtures("_loops")
@pytest.mark.parametrize("place", [0, 63, 64, 16_383])
def test_other_characters_than_digits_are_left_to_zstd(place: int) -> None:
    for byte in range(256):
        texts = np.full(digits.LEAST_DIGITS, ord("7"), np.uint8)
        texts[place] = byte
        assert (digits.frame([b""], texts) is not None) == (byte in b"0123456789abcdef"), byte


@pytest.mark.usefixtures("_loops")
def test_ids_are_read_by_all(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    schema = pa.schema([pa.field("trace_id", TEXT, nullable=False), pa.field("id", TEXT)])
    ids = [draw.bytes(16).hex() for _ in range(40_000)]
    table = pa.table([ids, [one[:16] if one < "e" else None for one in ids]], schema=schema)
    options = {"statistics": {"trace_id"}, "bloom_filters": {"trace_id": 40_000}}
    content = written(table, table.slice(1, 9_999), schema=schema, **options)
    file = tmp_path / "ids.parquet"
    file.write_bytes(content)
    wanted = pa.concat_tables([table, table.slice(1, 9_999)])
    assert pq.read_table(file).equals(wanted)
    assert duckdb.sql(f"select * from '{file}'").to_arrow_table().cast(schema).equals(wanted)
    assert pl.read_parquet(file).to_arrow().cast(schema).equals(wanted)
    bounds = pq.read_metadata(file).row_group(0).column(0).statistics
    assert (bounds.min, bounds.max) == (min(ids), max(ids))


@pytest.mark.usefixtures("_loops")
@pytest.mark.parametrize("count", [1, 7, 3000])
def test_a_bloom_filter_is_the_same_without_the_loops(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.random.default_rng(count).integers(0, 256, (count, 32), np.uint8)
    ids.setflags(write=False)
    quick = bloom_filter(ids, count)
    monkeypatch.setattr(loops, "_loaded", None)
    assert bloom_filter(ids, count) == quick


READERS = {
    "pyarrow": lambda file: pq.read_table(file),
    "duckdb": lambda file: duckdb.sql(f"select * from '{file}'").to_arrow_table(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("rows", [3, 3000])
def test_no_reader_takes_a_changed_page_for_data(tmp_path: Path, reader: str, rows: int) -> None:
    draw = np.random.default_rng(rows)
    table = pa.table(
        {"id": draw.integers(0, 2**40, rows), "word": [f"w{n % 7}" for n in range(rows)]}
    )
    content = written(table, schema=table.schema)
    file = tmp_path / "part.parquet"
    file.write_bytes(content)
    whole = READERS[reader](file)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for at in draw.integers(4, footer, 60).tolist():
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        file.write_bytes(changed)
        try:
            read = READERS[reader](file)
        except (pa.ArrowException, OSError, duckdb.Error):
            continue
        assert read.equals(whole), at
