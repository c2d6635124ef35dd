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

# Specs are written by hand: the largest have a few thousand entries, five levels deep.
MAX_CHARACTERS = 4 * 1024 * 1024
MAX_ENTRIES = 100_000  # each use of an alias counts all that it stands for
MAX_DEPTH = 50
MAX_NUMBER = 64  # characters; Python takes quadratic time for long numbers
_TOO_DEEP = f"more than {MAX_DEPTH} levels deep, or an alias contains itself"
_TOO_MANY = f"more than {MAX_ENTRIES:,} entries, counting what each alias stands for"
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}

Step = str | int
Place = tuple[Step, ...]


class _OverLimit(yaml.MarkedYAMLError):
    """The document is YAML, but too deep or too large."""


class _BoundedLoader(yaml.SafeLoader):
    """Stops at what is too deep or has too many entries, before it takes memory."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._entries = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._entries += 1
        if self._depth > MAX_DEPTH or self._entries > MAX_ENTRIES:
            problem = _TOO_DEEP if self._depth > MAX_DEPTH else _TOO_MANY
            raise _OverLimit(problem=problem, problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class Loader(_BoundedLoader):
    """Keeps times as text, because their zone may be the value of another key."""


class TextLoader(_BoundedLoader):
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
        The file is missing, is not YAML, contains a key twice, or is larger or deeper than the
        limits above.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(MAX_CHARACTERS + 1)
        if len(text) > MAX_CHARACTERS:
            raise BadParameter(f"{file}: more than {MAX_CHARACTERS:,} characters; split the file")
        found: list[Document] = []
        room = MAX_ENTRIES
        for node in yaml.compose_all(text, loader):
            found.append(_document(file, node, loader, room))
            room -= len(found[-1].lines)
        return found
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        kind = "" if isinstance(error, _OverLimit) else "not YAML: "
        raise BadParameter(f"{place}: {kind}{error.problem!s:.200}; correct the file") from error
    except (OSError, ValueError, OverflowError, yaml.YAMLError) as error:
        raise BadParameter(f"cannot read {file}: {error}; see the project's specs/") from error


def _document(file: Path, node: yaml.Node, loader: type[yaml.SafeLoader], room: int) -> Document:
    lines: dict[Place, int] = {(): node.start_mark.line + 1}
    _collect(file, node, (), lines, room)
    constructor = loader("")
    try:
        return Document(file, constructor.construct_document(node), lines)
    except (ValueError, LookupError, AttributeError) as error:  # of PyYAML, as for `!!bool 7`
        raise BadParameter(
            f"{file}:{lines[()]}: a value does not fit its tag ({error!r}); remove the tag"
        ) from error
    finally:
        constructor.dispose()


def _collect(file: Path, node: yaml.Node, path: Place, lines: dict[Place, int], room: int) -> None:
    """Enter the line of everything below a node; refuse more than `room` entries."""
    if len(path) > MAX_DEPTH:
        raise BadParameter(f"{file}:{lines[path]}: {_TOO_DEEP}; write it out")
    if len(lines) > room:
        raise BadParameter(f"{file}:{lines[path]}: {_TOO_MANY}; remove aliases of aliases")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise BadParameter(f"{file}:{line}: found a {key.id} as a key, needs a text")
            place = (*path, str(key.value))
            if place in lines:
                raise BadParameter(
                    f"{file}:{line}: {_key(place)} is on line {lines[place]} already; remove one"
                )
            lines[place] = line
            _collect(file, value, place, lines, room)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*path, number)] = item.start_mark.line + 1
            _collect(file, item, (*path, number), lines, room)
    elif node.tag in _NUMBERS and len(node.value) > MAX_NUMBER:
        raise BadParameter(
            f"{file}:{node.start_mark.line + 1}: a number of {len(node.value):,} characters, at "
            f"most {MAX_NUMBER} may be; put a text in quotes"
        )


def _key(path: Place) -> str:
    return ".".join(str(step) for step in path)
