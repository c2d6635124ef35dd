"""Redact secrets and personal data, in the watched process and in the receiver.

In:  specs/privacy.yaml: rules on attribute keys, patterns to find in texts.
Out: `PrivacyRules`, which return an attribute or a text without secrets and personal data.

Redaction is idempotent: what a watched service redacted passes the receiver unchanged. A pattern
runs only on texts with one of its literal parts; one regex of all patterns would be ten times
slower on clean texts, because Python's `re` tries every alternative at every character.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.yaml_documents import Document, Place, read

MASK = "***"
SALT_VARIABLE = "APM_PRIVACY_SALT"
KEY_ACTIONS = ("keep", "drop", "mask", "hash", "literals")
PATTERN_ACTIONS = ("mask", "hash", "drop")
PATTERN_FIELDS = {"action", "regex", "needs", "check"}
# Redacted texts up to this length are cached, because routes, SQL and user agents recur.
REMEMBERED_CHARACTERS = 512
REMEMBERED_TEXTS = 4096

_log = logging.getLogger(__name__)
_HASHED = re.compile(r"hash:[0-9a-f]{16}")
_LITERAL = re.compile(
    r"""[EeNnXxBb]?'(?:[^'\\]|''|\\[^'])*+(?:'|\\.*|\Z)  # a text; from \' on everything
    | \$(\w*)\$.*?(?:\$\1\$|\Z)                    # a dollar-quoted text
    | (?<![\w$.%])\d+(?:\.\d*)?(?:[eE][+-]?\d+)?(?!\w) # a number, but not t1, $1 or v1.2
    """,
    re.VERBOSE | re.DOTALL,
)
# What follows a name in a text: a separator, then a value in quotes, in escaped quotes, or bare.
_ASSIGNED = (
    r"""(?:\\*["'])?\s*(?:[:=]|%3[DdAa]|,\s*b?(?=\\*["']))\s*"""
    r"""(?:"((?:[^"\\]|\\.)+)|'((?:[^'\\]|\\.)+)|\\+["']([^"']+?)(?=\\{0,8}["']|\Z)"""
    r"""|((?:[^\s&"'\\;,]|[,;](?!\s|\Z|\w+[=:]))+))"""
)
LONGEST_NAME = 64  # characters that * matches at the end of a name; unbounded, it is quadratic
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
    regex: re.Pattern[str]
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
        self._keys = [(_key_matcher(rule.glob), rule) for rule in keys]
        named = _assignment_pattern(keys)
        self.patterns = [*patterns, named] if named else patterns
        self.key_rule: Callable[[str], KeyRule | None] = lru_cache(REMEMBERED_TEXTS)(self._key_rule)
        self._remembered = lru_cache(REMEMBERED_TEXTS)(self._redacted)

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
        return self.text(_LITERAL.sub("?", value))

    def text(self, value: str) -> str:
        """Return a free text (log body, URL, message) without the matches of the patterns."""
        if len(value) <= REMEMBERED_CHARACTERS:
            return self._remembered(value)
        return self._redacted(value)

    def _key_rule(self, key: str) -> KeyRule | None:
        whole = _normal(key)
        parts = whole.split(".")
        for (regex, on_parts), rule in self._keys:
            if any(map(regex.fullmatch, parts)) if on_parts else regex.fullmatch(whole):
                return rule
        return None

    def _redacted(self, value: str) -> str:
        lowered = value.lower()
        for pattern in self.patterns:
            for part in pattern.needs:
                if part in lowered:
                    break
            else:
                if pattern.needs:
                    continue
            value = pattern.regex.sub(partial(self._replaced, pattern), value)
        return value

    def _replaced(self, pattern: Pattern, match: re.Match[str]) -> str:
        found = match[0]
        if pattern.luhn:
            return self._acted(found, pattern) if _passes_luhn(found) else found
        for group in range(1, pattern.regex.groups + 1):
            start, end = match.span(group)
            if start >= 0:
                start, end = start - match.start(), end - match.start()
                return found[:start] + self._acted(match[group], pattern) + found[end:]
        return self._acted(found, pattern)

    def _acted(self, found: str, pattern: Pattern) -> str:
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
        regex = re.compile(source)
    except re.error as error:
        _refuse(document, (*place, "regex"), f"found {source!r}: {error}", "a valid regex")
    if regex.search(""):
        found = f"found {source!r}, which matches the empty text"
        _refuse(document, (*place, "regex"), found, "a regex that does not")
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


def _key_matcher(glob: str) -> tuple[re.Pattern[str], bool]:
    """Return a glob as a regex, and whether it is matched against the parts of a key."""
    return re.compile(translate(_normal(glob))), "." not in glob


def _assignment_pattern(keys: list[KeyRule]) -> Pattern | None:
    """Return the pattern that finds `name=value` for the names of drop and mask rules."""
    names, needs = [], []
    for rule in keys:
        core = rule.glob.strip("*").lower()
        if rule.action not in ("drop", "mask") or not re.fullmatch(r"[a-z0-9_-]+", core):
            continue
        words = re.split("[_-]", core)
        before = "" if rule.glob.startswith("*") else r"(?<![A-Za-z0-9])"
        after = rf"[\w-]{{0,{LONGEST_NAME}}}" if rule.glob.endswith("*") else ""
        names.append(before + "[_-]?".join(words) + after)
        needs += [joint.join(words) for joint in ("", "_", "-")]
    if not names:
        return None
    regex = re.compile(f"(?i:{'|'.join(names)}){_ASSIGNED}")
    shortest = {part for part in needs if not any(o in part and o != part for o in needs)}
    return Pattern("assigned", "mask", regex, tuple(sorted(shortest)))


def _passes_luhn(text: str) -> bool:
    digits = [int(character) for character in reversed(text) if character.isdecimal()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
