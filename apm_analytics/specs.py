"""Read a YAML file of `specs/` into a checked model; what does not fit is named with its line.

In:  a YAML file, the pydantic model of its whole content.
Out: the model, or an error that gives file, line, key, what was found and what is needed.
"""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from apm_analytics.errors import BadParameter


class Spec(BaseModel):
    """Base of every spec: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)
Place = tuple[str | int, ...]


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
    content, lines = read(file)
    try:
        return model.model_validate({} if content is None else content)
    except ValidationError as error:
        misfits = [
            f"{file}:{line_of(lines, item['loc'])}: {_key(item['loc'])}: {_said(item)}"
            for item in error.errors()
        ]
        raise BadParameter("\n".join(misfits)) from error


def read(file: Path) -> tuple[object, dict[Place, int]]:
    """Read YAML without checking it against a model.

    Returns
    -------
    The content, and the line (from 1) of every key and item by its path.

    Raises
    ------
    BadParameter
        The file is missing, is no YAML, or names a key twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content: object = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        raise BadParameter(f"{place}: no YAML: {error.problem}; mend the file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadParameter(f"cannot read {file}: {error}; see the project's specs/") from error
    lines: dict[Place, int] = {(): 1}
    if root is not None:
        _collect(file, root, (), lines)
    return content, lines


def line_of(lines: dict[Place, int], path: Place) -> int:
    """Give the line of a path, or of the nearest thing around it that is there."""
    while path not in lines:
        path = path[:-1]
    return lines[path]


def _collect(file: Path, node: yaml.Node, path: Place, lines: dict[Place, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            own = (*path, key.value)
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
    return ".".join(str(step) for step in path) or "the file"
