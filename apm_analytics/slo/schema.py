"""Validate OpenSLO v1 documents against schema.json.

In:  YAML documents.
Out: (kind, name) -> document, or an error with file, line, what was found and what is allowed.
"""

import difflib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apm_analytics.foundation.errors import BadParameter, NotFound
from apm_analytics.foundation.yaml_documents import Document, documents

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

API_VERSION = "openslo/v1"
SUFFIXES = (".yaml", ".yml")
SCHEMA = Path(__file__).with_name("schema.json")
HEAD = {"apiVersion", "kind", "metadata", "spec"}


def read(path: Path) -> dict[tuple[str, str], Document]:
    """Read a file, or all `*.yaml` and `*.yml` of a folder.

    Raises
    ------
    NotFound
        No such file or folder.
    BadParameter
        A document is not OpenSLO v1 of a supported kind, has an unknown field or a wrong value,
        or two have the same kind and name. Every message has file and line.
    """
    if not path.exists():
        raise NotFound(f"no SLOs at {path}; write OpenSLO v1 documents there, see specs/slos")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    named: dict[tuple[str, str], Document] = {}
    problems: list[str] = []
    for document in (document for file in files for document in documents(file)):
        misfits = list(_misfits(document))
        problems += misfits
        if misfits:
            continue
        key = (document.data["kind"], document.data["metadata"]["name"])
        if key in named:
            first = named[key]
            where = f"{first.file}:{first.line(['metadata', 'name'])}"
            problem = f"{key[1]!r} is already used at {where}"
            problems.append(document.problem(["metadata", "name"], problem))
        else:
            named[key] = document
    if problems:
        raise BadParameter("\n".join(problems))
    return named


def _misfits(document: Document) -> Iterator[str]:
    data = document.data
    if not isinstance(data, dict):
        yield document.problem([], f"found {type(data).__name__}, needs an OpenSLO document")
        return
    kinds = sorted(_schema()["$defs"]["kinds"])
    for key in data.keys() - HEAD:
        yield document.problem([key], _unknown(key, sorted(HEAD)))
    for key in sorted(HEAD - data.keys()):
        yield document.problem([], f"{key} is missing")
    if data.get("apiVersion", API_VERSION) != API_VERSION:
        yield document.problem(
            ["apiVersion"], f"found {data['apiVersion']!r}, needs {API_VERSION!r}"
        )
    kind = data.get("kind")
    if "kind" in data and kind not in kinds:
        yield document.problem(["kind"], f"found {kind!r}, needs one of {', '.join(kinds)}")
        return
    for part, name in (("metadata", "metadata"), ("spec", f"kinds/{kind}")):
        if part in data and kind:
            for error in _validator(name).iter_errors(data[part]):
                yield from _explained(document, [part, *error.absolute_path], error)


def _explained(document: Document, place: list[str | int], error: Any) -> Iterator[str]:
    """Rephrase an error of jsonschema, with the line of the key that is wrong."""
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = sorted(error.schema.get("properties", {}))
        for key in sorted(error.instance.keys() - set(known)):
            yield document.problem([*place, key], _unknown(str(key), known))
    elif error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        yield document.problem(place, f"{', '.join(missing)} is missing")
    elif error.validator == "enum":
        allowed = ", ".join(map(str, error.validator_value))
        yield document.problem(place, f"found {error.instance!r}, needs one of {allowed}")
    elif error.validator == "const":
        yield document.problem(place, f"found {error.instance!r}, needs {error.validator_value!r}")
    else:
        yield document.problem(place, error.message)


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return f"unknown field {key!r}; {hint}"


@cache
def _schema() -> dict[str, Any]:
    return dict(json.loads(SCHEMA.read_text(encoding="utf-8")))


@cache
def _validator(name: str) -> "Draft202012Validator":
    from jsonschema import Draft202012Validator

    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": _schema()["$defs"]})
