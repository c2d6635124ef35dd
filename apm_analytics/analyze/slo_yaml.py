"""Read files of several YAML documents so that every complaint can name its line.

In:  a file as OpenSLO writes them, with documents between lines of ---.
Out: the data of each document, and the line of every key and item in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from apm_analytics.errors import BadParameter

Step = str | int
Place = tuple[Step, ...]


class _Loader(yaml.SafeLoader):
    """Times stay text: their zone is another key's business."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Document:
    """One YAML document: what it says, and where."""

    file: Path
    data: Any
    lines: dict[Place, int]

    def line(self, place: Iterable[Step]) -> int:
        """Give the line of a place, or of what is nearest above it; lines count from 1."""
        steps = tuple(place)
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return self.lines[steps]

    def problem(self, place: Iterable[Step], said: str) -> str:
        """Say what is wrong at a place: `specs/slos/shop.yaml:12: spec.target: ...`."""
        steps = tuple(place)
        where = ".".join(str(step) for step in steps)
        return f"{self.file}:{self.line(steps)}: {f'{where}: ' if where else ''}{said}"


def documents(file: Path) -> list[Document]:
    """Read the documents of a file; empty ones are left out.

    Raises
    ------
    BadParameter
        The file is missing or no YAML, or a mapping has the same key twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
        nodes = [node for node in yaml.compose_all(text, _Loader) if node is not None]
        return [_document(file, node) for node in nodes]
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameter(f"cannot read {file}: {error}; see the project's specs/") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadParameter(f"{file}:{line}: this is no YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise BadParameter(f"{file}: this is no YAML: {error}") from error


def _document(file: Path, node: yaml.Node) -> Document:
    lines: dict[Place, int] = {}
    _locate(file, node, (), lines)
    loader = _Loader("")
    try:
        return Document(file, loader.construct_document(node), lines)
    finally:
        loader.dispose()


def _locate(file: Path, node: yaml.Node, place: Place, lines: dict[Place, int]) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _locate(file, item, (*place, number), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines:
                raise BadParameter(
                    f"{file}:{line}: {key.value} is given twice, first in line {lines[inner]}; "
                    "remove one of them"
                )
            lines[inner] = line
            _locate(file, value, inner, lines)
