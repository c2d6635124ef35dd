"""Run the notebooks of a pipeline; a misspelt or missing parameter and a failed cell are errors.

In:  `pipelines/nightly.yaml`, the notebooks it names, the values of their parameters.
Out: executed notebooks, and for each its status and the numbers that it recorded.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadParameter, NotebookFailed
from apm_analytics.nightly.pipeline import Pipeline, Step, Without
from apm_analytics.report import NotebookResult, read_records

if TYPE_CHECKING:
    from apm_analytics.nightly.execution import Kernels

# Each notebook has its own kernel; more than two slow each other down on two cores.
PARALLEL = 2


def run_all(
    spec: Path,
    *,
    notebooks: Path,
    out: Path,
    parameters: Mapping[str, object],
    without: Without | None = None,
    progress: bool = True,
) -> list[NotebookResult]:
    """Run the notebooks of a pipeline, two at a time, each after those it names in `after`.

    A notebook that fails stops only those that come after it. All names and parameters are
    checked before the first one starts.

    Parameters
    ----------
    spec : the YAML file that lists the notebooks.
    notebooks : their folder, which is only read.
    out : the folder for the executed files, `<name>.ipynb`.
    parameters : shared values; each notebook receives those that it declares.
    without : what this run lacks; notebooks that need it are skipped.

    Returns
    -------
    One result per notebook, in the order of the file.

    Raises
    ------
    BadParameter
        A key or name in the file or a parameter is unknown, or a declared parameter has no value.
    NotFound
        The file names a notebook that does not exist.
    """
    pipeline = Pipeline.read(spec)
    given = _parameters_of_each(pipeline, notebooks, parameters)
    skipped = (without or Without()).reasons(pipeline)
    results: dict[str, NotebookResult] = {}
    running: dict[Future[NotebookResult], Step] = {}
    bar = tqdm(total=len(pipeline.notebooks), desc="notebooks", unit="", disable=not progress)
    with bar, _threads() as (pool, kernels):
        while len(results) < len(pipeline.notebooks):
            started = {step.name for step in running.values()}
            for step in pipeline.ready(results, started):
                reason = skipped.get(step.name) or _unmet(step, results)
                if reason:
                    results[step.name] = NotebookResult(
                        step.name, "skipped", error=reason, publishes=step.publishes
                    )
                    bar.update()
                else:
                    source = notebooks / f"{step.name}.ipynb"
                    task = pool.submit(_attempt, source, out, given[step.name], step, kernels)
                    running[task] = step
            if running:
                bar.set_postfix_str(_at_work(running))
                for task in wait(running, return_when=FIRST_COMPLETED).done:
                    results[running.pop(task).name] = task.result()
                    bar.update()
    return [results[step.name] for step in pipeline.notebooks]


def run_one(
    notebook: Path,
    *,
    out: Path,
    parameters: Mapping[str, object],
    kernels: "Kernels | None" = None,
) -> NotebookResult:
    """Run one notebook top to bottom in a fresh kernel of this Python.

    Parameters
    ----------
    notebook : the file, which is only read.
    out : the folder for the executed file, written atomically when the run ends.
    parameters : a value for each parameter that the notebook declares, and no other.

    Raises
    ------
    BadParameter
        `parameters` differs from what the notebook declares.
    NotebookFailed
        A cell failed or the kernel died; the executed file in `out` shows where.
    NotFound
        The notebook does not exist.
    """
    from apm_analytics.nightly import execution

    execution.check_parameters(notebook, execution.declared_parameters(notebook), parameters)
    started = time.monotonic()
    executed = execution.execute(notebook, out, parameters, kernels)
    seconds = time.monotonic() - started
    return NotebookResult(notebook.stem, "ok", seconds, executed, records=read_records(executed))


def keep(results: list[NotebookResult], release: Path) -> None:
    """Copy the executed notebooks into `release`/notebooks, beside the files they published."""
    folder = release / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        if result.path is not None:
            write_atomic(folder / result.path.name, result.path.read_bytes())


def _parameters_of_each(
    pipeline: Pipeline, folder: Path, shared: Mapping[str, object]
) -> dict[str, dict[str, object]]:
    """Return the checked parameters of each notebook: the shared ones it declares and its own."""
    from apm_analytics.nightly import execution

    given: dict[str, dict[str, object]] = {}
    used: set[str] = set()
    for step in pipeline.notebooks:
        notebook = folder / f"{step.name}.ipynb"
        declared = execution.declared_parameters(notebook)
        used |= shared.keys() & declared.keys()
        of_shared = {name: value for name, value in shared.items() if name in declared}
        given[step.name] = {**of_shared, **step.parameters}
        execution.check_parameters(notebook, declared, given[step.name])
    for name in sorted(shared.keys() - used):
        raise BadParameter(
            f"no notebook of the pipeline declares the parameter {name!r}; "
            "correct the name or leave it out"
        )
    return given


def _attempt(
    source: Path, out: Path, parameters: Mapping[str, object], step: Step, kernels: "Kernels"
) -> NotebookResult:
    started = time.monotonic()
    try:
        result = run_one(source, out=out, parameters=parameters, kernels=kernels)
    except NotebookFailed as error:
        executed = out / source.name
        result = NotebookResult(
            step.name,
            "failed",
            time.monotonic() - started,
            executed if executed.exists() else None,
            str(error),
        )
    return replace(result, publishes=step.publishes)


def _at_work(running: Mapping[Future[NotebookResult], Step]) -> str:
    return ", ".join(step.name for task, step in running.items() if task.running())


def _unmet(step: Step, results: Mapping[str, NotebookResult]) -> str | None:
    fate = {"failed": "failed", "skipped": "was skipped"}
    for name in step.after:
        if results[name].status in fate:
            return f"comes after {name}, which {fate[results[name].status]}"
    return None


@contextmanager
def _threads() -> "Iterator[tuple[ThreadPoolExecutor, Kernels]]":
    """Yield a thread pool and its kernels; an interrupt kills the kernels and so the threads."""
    from apm_analytics.nightly.execution import Kernels

    kernels = Kernels()
    pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="notebook")
    try:
        yield pool, kernels
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        kernels.kill()
        raise
    finally:
        pool.shutdown(wait=True)
