"""Whatever text a user gives to an option, the answer is a message, never a traceback."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rows import spans
from write_protection import read_only

from apm_analytics import cli
from apm_analytics.foundation.errors import ApmError
from apm_analytics.lake import snapshots

# One of each kind that was once not expected.
TEXTS = [
    *("", "=b", "a=b", "[x", "{x}", "'; drop", "\u0663", "\udc80", "../../x"),
    *("-1", "nan", "1e999", "9" * 5_000, "26-03", "9999-12", "0001-01-01", "99999999999d"),
]
# What a command needs besides the option under test; each ends by itself.
OTHERS = {
    "simulate": ["--days=1", "--spans=1000"],
    "backtest": ["--alert", "ApmLatencyAboveBaseline", "--since", "2026-03-02"],
    "impact": ["--from", "2026-03-02T01:00", "--to", "2026-03-02T02:00"],
    "query": ["select $a"],
    "erase": ["--user", "nobody"],
    "watch": ["--once"],
    "receive": ["--tls-cert", __file__],  # without its key
}
SKIPPED = {"plots"}  # only passes its arguments to DVC


def parsed() -> Iterator[tuple[tuple[str, ...], click.Parameter]]:
    """Every option and argument that is neither a path nor a choice, with its command."""
    ways: list[tuple[tuple[str, ...], click.Command]] = [((), cli.apm)]
    while ways:
        path, command = ways.pop()
        if isinstance(command, click.Group):
            ways += [((*path, name), inner) for name, inner in command.commands.items()]
        elif path[-1] not in SKIPPED:
            for parameter in command.params:
                other = isinstance(parameter.type, (click.Path, click.Choice))
                if not other and not getattr(parameter, "is_flag", False):
                    yield path, parameter


PARSED = sorted(parsed(), key=lambda pair: (pair[0], pair[1].name or ""))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("options") / "lake"
    rows = spans(range(0, 36_000, 60), service="storefront", name="POST /checkout")
    snapshots.append(lake, {"spans": rows})
    return lake


@pytest.mark.parametrize(
    ("path", "parameter"), PARSED, ids=[f"{' '.join(path)} {one.name}" for path, one in PARSED]
)
def test_no_text_ends_in_a_traceback(
    lake: Path, tmp_path: Path, path: tuple[str, ...], parameter: click.Parameter
) -> None:
    command: click.Command = cli.apm
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    folders = {"lake": lake, "out": tmp_path, "into": tmp_path}
    given = [f"--{one.name}={folders[one.name]}" for one in command.params if one.name in folders]
    for text in TEXTS:
        others = OTHERS.get(path[-1], [])
        if isinstance(parameter, click.Argument):
            arguments = [*path, *given, "--", text]
        else:
            arguments = [*path, *others, *given, f"{parameter.opts[0]}={text}"]
        done = CliRunner().invoke(cli.apm, arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit | ApmError), (
            f"{arguments}: {done.exception!r}"
        )


@pytest.mark.parametrize(
    "month", ["26-03", "2026-00", "2026-13", "9999-12", "2026-3", "2026-03-01"]
)
def test_a_month_that_is_none_is_named(lake: Path, tmp_path: Path, month: str) -> None:
    arguments = ["slo", "report", f"--lake={lake}", f"--out={tmp_path}", f"--month={month}"]
    with pytest.raises(ApmError, match=f"got the month '{month}', needs one like 2026-03"):
        CliRunner().invoke(cli.apm, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("value", "read"),
    [("3", 3), ("-1.5", -1.5), ("1e3", 1000.0), ("nan", "nan"), ("1_000", "1_000"), ("a=b", "a=b")],
)
def test_a_value_is_a_number_only_if_it_is_written_as_one(
    lake: Path, value: str, read: object
) -> None:
    asked = ["query", "select $a as a", f"--lake={lake}", "--format=json", f"--set=a={value}"]
    assert CliRunner().invoke(cli.apm, asked).output == f'[{{"a":{_json(read)}}}]\n'


def _json(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def apm(*arguments: str | bytes) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "apm_analytics", *arguments],
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["lake", "compact", "--lake", "LAKE"],
        ["nightly", "--lake", "LAKE", "--out", "LAKE/out"],
        ["query", "select 1", "--lake", "LAKE", "--output", "LAKE/x"],
        ["query", "select 1", "--lake", "LAKE", "--output", ""],
        ["slo", "validate", "--specs", "x" * 5_000],
    ],
)
def test_what_the_system_refuses_is_one_line(lake: Path, arguments: list[str]) -> None:
    with read_only(lake):
        done = apm(*(text.replace("LAKE", str(lake)) for text in arguments))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("apm: ")


def test_an_argument_that_is_no_text_is_named() -> None:
    done = apm("import", b"none\xff")
    assert done.returncode == 2 and "does not exist" in done.stderr


def test_a_receiver_that_cannot_listen_ends_with_one_line(lake: Path) -> None:
    port = ["--grpc-port=0", "--http-port=0", "--admin-port=0"]
    done = apm("receive", f"--lake={lake}", *port, "--admin-host=no such host", "--no-retention")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot listen on no such host" in done.stderr
