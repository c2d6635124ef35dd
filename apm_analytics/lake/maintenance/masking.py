"""Mask a text where it is a whole word: in bodies, URLs, names and attribute values.

In:  the schema of a lake table, the text.
Out: SQL of the masked columns, and SQL for the rows that mention the text.

Columns that identify the origin and kind of telemetry are not masked: ids of traces, services,
hosts, units, severities. Masking a person's id therefore never renames a service.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pyarrow as pa

from apm_analytics.lake.schema import METRIC_TABLES, RESOURCE_COLUMNS, TABLES, TEXT, TEXT_MAP

ERASED = "[erased]"
# Shorter words and numbers are ambiguous.
MIN_CHARACTERS = 6
MIN_DIGITS = 8
_STRUCTURE = frozenset(
    {
        *RESOURCE_COLUMNS.values(),
        *("trace_id", "span_id", "parent_span_id", "trace_state", "kind", "status_code"),
        *("unit", "temporality", "severity_text", "scope_name", "scope_version"),
        *("scope_schema_url", "resource_schema_url", "peer_service", "rpc_system", "rpc_service"),
        *("http_request_method", "url_scheme", "db_system_name", "db_operation_name"),
    }
)


def is_distinctive(text: str) -> bool:
    """Return whether a text is long enough to be unambiguous as a word."""
    return len(text) >= (MIN_DIGITS if text.isdigit() else MIN_CHARACTERS)


@dataclass(frozen=True)
class Mask:
    """The SQL of one table.

    `columns` needs the parameters `pattern`; `mentions` needs `pattern` and `forms`.
    """

    columns: dict[str, str]
    pattern: dict[str, str]
    forms: dict[str, str]
    looks: dict[str, str]

    @classmethod
    def of(cls, table: str, text: str) -> "Mask":
        """Return the mask of a text in a table.

        Examples
        --------
        >>> Mask.of("logs", "anna@example.org").pattern["pattern"]
        '(^|[^0-9A-Za-z_])(?:anna@example\\\\.org|anna%40example\\\\.org)($|[^0-9A-Za-z_])'
        """
        kept = _STRUCTURE | ({"name"} if table in METRIC_TABLES else set())
        columns = {
            field.name: masked
            for field in TABLES[table]
            if field.name not in kept
            and (masked := _masked(field.name, field.type, 0)) != field.name
        }
        forms = dict.fromkeys((text, quote(text, safe=""), quote(text)))
        words = "|".join(_escaped(form) for form in forms)
        edge = "[^0-9A-Za-z_]"
        pattern = f"(^|{edge})(?:{words})($|{edge})"
        # Few columns contain the text, and searching costs less than masking. Quotes and
        # backslashes are escaped where nested values are cast to text, so they are not searched.
        plain = not set(text) & set("\"'\\")
        parameters = {f"form_{number}": form for number, form in enumerate(forms)}
        looks = {
            name: " or ".join(f"contains({name}::varchar, ${form})" for form in parameters)
            for name in columns
            if plain or TABLES[table].field(name).type == TEXT
        }
        return cls(columns, {"pattern": pattern}, parameters, looks)

    def may_mention(self) -> str:
        """Return fast SQL that is true for every row with the text, and for some others."""
        if len(self.looks) < len(self.columns):
            return "true"
        return " or ".join(f"coalesce({look}, false)" for look in self.looks.values())

    def mentions(self) -> str:
        """Return SQL for "a row mentions the text as a word"."""
        return " or ".join(
            f"coalesce(({self.looks.get(name, 'true')}) and {masked} <> {name}, false)"
            for name, masked in self.columns.items()
        )


def _escaped(form: str) -> str:
    # RE2 rejects the escape of any other character.
    return re.sub(r"([.^$*+?{}\[\]\\|()-])", r"\\\1", form)


def _masked(value: str, kind: pa.DataType, depth: int) -> str:
    one = f"one_{depth}"
    if kind == TEXT:
        replaced = value
        # The character between two adjacent matches belongs to the first match, so a second pass
        # is needed for the second one.
        for _ in range(2):
            replaced = f"regexp_replace({replaced}, $pattern, '\\1{ERASED}\\2', 'g')"
        return replaced
    if kind == TEXT_MAP:
        pair = f"struct_pack(key := {one}.key, value := {_masked(f'{one}.value', TEXT, depth)})"
        return f"map_from_entries(list_transform(map_entries({value}), lambda {one}: {pair}))"
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        fields = ", ".join(_fields(one, kind.value_type, depth + 1))
        return f"list_transform({value}, lambda {one}: struct_pack({fields}))"
    return value


def _fields(holder: str, kind: pa.StructType, depth: int) -> Iterator[str]:
    for number in range(kind.num_fields):
        field = kind.field(number)
        value = f"{holder}.{field.name}"
        masked = value if field.name in _STRUCTURE else _masked(value, field.type, depth)
        yield f"{field.name} := {masked}"
