import json
from pathlib import Path

import bench_nab
import nab_scoring
import numpy as np
import pytest
from nab_scoring import Labels, Profile

from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadInput, NotFound

STANDARD = Profile(1.0, 0.11, 1.0)
LOW_MISSES = Profile(1.0, 0.11, 2.0)
# Two windows of 20 points in 200; 30 points of probation.
LABELS = Labels(200, ((60, 79), (120, 139)))
ONE = np.array([1.0])


def _score(*places: int, profile: Profile = STANDARD) -> float:
    scores = np.zeros(LABELS.points)
    scores[list(places)] = 1.0
    raw = nab_scoring.raw_scores(scores, LABELS, ONE, profile)
    return float(nab_scoring.normalised(raw, [LABELS], profile)[0])


def test_no_detection_scores_0_and_a_perfect_detector_100() -> None:
    assert _score() == 0.0
    assert _score(60, 120) == pytest.approx(100.0)
    assert _score(60, 120, profile=LOW_MISSES) == pytest.approx(100.0)


def test_a_later_detection_in_a_window_counts_less_and_only_the_first_counts() -> None:
    assert _score(60) > _score(70) > _score(79) > 0.0
    assert _score(70, 75, 79) == _score(70)


def test_the_first_scored_points_are_a_probation() -> None:
    assert LABELS.probation == 30
    assert _score(0, 29) == 0.0
    assert _score(30) < 0.0
    assert Labels(10_000, ()).probation == 750


def test_a_false_positive_costs_its_weight_and_less_close_behind_a_window() -> None:
    # Before any window: 0.11 of the 4 between null (-2) and perfect (2).
    assert _score(40) == pytest.approx(-100.0 * 0.11 / 4.0)
    assert _score(40) < _score(81) < 0.0
    # One width behind the window: 0.11 (2 / (1 + e^5) - 1), by the definition.
    at = 79 + 19
    expected = 0.11 * (2.0 / (1.0 + np.exp(5.0)) - 1.0)
    assert _score(at) == pytest.approx(100.0 * expected / 4.0)


def test_a_missed_window_costs_more_where_misses_weigh_more() -> None:
    assert _score(60) == pytest.approx(50.0)
    assert _score(60, profile=LOW_MISSES) == pytest.approx(50.0)
    assert _score(60, 40, profile=LOW_MISSES) > _score(60, 40)


def test_the_middle_of_a_window_weighs_as_the_definition_says() -> None:
    weights = nab_scoring.point_weights(LABELS)
    best = 2.0 / (1.0 + np.exp(-5.0)) - 1.0
    assert weights[60] == pytest.approx(1.0)
    assert weights[70] == pytest.approx((2.0 / (1.0 + np.exp(-2.5)) - 1.0) / best)
    assert weights[0] == -1.0 and weights[199] == pytest.approx(-1.0)


def test_many_thresholds_score_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    scores = np.round(rng.random(LABELS.points), 2)
    scores[::7] = np.nan
    thresholds = nab_scoring.candidate_thresholds([scores], [LABELS])
    together = nab_scoring.raw_scores(scores, LABELS, thresholds, STANDARD)
    single = [
        nab_scoring.raw_scores(scores, LABELS, np.array([one]), STANDARD)[0] for one in thresholds
    ]
    np.testing.assert_allclose(together, single)
    assert together[-1] == -2.0  # above every score nothing is detected


def test_a_folder_of_the_benchmarks_layout_is_read_and_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _benchmark(tmp_path)
    monkeypatch.setattr("sys.argv", ["bench_nab.py", str(tmp_path)])
    assert bench_nab.main() == 0
    printed = capsys.readouterr().out
    assert "2 files, 8,000 points, 1 windows" in printed
    # The spike is the only thing there is, found at the middle of its window.
    assert "standard               92" in printed or "standard               93" in printed
    assert "fixed on these files" in printed
    monkeypatch.setattr("sys.argv", ["bench_nab.py", str(tmp_path), "--threshold", "1e9"])
    assert bench_nab.main() == 0
    assert "standard                0.0" in capsys.readouterr().out


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"combined_windows.json; give a folder"):
        bench_nab.read(tmp_path)
    _benchmark(tmp_path)
    labels = tmp_path / "labels" / "combined_windows.json"
    labels.write_text(json.dumps({"a/quiet.csv": [["2015-01-01 00:01:00", "2015-01-02 00:00:00"]]}))
    with pytest.raises(BadInput, match=r"a window of a/quiet.csv begins or ends at a time"):
        bench_nab.read(tmp_path)
    (tmp_path / "data" / "a" / "quiet.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match=r"quiet.csv has no columns timestamp and value"):
        bench_nab.read(tmp_path)
    labels.write_text("{")
    with pytest.raises(BadInput, match=r"is no JSON"):
        bench_nab.read(tmp_path)


def test_the_detector_keeps_its_score_on_the_recorded_part(real_data: Path) -> None:
    files = bench_nab.read(real_data / "nab")
    params = settings.load().params.detector
    scores = bench_nab.detect(files, params)
    standard = bench_nab.score(scores, files, bench_nab.PROFILES["standard"], params.threshold)
    assert standard >= 65.0
    halves, families = bench_nab.cross_validated(scores, files, bench_nab.PROFILES["standard"])
    assert min(halves, families) >= 62.0


def _benchmark(folder: Path) -> None:
    """Two series of noise, one with a spike in the middle of its window."""
    rng = np.random.default_rng(3)
    stamps = np.datetime64("2015-01-01T00:00:00") + np.arange(4_000) * np.timedelta64(300, "s")
    for name, spike in (("quiet", 0.0), ("spike", 40.0)):
        values = rng.normal(10.0, 1.0, stamps.size)
        values[3_000] += spike
        lines = [
            f"{str(at).replace('T', ' ')},{one}" for at, one in zip(stamps, values, strict=True)
        ]
        file = folder / "data" / "a" / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("timestamp,value\n" + "\n".join(lines) + "\n")
    window = [f"{str(stamps[at]).replace('T', ' ')}.000000" for at in (2_900, 3_100)]
    labels = folder / "labels" / "combined_windows.json"
    labels.parent.mkdir(exist_ok=True)
    labels.write_text(
        json.dumps({"a/quiet.csv": [], "a/spike.csv": [window], "a/elsewhere.csv": []})
    )
