"""Read YAML files of `specs/` into checked models; what does not fit is named with its line.

In:  a YAML file, the pydantic model of its whole content.
Out: the model, or an error that gives file, line, key, what was found and what is needed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from apm_analytics.foundation.errors import BadParameter


class Spec(BaseModel):
    """Base of every spec: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)
Step = str | int
Place = tuple[Step, ...]


class Loader(yaml.SafeLoader):
    """Times stay text: their zone is another key's business."""


class TextLoader(yaml.SafeLoader):
    """Everything stays text, so that a version 1.10 keeps its zero; only null is None."""


def _resolve(loader: type[yaml.SafeLoader], left_out: Iterable[str]) -> None:
    gone = {f"tag:yaml.org,2002:{name}" for name in left_out}
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in gone]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_resolve(Loader, ["timestamp"])
_resolve(TextLoader, ["timestamp", "bool", "int", "float"])


@dataclass(frozen=True)
class Document:
    """One YAML document: what it says, and in which line each key and item is."""

    file: Path
    data: Any
    lines: dict[Place, int]

    def line(self, place: Iterable[Step]) -> int:
        """Give the line of a place, or of the nearest thing around it; lines count from 1."""
        steps = tuple(place)
        while steps not in self.lines:
            steps = steps[:-1]
        return self.lines[steps]

    def problem(self, place: Iterable[Step], said: str) -> str:
        """Say what is wrong at a place: `specs/slos/shop.yaml:12: spec.target: ...`."""
        steps = tuple(place)
        key = f"{_key(steps)}: " if steps else ""
        return f"{self.file}:{self.line(steps)}: {key}{said}"


def load(file: Path, model: type[Model]) -> Model:
    """Read and check one spec file.

    Raises
    ------
    BadParameter
        The file is missing, is no YAML, names a key twice, or does not fit the model; each
        misfit has its own line number.

    Examples
    --------
    >>> load(Path("specs/kpis.yaml"), KpiFile)  # doctest: +SKIP
    """
    return check(read(file), model)


def read(file: Path, loader: type[yaml.SafeLoader] = Loader) -> Document:
    """Read a file of one document without checking it; an empty file holds no keys.

    Raises
    ------
    BadParameter
        The file is missing, is no YAML, has several documents, or names a key twice.
    """
    found = documents(file, loader)
    if len(found) > 1:
        raise BadParameter(
            f"{file}:{found[1].line(())}: found a second document, needs one; remove the ---"
        )
    return found[0] if found else Document(file, {}, {(): 1})


def check(document: Document, model: type[Model]) -> Model:
    """Hold a document against the model of its whole content.

    Raises
    ------
    BadParameter
        It does not fit; each misfit has its own line number.
    """
    try:
        return model.model_validate({} if document.data is None else document.data)
    except ValidationError as error:
        misfits = [document.problem(item["loc"], _said(item)) for item in error.errors()]
        raise BadParameter("\n".join(misfits)) from error


def documents(file: Path, loader: type[yaml.SafeLoader] = Loader) -> list[Document]:
    """Read the YAML documents of a file, which stand between lines of ---.

    Raises
    ------
    BadParameter
        The file is missing, is no YAML, or names a key twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
        return [_document(file, node, loader) for node in yaml.compose_all(text, loader)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        raise BadParameter(f"{place}: no YAML: {error.problem}; mend the file") from error
    except RecursionError as error:
        raise BadParameter(f"{file}: an alias holds itself; write it out") from error
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
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            own = (*path, str(key.value))
            line = key.start_mark.line + 1
            if own in lines:
                raise BadParameter(
                    f"{file}:{line}: {_key(own)} stands at line {lines[own]} already; remove one"
                )
            lines[own] = line
            _collect(file, value, own, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*path, number)] = item.start_mark.line + 1
            _collect(file, item, (*path, number), lines)


def _said(misfit: ErrorDetails) -> str:
    message = misfit["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if misfit["type"] == "missing":
        return message
    return f"found {misfit['input']!r:.100}; {message}"


def _key(path: Place) -> str:
    return ".".join(str(step) for step in path)
