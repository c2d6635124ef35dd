"""Small notebooks and pipelines, for tests of the code that runs them."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import nbformat


def write(
    folder: Path, name: str, cells: Sequence[str], *, parameters: str | None = "lake = 'none'"
) -> Path:
    """Write a notebook with a title, a parameters cell (unless None) and code cells."""
    document = nbformat.v4.new_notebook()
    document.cells.append(nbformat.v4.new_markdown_cell(f"# {name}\n\nWhat this answers."))
    if parameters is not None:
        cell = nbformat.v4.new_code_cell(parameters)
        cell.metadata["tags"] = ["parameters"]
        document.cells.append(cell)
    for code in cells:
        document.cells.append(nbformat.v4.new_code_cell(textwrap.dedent(code).strip()))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.ipynb"
    nbformat.write(document, file)
    return file


def pipeline(folder: Path, text: str) -> Path:
    """Write a pipeline file."""
    file = folder / "nightly.yaml"
    file.write_text(textwrap.dedent(text))
    return file
