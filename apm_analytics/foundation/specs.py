"""Check YAML files of `specs/` against pydantic models; each misfit is reported with its line.

In:  a YAML file, the pydantic model of its whole content.
Out: the model, or an error with file, line, key, what was found and what is needed.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.yaml_documents import Document, read


class Spec(BaseModel):
    """Base of every spec: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def load(file: Path, model: type[Model]) -> Model:
    """Read and check one spec file.

    Raises
    ------
    BadParameter
        The file is missing, is not YAML, contains a key twice, or does not fit the model; each
        misfit has its own line number.
    """
    return check(read(file), model)


def check(document: Document, model: type[Model]) -> Model:
    """Check a document against the model of its whole content.

    Raises
    ------
    BadParameter
        It does not fit; each misfit has its own line number.
    """
    try:
        return model.model_validate({} if document.data is None else document.data)
    except ValidationError as error:
        misfits = [document.problem(item["loc"], misfit(item)) for item in error.errors()]
        raise BadParameter("\n".join(misfits)) from error


def misfit(details: ErrorDetails) -> str:
    """Return what pydantic found and needs, as one phrase."""
    message = details["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if details["type"] == "missing":
        return message
    return f"found {details['input']!r:.100}; {message}"
