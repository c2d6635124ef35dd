"""How often would this have fired? For our alerts, and for other rules that can be replayed."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import small_run
from click.testing import CliRunner

from apm_analytics.alerts.gate import backtest, replayable
from apm_analytics.alerts.prometheus import rules, signal_specs
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.cli import apm
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadParameter, NotEnoughData, NotFound
from apm_analytics.foundation.settings import Params, Settings
from apm_analytics.signals.calendar import Calendar

START = datetime(2026, 3, 2)
NOTHING = Calendar()  # no labels
INCIDENT = START + timedelta(days=2, minutes=-45)

RULES = """\
groups:
  - name: mine
    rules:
      - record: x
        expr: vector(1)
      - alert: Slow
        expr: apm:latency_p95:seconds{service="storefront", operation="POST /checkout"} > 1
        for: 10m
        keep_firing_for: 1m30s
      - alert: Learned
        expr: >-
          apm:error_ratio:sustained
          > on (service, operation) apm:baseline_upper:current{signal="error_ratio"}
      - alert: WrongSide
        expr: apm:rate:sustained < on (service, operation) apm:baseline_upper:current{signal="rate"}
      - alert: Foreign
        expr: node_load1 > 4
      - alert: Sum
        expr: sum by (service) (apm:rate:per_second) > 4
      - alert: Pattern
        expr: apm:rate:per_second{service=~"a.*"} > 4
      - alert: Label
        expr: apm:rate:per_second{env="prod"} > 4
"""


@pytest.fixture(scope="module")
def held() -> Settings:
    return settings.load()


@pytest.fixture(scope="module")
def params(held: Settings) -> Params:
    return held.params


@pytest.fixture(scope="module")
def specs(workspace: Path) -> dict[str, SignalSpec]:
    return signal_specs.load(workspace / "specs")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write(tmp_path_factory.mktemp("run"), trained=False).lake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "rules.yml"
    found.write_text(RULES)
    return found


def test_every_generated_alert_can_be_replayed(
    specs: dict[str, SignalSpec], params: Params
) -> None:
    document = rules.document(specs, params, "/srv/runs")
    names = [rule["alert"] for rule in document["groups"][0]["rules"] if "alert" in rule]
    for name in names:
        if name != rules.STALE:
            assert replayable.find(name, specs, params).name == name


def test_a_rule_of_a_file_is_read_with_its_matchers_and_waits(
    specs: dict[str, SignalSpec], params: Params, file: Path
) -> None:
    slow = replayable.find("Slow", specs, params, [file])
    assert (slow.signal, slow.sign, slow.threshold, slow.sustained) == (
        "latency_p95",
        ">",
        1,
        False,
    )
    assert (slow.for_s, slow.keep_firing_s) == (600, 90)
    assert (slow.service, slow.operation) == ("storefront", "POST /checkout")
    learned = replayable.find("Learned", specs, params, [file])
    assert (learned.signal, learned.threshold, learned.sustained) == ("error_ratio", None, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WrongSide", r"needs the lower threshold"),
        ("Foreign", r"node_load1 is none of the recorded signals"),
        ("Sum", r"cannot replay 'sum by .*supported are"),
        ("Pattern", r"cannot read the matcher 'service=~\"a\.\*\"'"),
        ("Label", r"unknown labels \['env'\]"),
    ],
)
def test_a_rule_that_cannot_be_replayed_is_refused_with_what_can(
    specs: dict[str, SignalSpec], params: Params, file: Path, name: str, message: str
) -> None:
    with pytest.raises(BadParameter, match=message):
        replayable.find(name, specs, params, [file])


def test_an_unknown_alert_and_a_file_that_holds_no_rules_are_refused(
    specs: dict[str, SignalSpec], params: Params, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=r"no alert 'Nope'; there are .*ApmLatencyAboveBaseline"):
        replayable.find("Nope", specs, params)
    for text in ("", "groups: 3", "- a", "groups: [{rules: [{alert: A}]}]", "a: ["):
        wrong = tmp_path / "wrong.yml"
        wrong.write_text(text)
        with pytest.raises(BadParameter, match=r"cannot read .*promtool check rules|:1: not YAML"):
            replayable.find("Nope", specs, params, [wrong])


@pytest.mark.parametrize(
    ("text", "value"), [("5m", 300), ("1h30m", 5400), ("90s", 90), ("500ms", 0.5), ("0s", 0)]
)
def test_prometheus_durations_are_read(text: str, value: float) -> None:
    assert replayable.seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "5x", "-5m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="need a duration"):
        replayable.seconds(text)


def test_an_alert_fires_in_the_incident_and_with_a_higher_threshold_not(
    lake: Path, held: Settings, file: Path
) -> None:
    found = backtest.run(lake, "Slow", held, NOTHING, since=START, files=[file])
    assert found.fired.select("service_name", "operation").unique().rows() == [small_run.SLOW]
    assert INCIDENT < found.fired["start"].min() < INCIDENT + timedelta(minutes=25)  # type: ignore[operator]
    assert found.fired["ongoing"].to_list() == [True]
    assert found.lines()[0].startswith("Slow: would have fired 1 times in 2.0 days")
    assert backtest.run(
        lake, "Slow", held, NOTHING, since=START, files=[file], threshold=9
    ).fired.is_empty()
    waits = backtest.run(lake, "Slow", held, NOTHING, since=START, files=[file], for_s=7200)
    assert waits.fired.is_empty()
    before = backtest.run(lake, "Slow", held, NOTHING, since=START, until=INCIDENT, files=[file])
    assert before.fired.is_empty()


def test_a_learned_alert_is_replayed_on_days_it_was_not_trained_on(
    lake: Path, held: Settings
) -> None:
    found = backtest.run(lake, "ApmErrorRatioAboveBaseline", held, NOTHING, since=START)
    # Of two days, the first is trained on and the second is replayed.
    assert found.since == pytest.approx(START + timedelta(days=1), abs=timedelta(minutes=10))
    fired = found.fired.select("service_name", "operation").unique().rows()
    assert set(fired) == {small_run.SLOW, ("payment", "POST /charge")}


def test_nothing_to_replay_and_times_that_are_swapped_are_refused(
    lake: Path, held: Settings
) -> None:
    name = "ApmErrorRatioAboveStatic"
    with pytest.raises(NotEnoughData, match="no whole window after"):
        backtest.run(lake, name, held, NOTHING, since=START + timedelta(days=9))
    with pytest.raises(BadParameter, match="not after since"):
        backtest.run(lake, name, held, NOTHING, since=START, until=START)


def test_the_command_prints_a_table_csv_or_json(lake: Path, file: Path) -> None:
    asked = ["backtest", "--lake", str(lake), "--alert", "Slow", "--since", "2026-03-02"]
    asked += ["--rules", str(file), "--no-progress"]
    table = CliRunner().invoke(apm, asked)
    assert table.exit_code == 0, table.output
    assert "Slow: would have fired 1 times" in table.output
    assert "incidents met: none" in table.output
    found = json.loads(CliRunner().invoke(apm, [*asked, "--format", "json"]).output)
    assert [row["operation"] for row in found] == ["POST /checkout"]
    csv = CliRunner().invoke(apm, [*asked, "--format", "csv"]).output.splitlines()
    assert csv[0].startswith("service_name,operation,start,end") and len(csv) == 2
