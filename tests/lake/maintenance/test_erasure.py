"""`erase` removes a person from every table and file of the lake, and nobody else."""

import json
import os
from pathlib import Path
from typing import Any

import live_receiver
import otlp_requests
import pytest
from click.testing import CliRunner
from rows import MONDAY_NS, spans, table

from apm_analytics import cli
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.ingest.receiver import Config
from apm_analytics.lake import query, snapshots
from apm_analytics.lake.hot import HotView
from apm_analytics.lake.maintenance import compaction
from apm_analytics.lake.maintenance.erasure import erase
from apm_analytics.lake.maintenance.verify import verify

ANNA, BEN = "anna-17", "ben-18"


def event(user: str) -> dict[str, Any]:
    return {"time": 1, "name": "login", "attributes": [("enduser.id", user)]}


def mentions(user: str) -> dict[str, dict[str, Any]]:
    """Every way in which a record can carry an id, by table."""
    link = {"trace_id": "t", "span_id": "s", "attributes": [("user.id", user)]}
    ways = [
        {"user_id": user},
        {"attributes": [("user.id", user)]},
        {"attributes": [("enduser.id", user)]},
        {"resource_attributes": [("user.id", user)]},
        {"scope_attributes": [("user.id", user)]},
        {"events": [event("someone else"), event(user)]},
        {"links": [link]},
    ]
    names = sorted({name for way in ways for name in way})
    base = {"duration_ns": 1, "trace_id": "t", "span_id": "s", "name": user}
    rows = [{**base, **way} for way in ways]
    return {
        "spans": {
            **{name: [row.get(name) for row in rows] for name in (*base, *names)},
            "time": [MONDAY_NS + number for number in range(len(rows))],
        },
        "logs": {"time": [MONDAY_NS], "body": [user], "user_id": [user]},
        "metric_points": {
            "time": [MONDAY_NS, MONDAY_NS],
            "name": [f"of {user}", "shared"],
            "value": [1.0, 2.0],
            "user_id": [user, None],
            "exemplars": [
                None,
                [
                    {"time": 1, "value": 1.0, "attributes": [("user.id", one)]}
                    for one in (user, "someone else")
                ],
            ],
        },
    }


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    for user in (ANNA, BEN):
        columns = mentions(user)
        snapshots.append(tmp_path, {name: table(name, one) for name, one in columns.items()})
    snapshots.append(tmp_path, {"spans": spans([60], name="nobody's")})
    return tmp_path


def receipt_of(lake: Path, user: str, **knobs: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(erase(lake, user, **knobs).read_text())
    return content


def names(lake: Path, of: str = "spans") -> list[str]:
    with query.connect(lake) as con:
        return [row[0] for row in con.execute(f"select name from {of} order by 1").fetchall()]


def everything(lake: Path) -> bytes:
    """All bytes of all files of the lake, Parquet decoded."""
    with query.connect(lake) as con:
        tables = [
            str(query.frame(con, f"select * from {name}").to_dicts()).encode()
            for name in ("spans", "logs", "metric_points")
        ]
    others = [
        file.read_bytes()
        for file in lake.rglob("*")
        if file.suffix != ".parquet" and file.is_file()
    ]
    return b"".join([*tables, *others])


def test_a_person_goes_from_every_table_and_nobody_else_does(lake: Path) -> None:
    said = receipt_of(lake, ANNA)
    assert said["records"] == {
        "spans": 7,
        "logs": 1,
        "metric_points": 2,
        "histogram_points": 0,
        "exp_histogram_points": 0,
        "summary_points": 0,
    }
    assert ANNA.encode() not in everything(lake)
    assert names(lake) == [BEN] * 7 + ["nobody's"]
    assert names(lake, "metric_points") == [f"of {BEN}", "shared", "shared"]
    with query.connect(lake) as con:
        [left] = con.execute(
            "select len(exemplars) from metric_points where name = 'shared' order by 1"
        ).fetchall()[:1]
    assert left == (1,)
    assert verify(lake, now_s=4e9).sound


def test_a_second_run_finds_nothing_and_the_receipt_does_not_name_the_person(lake: Path) -> None:
    first, second = receipt_of(lake, ANNA, now_s=1e9), receipt_of(lake, ANNA, now_s=1e9 + 60)
    assert sum(second["records"].values()) == second["parts_rewritten"] == 0
    assert first["user_id_hmac_sha256"] == second["user_id_hmac_sha256"]
    assert ANNA not in json.dumps(first)
    assert receipt_of(lake, BEN, now_s=1e9)["user_id_hmac_sha256"] != first["user_id_hmac_sha256"]
    assert (lake / "receipts/key").stat().st_mode & 0o077 == 0
    assert first["version"] and first["erased_at"] == "2001-09-09T01:46:40+00:00"


def test_replaced_files_that_still_hold_the_person_are_deleted_at_once(lake: Path) -> None:
    compaction.compact(lake)
    before = set(lake.rglob("*.parquet"))
    with query.connect(lake) as reader:
        receipt_of(lake, ANNA)
        assert ANNA not in str(query.frame(reader, "select * from spans").to_dicts())
    for file in set(lake.rglob("*.parquet")) & before:
        with query.offline() as con:
            assert ANNA not in str(con.execute(f"select * from '{file}'").fetchall())


def test_hot_views_forget_the_person(lake: Path) -> None:
    view = HotView(lake)
    assert view.spans().num_rows == 15
    erase(lake, ANNA)
    view.refresh()
    assert view.spans()["name"].to_pylist().count(ANNA) == 0
    assert view.spans().num_rows == 8


def test_dead_letters_and_damaged_segments_that_mention_the_person_go(lake: Path) -> None:
    def record(user: str) -> dict[str, Any]:
        attribute = {"key": "user.id", "value": {"stringValue": user}}
        return {
            "record": {
                "resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": [attribute]}]}]}]
            }
        }

    letters = [record(ANNA), record(BEN), {"document": f"broken {ANNA}"}, {"document": "whole"}]
    folder = lake / "dead_letter"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in letters))
    (folder / "b.jsonl").write_text(json.dumps(letters[0]) + "\n")
    journal = lake / "journal/writer"
    journal.mkdir(parents=True)
    (journal / "1.damaged").write_bytes(b"\x0a\x07" + ANNA.encode() + b"\x12")
    (journal / "2.damaged").write_bytes(b"\x0a\x06" + BEN.encode())
    (journal / "3.segment").write_bytes(b"\x0a\x07" + ANNA.encode())
    said = receipt_of(lake, ANNA)
    assert (said["dead_letters"], said["damaged_segments"], said["journal_segments_left"]) == (
        3,
        1,
        1,
    )
    assert [json.loads(one) for one in (folder / "a.jsonl").read_text().splitlines()] == [
        letters[1],
        letters[3],
    ]
    assert sorted(file.name for file in folder.iterdir()) == ["a.jsonl"]
    assert sorted(file.name for file in journal.iterdir()) == ["2.damaged", "3.segment"]
    done = CliRunner().invoke(cli.apm, ["lake", "erase", "--lake", str(lake), "--user", ANNA])
    assert done.exit_code == 1 and "apm receive" in done.output


def test_a_number_as_an_id_is_found_as_one(tmp_path: Path) -> None:
    columns = {
        "time": [MONDAY_NS, MONDAY_NS],
        "body": ["a", "b"],
        "attributes_num": [[("user.id", 42.0)], [("user.id", 43.0)]],
    }
    snapshots.append(tmp_path, {"logs": table("logs", columns)})
    done = CliRunner().invoke(cli.apm, ["lake", "erase", "--lake", str(tmp_path), "--user", "42"])
    assert done.exit_code == 0 and "removed 1 logs" in done.output
    with query.connect(tmp_path) as con:
        assert con.execute("select body from logs").fetchall() == [("b",)]


def test_where_others_mention_the_person_the_id_is_masked(tmp_path: Path) -> None:
    user = "anna@example.org"
    event_ = {"time": 1, "name": f"mail to {user}", "attributes": [("to", user)]}
    columns = {
        "time": [MONDAY_NS, MONDAY_NS + 1],
        "duration_ns": [1, 1],
        "trace_id": ["t", "u"],
        "span_id": ["s", "s"],
        "name": [f"GET /users/{user}", f"GET /users/x{user}"],
        "service_name": [user, user],
        "url_path": ["/users/anna%40example.org", None],
        "attributes": [[("mail", f"{user} {user},{user}"), (user, "1")], []],
        "resource_attributes": [[("owner", f"<{user}>")], None],
        "events": [[event_], [{**event_, "name": f"{user}.uk", "attributes": [("to", "ben")]}]],
        "links": [[{"trace_id": user, "span_id": "s", "attributes": [("a", user)]}], None],
    }
    snapshots.append(tmp_path, {"spans": table("spans", columns)})
    snapshots.append(
        tmp_path, {"logs": table("logs", {"time": [MONDAY_NS], "body": [f"{user}\nlogged in"]})}
    )
    compaction.compact(tmp_path)
    said = receipt_of(tmp_path, user)
    assert (said["masked"]["spans"], said["masked"]["logs"]) == (2, 1)
    assert sum(said["records"].values()) == 0
    with query.connect(tmp_path) as con:
        first, second = query.frame(con, "select * from spans order by time").to_dicts()
        [body] = con.execute("select body from logs").fetchall()
    assert body == ("[erased]\nlogged in",)
    assert (first["name"], first["url_path"]) == ("GET /users/[erased]", "/users/[erased]")
    assert first["attributes"] == {"mail": "[erased] [erased],[erased]", user: "1"}
    assert first["resource_attributes"] == {"owner": "<[erased]>"}
    assert first["events"][0]["name"] == "mail to [erased]"
    assert first["events"][0]["attributes"] == {"to": "[erased]"}
    # An id that equals the name of a service or a trace does not rename it.
    assert first["service_name"] == first["links"][0]["trace_id"] == user
    assert first["links"][0]["attributes"] == {"a": "[erased]"}
    # A longer word that contains the id is not masked; a dot ends a word.
    assert second["name"] == f"GET /users/x{user}"
    assert second["events"][0]["name"] == "[erased].uk"
    again = receipt_of(tmp_path, user)
    assert again["parts_rewritten"] == sum(again["masked"].values()) == 0


def test_a_short_id_is_looked_for_in_its_attributes_only_and_that_is_said(tmp_path: Path) -> None:
    columns = {
        "time": [MONDAY_NS, MONDAY_NS],
        "body": ["took 42 ms", "mine"],
        "user_id": [None, "42"],
    }
    snapshots.append(tmp_path, {"logs": table("logs", columns)})
    done = CliRunner().invoke(cli.apm, ["lake", "erase", "--lake", str(tmp_path), "--user", "42"])
    assert done.exit_code == 0 and "too short" in done.output
    with query.connect(tmp_path) as con:
        assert con.execute("select body from logs").fetchall() == [("took 42 ms",)]


def test_what_a_running_receiver_holds_is_waited_for(tmp_path: Path) -> None:
    request = otlp_requests.traces(2)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.append(otlp_requests.attribute("user.id", ANNA))
    with live_receiver.running(Config(tmp_path)) as receiver:
        with live_receiver.exporting(receiver.grpc_port) as export:
            assert export(request.SerializeToString()) == b""
        said = receipt_of(tmp_path, ANNA)
    assert (said["records"]["spans"], said["journal_segments_left"]) == (1, 0)
    assert live_receiver.count(tmp_path) == 1
    assert not [file for file in tmp_path.rglob("*") if ANNA.encode() in read(file)]


def read(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def test_what_a_killed_process_left_goes_too(lake: Path) -> None:
    [live, *_] = lake.rglob("spans/*/*/*.parquet")
    stray, ours = live.with_name("stray.parquet"), live.with_name(f".x.{os.getpid()}.tmp")
    gone = live.with_name(".x.4194305.tmp")  # no process has so large a number
    for file in (stray, ours, gone):
        file.write_bytes(ANNA.encode())
    erase(lake, BEN)
    assert (stray.exists(), ours.exists(), gone.exists()) == (False, True, False)


def test_an_empty_id_is_refused(lake: Path) -> None:
    with pytest.raises(BadParameter, match="need the user"):
        erase(lake, " ")
