"""Linear patterns: groups are replaced, what is around them stays and may be shared."""

import pytest

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.linear import MASK, MAX_MATCHES, LinearPattern


def starred(pattern: str, text: str) -> str:
    return LinearPattern(pattern).replaced(text, lambda found: "*" * len(found))


def test_a_pattern_without_groups_is_replaced_as_a_whole() -> None:
    assert starred("a+b", "aab cab") == "*** c**"


def test_the_first_group_that_took_part_is_replaced() -> None:
    assert starred("x=(\\d+)|y=(\\w+)", "x=12 y=ab") == "x=** y=**"


def test_two_matches_may_share_what_is_between_their_groups() -> None:
    assert starred(r"(?:^|,)(\d+)(?:,|$)", "1,22,x,3") == "*,**,x,*"


def test_an_alternative_without_a_group_is_an_exception() -> None:
    assert starred(r"key=none|key=(\w+)", "key=none key=abc") == "key=none key=***"


def test_an_empty_group_does_not_stop_the_search() -> None:
    pattern = LinearPattern(r"\((\w*)\)")
    assert pattern.replaced("()(a)()", lambda _: "?") == "(?)(?)(?)"


def test_texts_beyond_ascii_are_cut_between_characters() -> None:
    assert starred("ö+", "Kööln ∂ö") == "K**ln ∂*"
    assert starred("b", "a\udc80b") == "a?*"
    assert starred("b", "a\udc80") == "a\udc80"


def test_a_pattern_that_reads_to_the_end_after_each_match_stays_linear() -> None:
    pattern = LinearPattern("a[^b]*b|a")
    text = "a" * 100_000
    assert pattern.replaced(text, lambda _: "") == MASK
    assert pattern.replaced(text[:MAX_MATCHES], lambda _: "") == ""


@pytest.mark.parametrize("source", ["(?<=a)b", r"(a)\1", "a++", "a*", r"\b", "(", "a{2000}"])
def test_what_cannot_be_linear_or_finds_nothing_is_refused(source: str) -> None:
    with pytest.raises(BadParameter):
        LinearPattern(source)
