"""Real PostgreSQL and Redis: one span per query, whatever API makes it, without its data."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from otlp_sink import attributes, otlp_sink

from demo import servers

PROGRAM = """
import asyncio, sys
from apm_analytics import instrument
pipeline = instrument.setup()
import psycopg, redis, sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine
cache, url = sys.argv[1:]
query = "SELECT 'anna@example.com' AS mail, 'hunter2' AS note"
with instrument.transaction("by sqlalchemy"):
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text(query)).one().note == "hunter2"
    with engine.connect() as connection:
        try:
            connection.execute(sqlalchemy.text("SELECT :x::int"), {"x": "hunter2"})
        except sqlalchemy.exc.DBAPIError:
            pass
dsn = url.replace("+psycopg", "")
with instrument.transaction("by psycopg"), psycopg.connect(dsn) as connection:
    connection.execute(query)
async def later():
    with instrument.transaction("by async sqlalchemy"):
        engine = create_async_engine(url.replace("+psycopg", "+psycopg_async"))
        async with engine.connect() as connection:
            await connection.execute(sqlalchemy.text(query))
        await engine.dispose()
asyncio.run(later())
with instrument.transaction("by redis"):
    redis.Redis.from_url(cache).set("basket", "hunter2")
assert pipeline.flush(20)
"""


@pytest.fixture
def postgres_program(server_binary: Callable[[str], Path]) -> None:
    if servers.postgres_program("postgres") is None:
        server_binary("postgres")


def test_a_query_is_one_span_with_any_driver_and_carries_no_data(
    tmp_path: Path, postgres_program: None, server_binary: Callable[[str], Path]
) -> None:
    server_binary("redis-server")
    with (
        servers.postgres() as url,
        servers.redis(tmp_path) as cache,
        otlp_sink() as sink,
    ):
        environ = os.environ | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "APM_PRIVACY_SALT": "pepper",
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, cache, url],
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    spans = sink.spans()
    roots = {span.span_id: span.name for span in spans if not span.parent_span_id}
    below: dict[str, list[dict[str, object]]] = {name: [] for name in roots.values()}
    for span in spans:
        if span.parent_span_id:
            below[roots[span.parent_span_id]].append(attributes(span))
    texts = {name: [one.get("db.query.text") for one in found] for name, found in below.items()}
    query = "SELECT ? AS mail, ? AS note"
    assert texts["by psycopg"] == [query]
    assert texts["by async sqlalchemy"] == [query]
    assert texts["by sqlalchemy"][0] == query and len(texts["by sqlalchemy"]) == 2
    assert texts["by redis"] == ["SET ? ?"]
    assert below["by redis"][0]["db.system.name"] == "redis"
    everything = b"".join(body for _, body in sink.requests)
    assert b"hunter2" not in everything and b"anna@" not in everything
    pool = sink.metrics()["db.client.connections.usage"]
    assert {attributes(point)["state"] for point in pool.sum.data_points} == {"used", "idle"}
