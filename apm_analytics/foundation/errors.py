"""The errors of this package; each message names what was found, what is needed, what to do."""


class ApmError(Exception):
    """Base of every error this package raises on purpose; `cli` turns it into exit code 1."""


class BadInput(ApmError):
    """A file, document or record that is not what it should be."""


class BadParameter(ApmError):
    """A parameter, setting or option that is unknown, missing or out of range."""


class NotEnoughData(ApmError):
    """Too few windows, days or records for the computation."""


class NotFound(ApmError):
    """A lake, table, model, run or named query that does not exist."""


class NotebookFailed(ApmError):
    """A notebook could not be run to its end; the message names notebook, cell and cause."""
