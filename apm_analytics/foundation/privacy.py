"""Redact secrets and personal data, in the watched process and in the receiver.

In:  specs/privacy.yaml: rules on attribute keys, patterns to find in texts.
Out: `PrivacyRules`, which return an attribute or a text without secrets and personal data.

Redaction is idempotent: what a watched service redacted passes the receiver unchanged. A pattern
runs only on texts with one of its literal parts, which most texts do not contain.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

import re2

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.linear import MASK, LinearPattern
from apm_analytics.foundation.yaml_documents import Document, Place, read

SALT_VARIABLE = "APM_PRIVACY_SALT"
KEY_ACTIONS = ("keep", "drop", "mask", "hash", "literals")
PATTERN_ACTIONS = ("mask", "hash", "drop")
PATTERN_FIELDS = {"action", "regex", "needs", "check"}
# Redacted texts up to this length are cached, because routes, SQL and user agents recur.
REMEMBERED_CHARACTERS = 512
REMEMBERED_TEXTS = 4096
# A request is checked first and then rewritten, so its long texts are searched twice.
REMEMBERED_LONG_TEXTS = 8
# A longer text is cut before it is searched; a request of the receiver has 16 MiB at most.
LONGEST_TEXT = 1 << 20
LONGEST_WORD = 4096
CUT = " [cut: the text was longer than 1 MiB]"

_log = logging.getLogger(__name__)
_HASHED = re.compile(r"hash:[0-9a-f]{16}")
# A card number has at least 13 digits. Python's `re` takes a third of RE2's time on short texts.
_CARD_DIGITS = 13
_DOUBLED = [sum(divmod(2 * digit, 10)) for digit in range(10)]
_MANY_DIGITS = re.compile(rf"\d(?:[ -]?\d){{{_CARD_DIGITS - 1}}}")
# A text, from \' on everything; the start of a dollar-quoted text; a number, but not t1 or v1.2.
_SQL_LITERAL = LinearPattern(
    r"""([EeNnXxBb]?'(?s:(?:[^'\\]|''|\\[^'])*(?:'|\\.*|\z))(?:\d[\w.]*)?)"""
    r"""|(\$[\w\pL\pN]*\$)"""
    r"""|(?:^|[^\w\pL\pN$.%])(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)(?:[^\w\pL\pN]|\z)"""
)
_MORE_OF_A_NAME = r"[\w\x{80}-\x{10FFFF}-]*"
# What follows a name in a text: a separator, then a value in quotes, in escaped quotes, or bare.
# A bare value may contain , and ; but ends before one that ends a clause or starts `,name=`.
_BLANKS = r"[\s\pZ]*"
_QUOTED = r"""(?:"((?:[^"\\]|\\.)+)|'((?:[^'\\]|\\.)+)|\\+["']([^"']+?)(?:\\{0,8}["']|\z))"""
_END = r"""(?:[\s\pZ&"'\\]|\z|[,;](?:[\s\pZ]|\z|\w+[=:]))"""
_IN_VALUE = r"""[^\s\pZ&"'\\]"""
_BARE = (
    rf"""(?:([^\s\pZ&"'\\,;]{_IN_VALUE}*?)"""
    rf"""|([,;]+(?:\w+(?:[^\s\pZ&"'\\\w=:]{_IN_VALUE}*?)??"""
    rf"""|[^\s\pZ&"'\\\w,;]{_IN_VALUE}*?))){_END}"""
)
_ASSIGNED = (
    rf"""(?:\\*["'])?{_BLANKS}(?:(?:[:=]|%3[DdAa]){_BLANKS}(?:{_QUOTED}|{_BARE})"""
    rf"""|,{_BLANKS}b?{_QUOTED})"""
)
_say_once = lru_cache(maxsize=None)(_log.warning)


@dataclass(frozen=True)
class KeyRule:
    """The action, one of KEY_ACTIONS, for attributes whose key matches a glob."""

    glob: str
    action: str


@dataclass(frozen=True)
class Pattern:
    """What to redact in texts; the head of specs/privacy.yaml explains the fields."""

    name: str
    action: str
    regex: LinearPattern
    needs: tuple[str, ...] = ()
    luhn: bool = False


class PrivacyRules:
    """The compiled rules; safe to share between threads.

    Examples
    --------
    >>> rules = load_rules(Path("specs/privacy.yaml"), salt="s")
    >>> rules.attribute("http.request.header.authorization", "Basic dXNlcjpwYXNz") is None
    True
    >>> rules.text("GET /login?password=hunter2&next=/cart")
    'GET /login?password=***&next=/cart'
    """

    def __init__(self, keys: list[KeyRule], patterns: list[Pattern], salt: bytes) -> None:
        self._salt = salt
        self._keys = keys
        self._key_globs = _key_set(keys)
        named = _assignment_pattern(keys)
        self.patterns = [*patterns, named] if named else patterns
        self.key_rule: Callable[[str], KeyRule | None] = lru_cache(REMEMBERED_TEXTS)(self._key_rule)
        self._remembered = lru_cache(REMEMBERED_TEXTS)(self._redacted)
        self._remembered_long = lru_cache(REMEMBERED_LONG_TEXTS)(self._redacted)
        self._remembered_sql = lru_cache(REMEMBERED_TEXTS)(self._redacted_sql)

    def attribute(self, key: str, value: str) -> str | None:
        """Return the redacted value of a text attribute; None drops the attribute."""
        rule = self.key_rule(key)
        if rule is None or rule.action == "keep":
            return self.text(value)
        if rule.action == "drop":
            return None
        if rule.action == "mask":
            return MASK
        if rule.action == "hash":
            return self._hash(value)
        if len(value) <= REMEMBERED_CHARACTERS:
            return self._remembered_sql(value)
        return self._redacted_sql(value)

    def text(self, value: str) -> str:
        """Return a free text (log body, URL, message) without the matches of the patterns."""
        if len(value) <= REMEMBERED_CHARACTERS:
            return self._remembered(value)
        return self._remembered_long(value)

    def _key_rule(self, key: str) -> KeyRule | None:
        matched = self._key_globs.Match(_normal(key).encode(errors="replace"))
        return self._keys[min(matched)] if matched else None

    def _redacted_sql(self, statement: str) -> str:
        cut = _cut(statement)
        return self._redacted(_SQL_LITERAL.replaced(cut, lambda _: "?", _literal_end))

    def _redacted(self, value: str) -> str:
        value = _cut(value)
        lowered = value.lower()
        for pattern in self.patterns:
            if pattern.luhn and not _may_hold_card(value):
                continue
            for part in pattern.needs:
                if part in lowered:
                    break
            else:
                if pattern.needs:
                    continue
            value = pattern.regex.replaced(value, partial(self._acted, pattern))
        return value

    def _acted(self, pattern: Pattern, found: str) -> str:
        if pattern.luhn and not _passes_luhn(found):
            return found
        if pattern.action == "hash":
            return self._hash(found)
        return "" if pattern.action == "drop" else MASK

    def _hash(self, value: str) -> str:
        if value == MASK or _HASHED.fullmatch(value):
            return value
        digest = hmac.digest(self._salt, value.encode(errors="surrogatepass"), hashlib.sha256)
        return f"hash:{digest.hex()[:16]}"


def load_rules(path: Path, *, salt: str | None = None) -> PrivacyRules:
    """Read and check the privacy rules.

    Parameters
    ----------
    path : specs/privacy.yaml.
    salt : key of the hashes; by default APM_PRIVACY_SALT of the environment, which this module
        reads because watched processes have no project settings. Without a salt, hashes have a
        random key and compare only within this process; a warning is logged.

    Raises
    ------
    BadParameter
        The file is missing, is not YAML, or contains an unknown or ill-valued rule; the message
        names the line.
    """
    document = read(path)
    blocks = _mapping(document, (), "two mappings `keys:` and `patterns:`")
    if set(blocks) != {"keys", "patterns"}:
        _refuse(document, (), f"found {sorted(blocks)}", "exactly `keys:` and `patterns:`")
    keys = _key_rules(document)
    patterns = [
        _pattern(document, name)
        for name in _mapping(document, ("patterns",), "a mapping of patterns")
    ]
    salt = os.environ.get(SALT_VARIABLE) if salt is None else salt
    if not salt and "hash" in {rule.action for rule in keys} | {
        pattern.action for pattern in patterns
    }:
        _say_once(
            f"{SALT_VARIABLE} is not set: hashes of personal data have a random key and compare "
            "only within this process; set it to the same secret in all processes"
        )
    return PrivacyRules(keys, patterns, salt.encode() if salt else secrets.token_bytes(32))


def _key_rules(document: Document) -> list[KeyRule]:
    rules: list[KeyRule] = []
    for rule in _items(document, ("keys",), "a list of rules, each `action: [globs]`"):
        for action in _mapping(document, rule, "a rule `action: [globs]`"):
            if action not in KEY_ACTIONS:
                needed = f"one of {', '.join(KEY_ACTIONS)}"
                _refuse(document, rule, f"found action {action!r}", needed)
            for place in _items(document, (*rule, action), "a list of globs"):
                glob = _text(document, place, "a glob")
                if not glob.strip("*?"):
                    _refuse(document, place, f"found glob {glob!r}", "one with a name in it")
                rules.append(KeyRule(glob, action))
    return rules


def _pattern(document: Document, name: str) -> Pattern:
    place = ("patterns", name)
    fields = _mapping(document, place, "a mapping with action and regex")
    if not {"action", "regex"} <= set(fields) <= PATTERN_FIELDS:
        found = f"found {sorted(fields)}"
        _refuse(document, place, found, "action and regex, and optionally needs and check")
    action = _text(document, (*place, "action"), "an action")
    if action not in PATTERN_ACTIONS:
        needed = f"one of {', '.join(PATTERN_ACTIONS)}"
        _refuse(document, (*place, "action"), f"found {action!r}", needed)
    source = _text(document, (*place, "regex"), "a regex")
    try:
        regex = LinearPattern(source)
    except BadParameter as error:
        raise BadParameter(
            document.problem((*place, "regex"), f"found {source!r}: {error}")
        ) from error
    needs: tuple[str, ...] = ()
    if "needs" in fields:
        parts = _items(document, (*place, "needs"), "a list of texts")
        needs = tuple(_text(document, part, "a text") for part in parts)
        if not needs or any(not part or part != part.lower() for part in needs):
            _refuse(document, (*place, "needs"), f"found {list(needs)}", "lower-case texts")
    check = _text(document, (*place, "check"), "a check") if "check" in fields else None
    if check not in (None, "luhn"):
        _refuse(document, (*place, "check"), f"found {check!r}", "luhn")
    return Pattern(name, action, regex, needs, luhn=check == "luhn")


def _mapping(document: Document, place: Place, needed: str) -> dict[str, Any]:
    value = document.value(place)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        _refuse(document, place, f"found {value!r:.100}", needed)
    return value


def _items(document: Document, place: Place, needed: str) -> list[Place]:
    """Return the place of each item of a list."""
    value = document.value(place)
    if not isinstance(value, list):
        _refuse(document, place, f"found {value!r:.100}", needed)
    return [(*place, number) for number in range(len(value))]


def _text(document: Document, place: Place, needed: str) -> str:
    value = document.value(place)
    if not isinstance(value, str):
        _refuse(document, place, f"found {value!r:.100}", f"{needed}, a text")
    return value


def _refuse(document: Document, place: Place, found: str, needed: str) -> NoReturn:
    raise BadParameter(
        document.problem(place, f"{found}, needs {needed}; see the head of the file")
    )


def _normal(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _key_set(rules: list[KeyRule]) -> "re2.Set":
    """Return all globs as one set of patterns; one without a dot matches any part of a key."""
    globs = re2.Set.SearchSet()
    for rule in rules:
        single = "." not in rule.glob
        any_text = "[^.]" if single else "(?s:.)"
        regex = "".join(
            {"*": f"{any_text}*", "?": any_text}.get(sign) or re2.escape(sign)
            for sign in _normal(rule.glob)
        )
        globs.Add(rf"(?:^|\.){regex}(?:\.|$)" if single else f"^{regex}$")
    globs.Compile()
    return globs


def _assignment_pattern(keys: list[KeyRule]) -> Pattern | None:
    """Return the pattern that finds `name=value` for the names of drop and mask rules."""
    names: dict[tuple[str, str], list[str]] = {}
    needs = []
    for rule in keys:
        core = rule.glob.strip("*").lower()
        if rule.action not in ("drop", "mask") or not re.fullmatch(r"[a-z0-9_-]+", core):
            continue
        words = re.split("[_-]", core)
        before = "" if rule.glob.startswith("*") else r"(?:^|[^A-Za-z0-9])"
        after = _MORE_OF_A_NAME if rule.glob.endswith("*") else ""
        names.setdefault((before, after), []).append("[_-]?".join(words))
        needs += [joint.join(words) for joint in ("", "_", "-")]
    if not names:
        return None
    alike = (f"{before}(?:{'|'.join(those)}){after}" for (before, after), those in names.items())
    regex = LinearPattern(f"(?i:{'|'.join(alike)}){_ASSIGNED}")
    shortest = {part for part in needs if not any(o in part and o != part for o in needs)}
    return Pattern("assigned", "mask", regex, tuple(sorted(shortest)))


def _cut(text: str) -> str:
    """Return a text cut to `LONGEST_TEXT`, if possible at a blank, so that no secret is halved."""
    if len(text) <= LONGEST_TEXT:
        return text
    blank = text.rfind(" ", LONGEST_TEXT - LONGEST_WORD, LONGEST_TEXT)
    return text[: LONGEST_TEXT if blank < 0 else blank] + CUT


def _literal_end(statement: bytes, start: int, stop: int) -> int:
    """Return where a literal ends; a dollar-quoted one at the repetition of its beginning."""
    if statement[start : start + 1] != b"$":
        return stop
    quote = statement[start:stop]
    end = statement.find(quote, stop)
    return len(statement) if end < 0 else end + len(quote)


def _may_hold_card(text: str) -> bool:
    if len(text) <= REMEMBERED_CHARACTERS:
        return len(text) >= _CARD_DIGITS and _MANY_DIGITS.search(text) is not None
    return True


def _passes_luhn(text: str) -> bool:
    digits = [int(digit) for digit in reversed(text) if digit.isdecimal()]
    return (sum(digits[::2]) + sum(_DOUBLED[digit] for digit in digits[1::2])) % 10 == 0
