"""Run one notebook through papermill, in a kernel of this Python.

In:  a notebook and exactly the parameters it declares.
Out: the executed notebook, written atomically; or an error that names the cell and its cause.
"""

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from papermill.exceptions import PapermillExecutionError

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import (
    ApmError,
    BadInput,
    BadParameter,
    NotebookFailed,
    NotFound,
)

KERNEL = "python3"
# A cell that takes longer hangs: the slowest one takes seconds.
CELL_TIMEOUT_S = 1_800
# Sockets of kernels go below TMPDIR or, where its name is too long for a socket, below these.
SHORT_FOLDERS = ("/tmp", "/dev/shm", "/var/tmp")
LONGEST_FOLDER = 64  # bytes; of 103 for a socket, the rest is the folder and name made here
MAX_CAUSE = 600  # characters of an error message
_COLOURS = re.compile("\x1b\\[[0-9;]*[A-Za-z]")


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Return the parameters that a notebook declares in its cell tagged `parameters`.

    Raises
    ------
    BadParameter
        Not exactly one cell has the tag. Without one, papermill would silently run the notebook
        with its own values.
    BadInput, NotFound
        The file is not a notebook, or is missing.
    """
    document = _read(notebook)
    tagged = sum("parameters" in cell.metadata.tags for cell in document.cells)
    if tagged != 1:
        raise BadParameter(
            f"{notebook.name} has {tagged or 'no'} cells tagged `parameters`, it needs one: "
            "a cell that assigns each parameter its default"
        )
    parameters: dict[str, Any] = papermill.inspect_notebook(document)
    return parameters


def check_parameters(
    notebook: Path, declared: Mapping[str, object], given: Mapping[str, object]
) -> None:
    """Refuse a value for an undeclared parameter, and a declared parameter without a value.

    Raises
    ------
    BadParameter
        Names the notebook and the parameter.
    """
    for name in sorted(given.keys() - declared.keys()):
        raise BadParameter(
            f"{notebook.name} has no parameter {name!r}; it declares "
            f"{', '.join(sorted(declared)) or 'none'}: correct the name or declare it"
        )
    for name in sorted(declared.keys() - given.keys()):
        raise BadParameter(
            f"{notebook.name} declares the parameter {name!r}, which has no value; set it under "
            f"`parameters:` of {notebook.stem} in the pipeline file, or pass it with the call"
        )


def execute(
    notebook: Path, out: Path, parameters: Mapping[str, object], kernels: "Kernels | None" = None
) -> Path:
    """Run a notebook and write the executed file into `out`, even when a cell fails.

    Returns
    -------
    The path of the executed notebook, `out/<name>.ipynb`.

    Raises
    ------
    NotebookFailed
        Names the notebook, the cell with its first line, and the cause.
    """
    document = _read(notebook)
    out.mkdir(parents=True, exist_ok=True)
    executed = out / notebook.name
    executed.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="apm-notebook-") as folder,
        tempfile.TemporaryDirectory(prefix="apm-kernel-", dir=_short_folder()) as sockets,
    ):
        # papermill saves after every cell, so a killed kernel leaves its last cell here.
        unfinished = Path(folder) / notebook.name
        try:
            papermill.execute_notebook(
                document,
                _literally(unfinished),
                parameters={key: _plain(value) for key, value in parameters.items()},
                kernel_name=KERNEL,
                progress_bar=False,
                execution_timeout=CELL_TIMEOUT_S,
                kernel_manager_class=(kernels or Kernels()).manager_class(Path(sockets)),
                resources={"metadata": {"path": str(notebook.resolve().parent)}},
            )
        except Exception as error:  # a failed cell, a dead kernel and a time-out all end here
            raise NotebookFailed(_explain(notebook, unfinished, error)) from error
        finally:
            _close_loop()
            if unfinished.exists():
                write_atomic(executed, unfinished.read_bytes())
    return executed


def _short_folder() -> str:
    """Return the folder for temporary files, or another whose name leaves room for a socket."""
    for folder in (tempfile.gettempdir(), *SHORT_FOLDERS):
        if len(os.fsencode(folder)) <= LONGEST_FOLDER and os.access(folder, os.W_OK):
            return folder
    raise ApmError(
        f"TMPDIR is {tempfile.gettempdir()}, longer than {LONGEST_FOLDER} bytes, which leaves no "
        f"room for the sockets of a kernel, and {', '.join(SHORT_FOLDERS)} are not writable; set "
        "a shorter TMPDIR"
    )


def _close_loop() -> None:
    """Close the event loop that Jupyter's synchronous calls leave open in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        ensure_event_loop().close()
        asyncio.set_event_loop(None)


class _OwnKernel(AsyncKernelManager):
    """Starts the running Python, whatever `python3` means to the user's Jupyter."""

    started: "ClassVar[list[_OwnKernel]]"
    folder: ClassVar[Path]

    def __init__(self, **options: Any) -> None:
        # Sockets in a private folder: no race for a port, and nothing that others can connect to.
        super().__init__(
            transport="ipc", connection_file=str(self.folder / "kernel.json"), **options
        )
        self.started.append(self)

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(
            argv=[
                sys.executable,
                "-Xfrozen_modules=off",  # else the debugger in ipykernel warns at every start
                "-m",
                "ipykernel_launcher",
                "-f",
                "{connection_file}",
            ],
            display_name="Python 3",
            language="python",
        )

    async def _async_interrupt_kernel(self) -> None:
        """Interrupt a cell; a kernel that is shutting down would report that as an error."""
        if not self.shutting_down:
            await super()._async_interrupt_kernel()


class Kernels:
    """Collects the kernels of a run, so that an interrupt can kill them."""

    def __init__(self) -> None:
        self._started: list[_OwnKernel] = []

    def manager_class(self, folder: Path) -> type[_OwnKernel]:
        """Return a manager class; nbclient ends only kernels whose manager it made itself."""
        return type("Kernel", (_OwnKernel,), {"started": self._started, "folder": folder})

    def kill(self) -> None:
        """Kill all kernels."""
        for kernel in self._started:
            process = getattr(kernel.provisioner, "pid", None)
            if process:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def _read(notebook: Path) -> nbformat.NotebookNode:
    if not notebook.is_file():
        names = ", ".join(sorted(file.stem for file in notebook.parent.glob("*.ipynb"))) or "none"
        raise NotFound(f"no notebook {notebook.stem!r} in {notebook.parent}; there are: {names}")
    try:
        document = _parse(notebook)
        nbformat.validate(document)
    except (ValueError, nbformat.ValidationError, nbformat.reader.NotJSONError) as error:
        raise BadInput(
            f"{notebook} is no notebook: {str(error).splitlines()[0]}; "
            "open and save it in JupyterLab, or restore it from git"
        ) from error
    # papermill needs these keys in a notebook that it did not load itself.
    document.metadata["kernelspec"] = {
        "name": KERNEL,
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
    document.metadata.setdefault("papermill", {})
    for cell in document.cells:
        cell.metadata.setdefault("tags", [])
        cell.metadata.setdefault("papermill", {})
    return document


def _parse(notebook: Path) -> nbformat.NotebookNode:
    document: nbformat.NotebookNode = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    return document


def _explain(notebook: Path, unfinished: Path, cause: Exception) -> str:
    """Return which cell failed, by its number in the source notebook, and why."""
    if isinstance(cause, PapermillExecutionError):
        source: str | None = cause.source
        why = f"{cause.ename}: {cause.evalue}" if cause.evalue else str(cause.ename)
    else:
        source = _last_started(unfinished)
        why = f"{type(cause).__name__}: {cause}"
    why = " ".join(_COLOURS.sub("", why).split())[:MAX_CAUSE]
    if source is None:
        return f"{notebook.name}, no cell was started: {why}"
    first = next((line for line in source.splitlines() if line.strip()), "")
    numbers = [n for n, cell in enumerate(_read(notebook).cells, 1) if cell.source == source]
    where = f"cell {numbers[0]}" if numbers else "the cell with its parameters"
    return f"{notebook.name}, {where} ({first}): {why}"


def _last_started(unfinished: Path) -> str | None:
    if not unfinished.exists():
        return None
    started = [
        cell
        for cell in _parse(unfinished).cells
        if cell.cell_type == "code" and cell.metadata.get("papermill", {}).get("start_time")
    ]
    return str(started[-1].source) if started else None


def _literally(path: Path) -> str:
    """Escape the braces of a path, which papermill would fill in."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
