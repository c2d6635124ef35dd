"""On a signal's scale its noise is the same at every level, and the way back is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apm_analytics.baselines.models.scales import scale_of
from apm_analytics.signals.operations import SIGNALS


@pytest.mark.parametrize("signal", SIGNALS)
@given(value=st.floats(1e-5, 1.0))
def test_there_and_back_is_the_same_value(signal: str, value: float) -> None:
    scale = scale_of(signal, 300.0)
    assert scale.backward(scale.forward(np.array([value])))[0] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("signal", SIGNALS)
@given(scaled=st.floats(-20, 20))
def test_no_scale_leads_below_zero_and_a_ratio_never_above_one(signal: str, scaled: float) -> None:
    value = scale_of(signal, 300.0).backward(np.array([scaled]))[0]
    assert value >= 0
    assert signal != "error_ratio" or value <= 1


def test_chance_is_as_large_as_the_scale_says_at_every_level() -> None:
    draw = np.random.default_rng(1)
    rate, ratio = scale_of("rate", 300.0), scale_of("error_ratio", 300.0)
    for mean in (20.0, 200.0, 2000.0):
        seen = rate.forward(draw.poisson(mean, 4000) / 300.0).std()
        assert seen == pytest.approx(2 * rate.noise(np.array([mean]))[0], rel=0.1)
    for share in (0.1, 0.3, 0.5):
        seen = ratio.forward(draw.binomial(200, share, 4000) / 200).std()
        assert seen == pytest.approx(ratio.noise(np.array([200.0]))[0], rel=0.1)
