"""`signals.saturation`: resources are recognised by the names of gauges, and forests use them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rows import MONDAY_NS, NS_PER_S, table
from telemetry import START, WINDOW_S, features

from apm_analytics.baselines.training import training
from apm_analytics.baselines.training.evaluate import evaluate
from apm_analytics.foundation import settings
from apm_analytics.lake import query, snapshots
from apm_analytics.signals.saturation import SCHEMA, saturation

GAUGES = [  # name, unit, kind, instance, value
    ("process.cpu.utilization", "1", "gauge", "a", 0.25),
    ("process.cpu.utilization", "1", "gauge", "b", 0.75),
    ("train_ticket.memory_usage_rate", "%", "gauge", "a", 40.0),
    ("process.memory.usage", "By", "gauge", "a", 2e9),
    ("process.cpu.time", "s", "sum", "a", 12.0),
    ("db.client.connection.utilization", "1", "gauge", "a", float("nan")),
]


def test_gauges_named_utilization_are_shares_averaged_over_instances(tmp_path: Path) -> None:
    columns = dict(
        zip(("name", "unit", "kind", "instance", "value"), zip(*GAUGES, strict=True), strict=True)
    )
    rows = {
        "time": [MONDAY_NS + step * 60 * NS_PER_S for step in range(len(GAUGES))],
        "service_name": ["cart"] * len(GAUGES),
        "service_instance_id": list(columns.pop("instance")),
        **{name: list(values) for name, values in columns.items()},
    }
    snapshots.append(tmp_path, {"metric_points": table("metric_points", rows)})
    with query.connect(tmp_path) as con:
        shares = saturation(con, window_s=300)
    assert shares.schema == pl.Schema(SCHEMA)
    assert shares.select("service_name", "resource", "share").rows() == [
        ("cart", "process.cpu.utilization", 0.5),
        ("cart", "train_ticket.memory_usage_rate", pytest.approx(0.4)),
    ]


def test_a_lake_without_such_gauges_has_no_saturation(tmp_path: Path) -> None:
    snapshots.append(tmp_path, {"logs": table("logs", {"time": [MONDAY_NS]})})
    with query.connect(tmp_path) as con:
        assert saturation(con, window_s=300).is_empty()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_forest_finds_a_full_resource_and_names_it(workspace: Path, seed: int) -> None:
    params = settings.load_params(workspace / "params.yaml").baselines
    drawn = features(15, seed=seed)
    count = drawn.height
    day = np.arange(count) * WINDOW_S / 86_400
    draw = np.random.default_rng(seed)
    share = 0.4 + 0.15 * np.sin(2 * np.pi * day) + draw.normal(0, 0.02, count)
    full = (day >= 12.25) & (day < 12.375)
    share[full] = 0.97
    resources = pl.DataFrame(
        {
            "service_name": ["shop"] * count + ["elsewhere"],
            "resource": ["process.cpu.utilization"] * (count + 1),
            "time": [*drawn["time"], START.astype(object)],
            "share": [*share, 0.5],
        },
        schema=SCHEMA,
    )
    knobs = {"window_s": WINDOW_S, "seed": 7, "workers": 1}
    trained = training.train(drawn, params, saturation=resources, **knobs)
    together = trained.scores.filter(signal="together")["score"].to_numpy()
    assert trained.forests["shop", "GET /"].signals[-1] == "saturation"
    assert np.mean(together[full] > 1) > 0.9
    assert np.mean(together[~full] > 1) < 0.015
    hot = trained.contributions.filter(pl.col("time").is_in(drawn["time"].filter(full).implode()))
    assert hot["saturation"].mean() > 0.7  # type: ignore[operator]
    without = training.train(drawn, params, **knobs)
    assert without.forests["shop", "GET /"].signals == ("latency_p95", "rate", "error_ratio")
    assert without.contributions["saturation"].is_null().all()
    assert without.bounds.equals(trained.bounds)
    held_out = evaluate(drawn, params, window_s=WINDOW_S, seed=7, saturation=resources)
    assert held_out.metrics["forest"]["together"]["flagged"] > 0.9 * full.sum() / (7 * 288)
