"""Apply the privacy rules to a request before any of it is written to disk.

In:  the bytes of an OTLP request, `PrivacyRules`.
Out: the same bytes where no rule applies; else a request without what the rules remove.

Clean requests are only scanned (`redaction.scan`); the places that the scan reports are checked
against the rules; only the records that change are parsed and rewritten (`redaction.rewrite`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from apm_analytics.foundation.errors import BadInput, BadParameter
from apm_analytics.foundation.privacy import PrivacyRules
from apm_analytics.ingest.decode.bounds import Bound
from apm_analytics.ingest.decode.columns import as_text
from apm_analytics.ingest.decode.messages import weigh
from apm_analytics.ingest.decode.protobuf import REQUESTS
from apm_analytics.ingest.json import otlp as otlp_json
from apm_analytics.ingest.redaction import scan as scanner
from apm_analytics.ingest.redaction.rewrite import rewritten
from apm_analytics.ingest.wire.layout import KEY_CLEAN, KEY_RULED

if TYPE_CHECKING:
    from apm_analytics.ingest.decode.columnar import Scanner

JSON = "+json"
# The fields that hold free text; every other text is a name of the instrumentation.
TEXTS = {
    ("Span", "name"),
    ("Event", "name"),
    ("Status", "message"),
    ("AnyValue", "string_value"),
}
_JSON_TEXTS = frozenset({"name", "message", "stringValue", "string_value"})
_VALUE_RULES = ("drop", "mask", "hash")
PLACES = 4096
# Scans of one request, each with all places full of unknown keys, before it is parsed as a whole.
SCANS = 8
# So few texts are found in a request by search faster than by a scan.
FEW_TEXTS = 4
# The resources and scopes of clean requests, a few hundred bytes each.
REMEMBERED_BYTES = 8 * 1024 * 1024


class Redactor:
    """Redacts requests; one thread uses it."""

    def __init__(self, rules: PrivacyRules) -> None:
        self._rules = rules
        *parts, pairs = _needed_parts(rules)
        self._key_hashes = np.zeros(scanner.KEY_SLOTS, np.int64)
        self._key_known = np.zeros(scanner.KEY_SLOTS, np.int64)
        self._kept = [*parts, self._key_hashes, self._key_known, pairs]
        self._tables: dict[str, Any] = {}
        for signal, request in REQUESTS.items():
            fields = _field_table(request)
            self._kept.append(fields)
            self._tables[signal] = _addresses([*self._kept[:7], fields, pairs])
        self._stack = np.empty(scanner.MAX_DEPTH * scanner.FRAME, np.uint8)
        self._keys = 0
        # A pattern that needs no part could match any text, so every text must be checked.
        self._ask_all = any(not (pattern.needs or pattern.luhn) for pattern in rules.patterns)
        self._found = np.empty((PLACES, 4), np.int64)
        self._clean_bodies: set[bytes] = set()
        self._clean_bytes = 0

    def changing(self, signal: str, taken: "Scanner") -> list[str] | None:
        """Return the texts that the rules change in the last request of a scanner.

        Only texts and keys that are new to the scanner are checked. None where the request itself
        must be scanned, or where that is faster.
        """
        if self._ask_all:
            return None
        state = taken.state
        unsure = state.unsure
        new_keys = state.asked_keys()
        ruled = [key for key in new_keys if self._has_rule(state.text(key))]
        state.answer(new_keys, KEY_CLEAN)
        state.answer(ruled, KEY_RULED)
        if unsure or ruled or not taken.bodies <= self._clean_bodies:
            return None
        starts, content = state.texts()
        count = scanner.screen(
            starts.ctypes.data,
            content.ctypes.data,
            taken.new_texts(),
            len(starts) - 1,
            self._tables[signal].ctypes.data,
            self._found.ctypes.data,
            PLACES,
        )
        if count == scanner.TOO_MANY:
            return None
        texts = map(state.text, self._found.ravel()[:count].tolist())
        changing = [text for text in texts if self._rules.text(text) != text]
        return changing if len(changing) <= FEW_TEXTS else None

    def trust(self, taken: "Scanner") -> None:
        """Remember that the rules change no resource or scope of the scanner's last request."""
        new = taken.bodies - self._clean_bodies
        self._clean_bytes += sum(map(len, new))
        if self._clean_bytes > REMEMBERED_BYTES:
            self._clean_bodies.clear()
            self._clean_bytes = sum(map(len, new))
        self._clean_bodies |= new

    def redact(
        self,
        kind: str,
        payload: bytes,
        changing: list[str] | None = None,
        bound: Bound | None = None,
    ) -> bytes:
        """Return the redacted request.

        Parameters
        ----------
        kind : traces, metrics or logs; with the suffix `+json` for OTLP JSON.
        changing : all texts that the rules change in a protobuf request, if known.
        bound : what a request that has to be parsed may take.

        Raises
        ------
        BadInput
            JSON that cannot be read, too many attributes, or `TooLarge`. A damaged protobuf
            request is returned as it is; decoding it reports where the damage is.
        """
        if kind.endswith(JSON):
            if bound is not None:
                bound.set_json(payload)
            return self._redact_json(payload)
        if changing is None:
            places = self._changing(kind, payload)
        else:
            places = _occurrences(payload, changing)
        try:
            if places is None or self._ask_all:
                if bound is not None:
                    bound.set(weigh(kind, payload))
                return self._redact_piece(REQUESTS[kind], payload)
            return rewritten(kind, payload, places, self._redact_piece) if places else payload
        except DecodeError:
            return payload

    def _redact_piece(self, kind: type[Message], payload: bytes) -> bytes:
        message = kind()
        message.ParseFromString(payload)
        self._redact_message(message)
        return message.SerializeToString()

    def _changing(self, signal: str, payload: bytes) -> list[int] | None:
        """Return the places that the rules change; None where the whole request must be parsed."""
        data = np.frombuffer(payload, np.uint8)
        start = data.ctypes.data
        for _ in range(SCANS):
            count = scanner.scan(
                start,
                len(payload),
                self._tables[signal].ctypes.data,
                self._stack.ctypes.data,
                self._found.ctypes.data,
                PLACES,
            )
            if count == scanner.CROWDED:
                raise _crowded(f"resource{signal.capitalize().replace('Traces', 'Spans')}")
            if count == scanner.UNREADABLE:
                return None
            places = self._found if count == scanner.TOO_MANY else self._found[:count]
            # A text may be empty at the end of its message; the byte before is inside.
            changing = [
                place[scanner.TEXT_AT] - 1
                for place in places.tolist()
                if self._changes(payload, start, *place)
            ]
            if count != scanner.TOO_MANY:
                return changing
            if changing:
                return None
            # All keys so far are known now.
        return None

    def _changes(
        self, payload: bytes, start: int, key_at: int, key_size: int, at: int, size: int
    ) -> bool:
        """Return whether the rules change the text or value at a place."""
        try:
            text = payload[at : at + max(size, 0)].decode()
            if key_at < 0:
                return self._rules.text(text) != text
            key = payload[key_at : key_at + key_size].decode()
        except UnicodeDecodeError:
            return True  # the parser will refuse the request
        rule = self._rules.key_rule(key)
        self._learn(start + key_at, key_size, self._has_rule(key))
        if size == scanner.NOT_TEXT:
            return rule is not None and rule.action in _VALUE_RULES
        return self._rules.attribute(key, text) != text

    def _has_rule(self, key: str) -> bool:
        rule = self._rules.key_rule(key)
        return rule is not None and rule.action != "keep"

    def _learn(self, key_at: int, key_size: int, ruled: bool) -> None:
        hashed = scanner.key_hash(key_at, key_size)
        slot = hashed & (scanner.KEY_SLOTS - 1)
        while self._key_known[slot] and self._key_hashes[slot] != hashed:
            slot = (slot + 1) % scanner.KEY_SLOTS
        if not self._key_known[slot]:
            if self._keys >= scanner.KEY_SLOTS // 2:  # keys without end: forget all
                self._key_known[:] = 0
                self._keys = 0
            self._keys += 1
            self._key_hashes[slot] = hashed
            self._key_known[slot] = scanner.KNOWN_RULED if ruled else scanner.KNOWN_CLEAN

    def _redact_message(self, message: Message) -> None:
        for field, value in message.ListFields():
            kind = field.message_type
            repeated = field.is_repeated
            if kind is None:
                if (message.DESCRIPTOR.name, field.name) in TEXTS:
                    setattr(message, field.name, self._rules.text(value))
            elif kind.name == "KeyValue":
                self._redact_attributes(value)
            elif kind.name == "AnyValue" and not repeated:
                self._redact_value("", value)
            else:
                for child in value if repeated else (value,):
                    self._redact_message(child)

    def _redact_attributes(self, attributes: Any) -> None:
        if len(attributes) > scanner.MAX_PAIRS:
            raise _crowded("attributes")
        kept = [pair for pair in attributes if self._redact_value(pair.key, pair.value)]
        if len(kept) < len(attributes):
            copies = [type(pair)() for pair in kept]
            for copy, pair in zip(copies, kept, strict=True):
                copy.CopyFrom(pair)
            del attributes[:]
            attributes.extend(copies)

    def _redact_value(self, key: str, value: Any) -> bool:
        """Redact a value in place; return False when the rule of its key drops it."""
        held_kind = value.WhichOneof("value")
        rule = self._rules.key_rule(key) if key else None
        action = rule.action if rule else "keep"
        if action == "drop":
            return False
        if held_kind == "string_value":
            left = self._rules.attribute(key, value.string_value)
            value.string_value = left or ""
        elif held_kind is not None and action in _VALUE_RULES:
            value.string_value = self._rules.attribute(key, _plain_text(value)) or ""
        elif held_kind == "array_value":
            for item in value.array_value.values:
                self._redact_value(key, item)
        elif held_kind == "kvlist_value":
            self._redact_attributes(value.kvlist_value.values)
        return True

    def _redact_json(self, payload: bytes) -> bytes:
        try:
            document = otlp_json.parse(payload)
        except orjson.JSONDecodeError as error:
            raise BadInput(f"no JSON: {error.msg} at byte {error.pos}") from error
        changed, left = self._redact_node("", document)
        return orjson.dumps(left) if changed else payload

    def _redact_node(self, name: str, node: Any) -> tuple[bool, Any]:
        """Redact a piece of JSON; return whether it changed, and what is left of it."""
        if isinstance(node, str):
            if name not in _JSON_TEXTS:
                return False, node
            left = self._rules.text(node)
            return left != node, left
        if isinstance(node, list):
            if name in ("attributes", "values") and len(node) > scanner.MAX_PAIRS:
                raise _crowded(name)
            pairs = [self._redact_item(item) for item in node]
            kept = [left for _, left in pairs if left is not None]
            return len(kept) < len(node) or any(changed for changed, _ in pairs), kept
        if isinstance(node, dict):
            fields = {key: self._redact_node(key, value) for key, value in node.items()}
            changed = any(changed for changed, _ in fields.values())
            return changed, {key: left for key, (_, left) in fields.items()} if changed else node
        return False, node

    def _redact_item(self, item: Any) -> tuple[bool, Any]:
        """Redact an item of a list; nothing (None) is left of a dropped attribute."""
        if not isinstance(item, dict) or not isinstance(item.get("key"), str):
            return (False, item) if item is None else self._redact_node("", item)
        key, value = item["key"], item.get("value")
        rule = self._rules.key_rule(key)
        action = rule.action if rule else "keep"
        if action == "drop":
            return True, None
        if isinstance(value, dict) and value:
            text = value.get("stringValue", value.get("string_value"))
            if isinstance(text, str):
                left = self._rules.attribute(key, text)
                return left != text, {"key": key, "value": {"stringValue": left}}
            if action in _VALUE_RULES:
                left = self._rules.attribute(key, orjson.dumps(value).decode())
                return True, {"key": key, "value": {"stringValue": left}}
        changed, left = self._redact_node("", value)
        return changed, {**item, "value": left}


def _occurrences(payload: bytes, texts: list[str]) -> list[int]:
    """Return every offset of the texts; to rewrite at a match by chance does no harm."""
    places: list[int] = []
    for text in map(str.encode, texts):
        at = payload.find(text)
        while at >= 0:
            places.append(at)
            at = payload.find(text, at + 1)
    return sorted(places)


def _crowded(where: str) -> BadInput:
    return BadInput(
        f"{where}: more than {scanner.MAX_PAIRS:,} attributes in one record; set a limit where "
        "they are made (OTEL_ATTRIBUTE_COUNT_LIMIT)"
    )


def _needed_parts(rules: PrivacyRules) -> list[Any]:
    """Return tables for `scan` of the parts, one of which a text needs to match a pattern."""
    needed = {part for pattern in rules.patterns for part in pattern.needs}
    # The scan itself reports "@", and runs of digits for the patterns without needed parts.
    parts = [bytes(byte | 0x20 for byte in part.encode()) for part in sorted(needed - {"@"})]
    if short := [part.decode() for part in parts if len(part) < 3]:
        raise BadParameter(f"specs/privacy.yaml: `needs` of {short}: need at least three bytes")
    marks = np.zeros(scanner.TRIGRAMS, np.uint8)
    first = np.full(scanner.TRIGRAMS, -1, np.int64)
    pairs = np.zeros(scanner.PAIRS, np.uint8)
    following = np.full(max(len(parts), 1), -1, np.int64)
    for number, part in enumerate(parts):
        slot = scanner.slot(int.from_bytes(part[:3], "little"))
        marks[slot] = 1
        pairs[int.from_bytes(part[:2], "little") & (scanner.PAIRS - 1)] = 1
        pairs[int.from_bytes(part[1:3], "little") & (scanner.PAIRS - 1)] = 1
        following[number] = first[slot]
        first[slot] = number
    content = np.frombuffer(b"".join(parts) or b" ", np.uint8)
    return [marks, first, following, content, np.cumsum([0, *map(len, parts)]), pairs]


def _addresses(arrays: list[Any]) -> Any:
    return np.array([array.ctypes.data for array in arrays], np.int64)


def _field_table(request: type[Message]) -> Any:
    """Lay out the messages of a request as the table of fields for `scan`."""
    rows: dict[str, int] = {}
    table = np.zeros((64, scanner.FIELDS), np.int64)
    root: Any = request.DESCRIPTOR
    order = _messages(root)
    by_name = {descriptor.name: descriptor for descriptor in order}
    for name in (root.name, "KeyValue", "AnyValue", *by_name):
        rows.setdefault(name, len(rows))
    for descriptor in order:
        for field in descriptor.fields:
            table[rows[descriptor.name], field.number] = _what(descriptor, field, rows)
    table[scanner.KEY_VALUE_ROW, 1] = scanner.SECOND_KEY
    return table


def _messages(root: Descriptor) -> list[Descriptor]:
    seen = {root.full_name: root}
    waiting = [root]
    while waiting:
        for field in waiting.pop().fields:
            kind = field.message_type
            if kind is not None and kind.full_name not in seen:
                seen[kind.full_name] = kind
                waiting.append(kind)
    return list(seen.values())


def _what(descriptor: Descriptor, field: FieldDescriptor, rows: Mapping[str, int]) -> int:
    if field.message_type is not None:
        if field.message_type.name == "KeyValue":
            return scanner.KEY_VALUE
        return scanner.FIRST_MESSAGE + rows[field.message_type.name]
    return scanner.TEXT if (descriptor.name, field.name) in TEXTS else scanner.SKIP


def _plain_text(value: Any) -> str:
    content = getattr(value, value.WhichOneof("value"))
    return as_text(content) if isinstance(content, bool | int | float | bytes) else str(content)
