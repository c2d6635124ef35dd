"""Read YAML documents together with the line of every key and item.

In:  a YAML file.
Out: `Document`s, or an error that names the file and the line.

This module does not import pydantic, because the privacy rules are read in watched processes;
`specs` checks documents against models.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from apm_analytics.foundation.errors import BadParameter

Step = str | int
Place = tuple[Step, ...]


class Loader(yaml.SafeLoader):
    """Keeps times as text, because their zone may be the value of another key."""


class TextLoader(yaml.SafeLoader):
    """Keeps every scalar but null as text, so that version 1.10 keeps its zero."""


def _resolve(loader: type[yaml.SafeLoader], left_out: Iterable[str]) -> None:
    removed = {f"tag:yaml.org,2002:{name}" for name in left_out}
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in removed]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_resolve(Loader, ["timestamp"])
_resolve(TextLoader, ["timestamp", "bool", "int", "float"])


@dataclass(frozen=True)
class Document:
    """The data of one YAML document, and the line of each key and item."""

    file: Path
    data: Any
    lines: dict[Place, int]

    def value(self, place: Iterable[Step]) -> Any:
        """Return the data at a place.

        Raises
        ------
        KeyError, IndexError, TypeError
            No such place.
        """
        return reduce(lambda data, step: data[step], place, self.data)

    def line(self, place: Iterable[Step]) -> int:
        """Return the line of a place, or of what encloses it; lines count from 1."""
        steps = tuple(place)
        while steps not in self.lines:
            steps = steps[:-1]
        return self.lines[steps]

    def problem(self, place: Iterable[Step], message: str) -> str:
        """Return a message with its place: `specs/slos/shop.yaml:12: spec.target: ...`."""
        steps = tuple(place)
        key = f"{_key(steps)}: " if steps else ""
        return f"{self.file}:{self.line(steps)}: {key}{message}"


def read(file: Path, loader: type[yaml.SafeLoader] = Loader) -> Document:
    """Read a file of one document; an empty file is a document without keys.

    Raises
    ------
    BadParameter
        The file is missing, is not YAML, has several documents, or contains a key twice.
    """
    found = documents(file, loader)
    if len(found) > 1:
        raise BadParameter(
            f"{file}:{found[1].line(())}: found a second document, needs one; remove the ---"
        )
    return found[0] if found else Document(file, {}, {(): 1})


def documents(file: Path, loader: type[yaml.SafeLoader] = Loader) -> list[Document]:
    """Read all YAML documents of a file, which lines of --- separate.

    Raises
    ------
    BadParameter
        The file is missing, is not YAML, or contains a key twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
        return [_document(file, node, loader) for node in yaml.compose_all(text, loader)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        raise BadParameter(f"{place}: not YAML: {error.problem}; correct the file") from error
    except RecursionError as error:
        raise BadParameter(f"{file}: an alias contains itself; write it out") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadParameter(f"cannot read {file}: {error}; see the project's specs/") from error


def _document(file: Path, node: yaml.Node, loader: type[yaml.SafeLoader]) -> Document:
    lines: dict[Place, int] = {(): node.start_mark.line + 1}
    _collect(file, node, (), lines)
    constructor = loader("")
    try:
        return Document(file, constructor.construct_document(node), lines)
    finally:
        constructor.dispose()


def _collect(file: Path, node: yaml.Node, path: Place, lines: dict[Place, int]) -> None:
    """Enter the line of everything below a node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*path, str(key.value))
            line = key.start_mark.line + 1
            if place in lines:
                raise BadParameter(
                    f"{file}:{line}: {_key(place)} is on line {lines[place]} already; remove one"
                )
            lines[place] = line
            _collect(file, value, place, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*path, number)] = item.start_mark.line + 1
            _collect(file, item, (*path, number), lines)


def _key(path: Place) -> str:
    return ".".join(str(step) for step in path)
