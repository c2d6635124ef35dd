from pathlib import Path

import polars as pl
import pytest
import small_run

from apm_analytics.baselines.training import trained
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import NotEnoughData, NotFound


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> small_run.SmallRun:
    return small_run.write(tmp_path_factory.mktemp("run"))


def test_a_short_history_is_said_to_have_no_season(run: small_run.SmallRun) -> None:
    frames = [trained.frame(run.derived, name) for name in ("features", "bounds", "skipped")]
    sentence = trained.summary(*frames, settings.load().params).data
    assert sentence.startswith("The history covers 47.8 h. Series with a baseline: 15 robust.")
    assert "less than 7 days, so no season could be learned" in sentence
    assert sentence.endswith("9 series could not be learned from and have none.")


def test_features_without_a_window_say_what_to_do(run: small_run.SmallRun) -> None:
    frames = [trained.frame(run.derived, name) for name in ("features", "bounds", "skipped")]
    with pytest.raises(NotEnoughData, match="train again"):
        trained.summary(frames[0].clear(), frames[1], frames[2], settings.load().params)


def test_metrics_and_cards_are_read_for_people(run: small_run.SmallRun) -> None:
    metrics = trained.metrics(run.models)
    (rates,) = metrics.filter(of="trained / robust / rate").to_dicts()
    assert rates["n_series"] == 7 and 0 <= rates["flagged"] < 0.1
    assert "history" in metrics["of"].to_list()
    assert trained.cards(run.models).data.count("<summary>") == 2
    title = (run.models / "baselines" / "card.md").read_text().splitlines()[0].removeprefix("# ")
    assert f"<summary>{title}</summary>" in trained.cards(run.models).data


def test_what_was_not_trained_says_how_to_train(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="apm nightly"):
        trained.frame(tmp_path, "bounds")
    with pytest.raises(NotFound, match="apm nightly"):
        trained.metrics(tmp_path)
    assert trained.frame_before(tmp_path) is None
    assert "no model cards" in trained.cards(tmp_path).data


def test_thresholds_moved_when_they_differ_by_a_tenth() -> None:
    changes = pl.DataFrame(
        {
            "service_name": ["shop"] * 5,
            "operation": ["a", "b", "c", "d", "e"],
            "signal": ["rate"] * 5,
            "bound": ["upper"] * 5,
            "ratio": [1.05, 0.5, 1.2, None, 3.0],
            "change": ["kept", "kept", "kept", "kept", "new"],
        }
    )
    assert trained.moved(changes)["operation"].to_list() == ["b", "c", "d"]
