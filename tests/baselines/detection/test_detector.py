from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apm_analytics.baselines.detection.detector import SeriesDetector
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.foundation.errors import BadInput, BadParameter, NotFound
from apm_analytics.foundation.settings import DetectorParams, load

DAY_S = 86_400
EVERY_S = 300.0
PER_DAY = 288
PARAMS: DetectorParams = load().params.detector
SEEDS = range(6)


def _daily(seed: int, days: float = 21, *, weekend: float = 0.0) -> tuple[Floats, Floats]:
    """A daily wave with autocorrelated noise of standard deviation 2."""
    rng = np.random.default_rng(seed)
    times = 1_700_006_400.0 + np.arange(int(days * PER_DAY)) * EVERY_S
    noise = np.zeros(times.size)
    fresh = rng.normal(size=times.size) * 2.0 * 0.75**0.5
    for at in range(1, times.size):
        noise[at] = 0.5 * noise[at - 1] + fresh[at]
    wave = 100.0 + 20.0 * np.sin(2.0 * np.pi * times / DAY_S)
    weekday = ((times // DAY_S).astype(int) + 4) % 7
    return times, wave + noise - weekend * ((weekday == 0) | (weekday == 6))


def _rows(detector: SeriesDetector, times: Floats, values: Floats) -> Floats:
    scores = [detector.update(t, v) for t, v in zip(times, values, strict=True)]
    return np.array(
        [(one.score, one.novelty, one.expected, one.lower, one.upper) for one in scores]
    )


def _columns(detector: SeriesDetector, times: Floats, values: Floats) -> Floats:
    detection = detector.score(times, values)
    return np.column_stack(
        [detection.score, detection.novelty, detection.expected, detection.lower, detection.upper]
    )


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 900), max_size=4),
    interval=st.sampled_from([None, EVERY_S]),
)
def test_scores_are_the_same_however_a_series_arrives(
    seed: int, cuts: list[int], interval: float | None
) -> None:
    times, values = _awkward(seed)
    expected = _columns(SeriesDetector(PARAMS, interval_s=interval), times, values)
    streamed = SeriesDetector(PARAMS, interval_s=interval)
    np.testing.assert_array_equal(_rows(streamed, times, values), expected)
    pieces = SeriesDetector(PARAMS, interval_s=interval)
    bounds = [0, *sorted(cuts), times.size]
    scores = [_columns(pieces, times[a:b], values[a:b]) for a, b in pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate(scores), expected)


@pytest.mark.parametrize("cut", [5, 700])
def test_a_saved_detector_goes_on_as_if_it_had_never_stopped(tmp_path: Path, cut: int) -> None:
    times, values = _awkward(1)
    whole = _columns(SeriesDetector(PARAMS), times, values)
    first = SeriesDetector(PARAMS)
    first.score(times[:cut], values[:cut])
    first.save(tmp_path / "state.npz")
    again = SeriesDetector.load(tmp_path / "state.npz", PARAMS)
    assert again.interval_s == first.interval_s
    np.testing.assert_array_equal(_columns(again, times[cut:], values[cut:]), whole[cut:])


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.npz"
    with pytest.raises(NotFound, match=r"no detector at .*; create a new one"):
        SeriesDetector.load(file, PARAMS)
    file.write_bytes(b"PK no arrays")
    with pytest.raises(BadInput, match=r"is no state of a detector"):
        SeriesDetector.load(file, PARAMS)
    SeriesDetector(PARAMS, interval_s=60.0).save(file)
    with pytest.raises(BadInput, match=r"surprises has shape"):
        SeriesDetector.load(file, PARAMS.model_copy(update={"refractory_points": 7}))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"is no state of a detector"):
        SeriesDetector.load(file, PARAMS)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_spike_of_six_deviations_is_news_at_its_first_point(seed: int) -> None:
    times, values = _daily(seed)
    at = 18 * PER_DAY + 37 * seed
    values[at : at + 3] += 12.0
    detection = SeriesDetector(PARAMS).score(times, values)
    assert detection.score[at] > 1.0 and detection.novelty[at] > 1.0
    assert values[at] > detection.upper[at] or detection.score[at : at + 3].max() > 1.2


def test_a_quiet_series_is_seldom_anomalous() -> None:
    alarms, anomalous, outside, points = 0, 0, 0, 0
    for seed in range(20):
        times, values = _daily(seed, 28)
        detection = SeriesDetector(PARAMS).score(times, values)
        settled = slice(7 * PER_DAY, None)
        alarms += int((detection.novelty[settled] > 1.0).sum())
        anomalous += int((detection.score[settled] > 1.0).sum())
        beyond = (values > detection.upper) | (values < detection.lower)
        outside += int(beyond[settled].sum())
        points += values[settled].size
    assert alarms <= 20 * 6  # of a month: less than two a week
    assert anomalous / points < 0.005
    assert outside / points < 0.002


def test_a_weekend_is_no_anomaly_once_two_were_seen() -> None:
    for seed in SEEDS:
        times, values = _daily(seed, 35, weekend=30.0)
        detection = SeriesDetector(PARAMS).score(times, values)
        late = times > times[0] + 21 * DAY_S
        assert (detection.score[late] > 1.0).mean() < 0.01
        assert np.abs(values - detection.expected)[late].mean() < 3.0


def test_a_constant_series_is_never_anomalous_until_it_moves() -> None:
    times = np.arange(2_000) * EVERY_S
    values = np.full(times.size, 0.3)
    values[1_500:1_503] = 0.31
    detection = SeriesDetector(PARAMS).score(times, values)
    assert np.nanmax(detection.score[:1_500]) < 0.5
    assert detection.novelty[1_500] > 1.0
    assert np.nanmax(detection.score) < 1e7


@pytest.mark.parametrize(("factor", "shift"), [(1e-6, 0.0), (1e9, 0.0), (1.0, -100.0)])
def test_scores_ignore_the_unit(factor: float, shift: float) -> None:
    times, values = _daily(2, 14)
    values[3_000] += 30.0
    plain = SeriesDetector(PARAMS).score(times, values).score
    scaled = SeriesDetector(PARAMS).score(times, factor * values + shift).score
    # Bins of 5 % begin elsewhere, which matters while a tail is a handful of points.
    settled = slice(2 * PER_DAY, None)
    np.testing.assert_allclose(scaled[settled], plain[settled], rtol=0.1, atol=0.05)


def test_points_without_value_and_late_points_are_named_and_change_nothing() -> None:
    times, values = _daily(3, 4)
    detector, other = SeriesDetector(PARAMS), SeriesDetector(PARAMS)
    detector.score(times[:-1], values[:-1])
    other.score(times[:-1], values[:-1])
    assert other.update(times[-1], np.nan).status == "missing"
    assert other.update(times[-1], np.inf).status == "missing"
    late = other.update(times[-2], 1e9)
    assert late.status == "late" and np.isnan(late.score) and late.kind is None
    assert other.update(times[-1], values[-1]) == detector.update(times[-1], values[-1])


def test_a_short_series_is_learning_and_has_no_score() -> None:
    detector = SeriesDetector(PARAMS)
    scores = [detector.update(60.0 * at, float(at % 3)) for at in range(50)]
    assert {one.status for one in scores} == {"learning"}
    assert all(np.isnan(one.score) for one in scores)
    assert detector.interval_s == 60.0
    assert detector.update(3_000.0, 1.0).status == "scored"


def test_a_hole_and_irregular_times_are_no_anomaly() -> None:
    for seed in SEEDS:
        times, values = _daily(seed)
        rng = np.random.default_rng(seed)
        kept = rng.random(times.size) > 0.2
        kept[15 * PER_DAY : 16 * PER_DAY + 100] = False
        times = times + rng.uniform(0.0, 60.0, times.size)
        detection = SeriesDetector(PARAMS).score(times[kept], values[kept])
        after = times[kept] > times[16 * PER_DAY]
        assert (detection.score[after] > 1.0).mean() < 0.01


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(BadParameter, match=r"interval_s is 0"):
        SeriesDetector(PARAMS, interval_s=0)
    with pytest.raises(BadInput, match=r"times have shape \(3,\), values \(2,\)"):
        SeriesDetector(PARAMS).score(np.zeros(3), np.zeros(2))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["spike", "dip", "level shift", "trend change", "more noise"])
def test_the_kind_of_a_change_is_told(seed: int, kind: str) -> None:
    times, values = _daily(seed)
    at = 4_500
    after = np.arange(values.size - at)
    rng = np.random.default_rng(100 + seed)
    match kind:
        case "spike":
            values[at : at + 3] += 20.0
        case "dip":
            values[at : at + 3] -= 20.0
        case "level shift":
            values[at:] += 14.0
        case "trend change":
            values[at:] += 0.06 * after
        case _:
            values[at : at + 150] += rng.normal(0.0, 10.0, 150)
    detection = SeriesDetector(PARAMS).score(times, values)
    episodes = [one for one in detection.episodes() if one.end > at]
    if kind == "trend change":
        # At first it may look like a step, so its kind is checked once it has lasted.
        begun = [one for one in episodes if one.start - at <= 300]
        assert begun and begun[-1].kind == kind
    else:
        assert episodes[0].kind == kind and episodes[0].start - at <= 4


def test_a_level_shift_looks_like_a_spike_first_and_like_itself_after_an_hour() -> None:
    times, values = _daily(5)
    values[4_500:] += 16.0
    detector = SeriesDetector(PARAMS)
    detector.score(times[:4_500], values[:4_500])
    scores = [
        detector.update(t, v) for t, v in zip(times[4_500:4_530], values[4_500:4_530], strict=True)
    ]
    assert scores[0].kind == "spike"
    assert {one.kind for one in scores[20:]} == {"level shift"}


@pytest.mark.parametrize("seed", SEEDS)
def test_daily_values_have_no_time_of_day_and_a_new_level_stays_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(10.0, 1.0, 300)
    values[200:] += 8.0
    detection = SeriesDetector(PARAMS, interval_s=DAY_S).score(
        np.arange(300) * float(DAY_S), values
    )
    late = [one for one in detection.episodes() if one.end > 200]
    assert (late[0].start, late[0].kind) == (200, "level shift")


def _awkward(seed: int) -> tuple[Floats, Floats]:
    """Two to three days with holes, missing values, late and repeated times, and jumps."""
    rng = np.random.default_rng(seed)
    times, values = _daily(seed, 3)
    values = np.round(values, 1)
    values[rng.random(values.size) < 0.05] = np.nan
    values[500:] += 40.0
    times[600:] += 40 * EVERY_S
    late = rng.integers(1, values.size, 10)
    times[late] = times[late - 1] - rng.choice([0.0, 900.0], 10)
    return times, values
