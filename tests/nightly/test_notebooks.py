"""Notebooks run strictly: parameters are checked, failures are named, kernels end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import small_notebooks

from apm_analytics.foundation.errors import BadInput, BadParameter, NotebookFailed, NotFound
from apm_analytics.nightly import notebooks
from apm_analytics.nightly.notebooks import Without

RECORD = "from apm_analytics.report.records import record"


def test_an_executed_notebook_gives_back_the_numbers_it_recorded(tmp_path: Path) -> None:
    source = small_notebooks.write(
        tmp_path, "10_numbers", [RECORD, "record('lake', lake)\nrecord('answers', [42, 1.5])"]
    )
    before = source.read_bytes()
    result = notebooks.run_one(source, out=tmp_path / "out", parameters={"lake": "there"})
    assert result.status == "ok"
    assert result.records == {"lake": "there", "answers": [42, 1.5]}
    assert result.path == tmp_path / "out" / "10_numbers.ipynb"
    assert source.read_bytes() == before
    nbformat.validate(nbformat.read(result.path, as_version=4))


def test_a_notebook_runs_in_the_python_that_asked_for_it(tmp_path: Path) -> None:
    """Even where the kernel `python3` of the user's Jupyter is another Python."""
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false", "{connection_file}"], "display_name": "other"})
    )
    source = small_notebooks.write(
        tmp_path, "10_who", [RECORD, "import sys; record('python', sys.executable)"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
        result = notebooks.run_one(source, out=tmp_path / "out", parameters={"lake": "x"})
    assert result.records["python"] == sys.executable


def test_a_failed_cell_is_named_with_notebook_number_and_cause(tmp_path: Path) -> None:
    source = small_notebooks.write(
        tmp_path, "20_broken", ["fine = 1", "# divide\n1 / 0", "never = 1"]
    )
    with pytest.raises(NotebookFailed, match=r"20_broken.ipynb, cell 4 \(# divide\): ZeroDivision"):
        notebooks.run_one(source, out=tmp_path / "out", parameters={"lake": "x"})
    executed = (tmp_path / "out" / "20_broken.ipynb").read_text()
    assert "ZeroDivisionError" in executed


def test_a_kernel_that_dies_is_a_failed_notebook(tmp_path: Path) -> None:
    source = small_notebooks.write(tmp_path, "20_killed", ["import os\nos.kill(os.getpid(), 9)"])
    with pytest.raises(NotebookFailed, match=r"cell 3 \(import os\): DeadKernelError"):
        notebooks.run_one(source, out=tmp_path / "out", parameters={"lake": "x"})


def test_a_misspelt_parameter_is_refused_before_anything_runs(tmp_path: Path) -> None:
    source = small_notebooks.write(tmp_path, "10_a", ["1"])
    with pytest.raises(BadParameter, match=r"10_a.ipynb has no parameter 'laek'; it declares lake"):
        notebooks.run_one(source, out=tmp_path / "out", parameters={"laek": "x", "lake": "x"})
    assert not (tmp_path / "out").exists()


def test_a_parameter_nobody_gives_is_refused(tmp_path: Path) -> None:
    source = small_notebooks.write(tmp_path, "10_a", ["1"], parameters="lake = 1\nlevel = 0.9")
    with pytest.raises(BadParameter, match=r"10_a.ipynb declares the parameter 'level'"):
        notebooks.run_one(source, out=tmp_path / "out", parameters={"lake": "x"})


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path: Path) -> None:
    source = small_notebooks.write(tmp_path, "10_a", ["1"], parameters=None)
    with pytest.raises(BadParameter, match=r"10_a.ipynb has no cells tagged `parameters`"):
        notebooks.run_one(source, out=tmp_path / "out", parameters={})


def test_what_is_no_notebook_is_named(tmp_path: Path) -> None:
    (tmp_path / "10_a.ipynb").write_text("{not json")
    with pytest.raises(BadInput, match=r"10_a.ipynb is no notebook"):
        notebooks.run_one(tmp_path / "10_a.ipynb", out=tmp_path, parameters={})
    with pytest.raises(NotFound, match=r"no notebook '10_b' in .*; there are: 10_a"):
        notebooks.run_one(tmp_path / "10_b.ipynb", out=tmp_path, parameters={})


def test_a_failed_notebook_stops_only_those_that_come_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "note{book}s"  # papermill would fill in the braces, we keep them
    small_notebooks.write(folder, "10_fails", ["raise ValueError('no luck')"])
    small_notebooks.write(folder, "20_after", ["1"])
    small_notebooks.write(folder, "30_later", ["1"])
    small_notebooks.write(
        folder, "40_alone", [RECORD, "record('days', days)"], parameters="days = 1"
    )
    small_notebooks.write(folder, "50_publishes", ["1"])
    spec = small_notebooks.pipeline(
        tmp_path,
        """
        notebooks:
          - name: 10_fails
          - {name: 20_after, after: [10_fails]}
          - {name: 30_later, after: [20_after]}
          - {name: 40_alone, parameters: {days: 28}}
          - {name: 50_publishes, publishes: true}
        """,
    )
    results = notebooks.run_all(
        spec,
        notebooks=folder,
        out=tmp_path / "o{u}t",
        parameters={"lake": "x"},
        without=Without(publishing=True),
        progress=False,
    )
    assert [result.status for result in results] == [
        "failed",
        "skipped",
        "skipped",
        "ok",
        "skipped",
    ]
    assert "no luck" in str(results[0].error)
    assert results[0].path is not None and results[0].path.exists()
    assert results[1].error == "comes after 10_fails, which failed"
    assert results[2].error == "comes after 20_after, which was skipped"
    assert results[3].records == {"days": 28}
    assert results[4].publishes and "quality" in str(results[4].error)
    notebooks.keep(results, tmp_path)
    assert sorted(file.name for file in (tmp_path / "notebooks").iterdir()) == [
        "10_fails.ipynb",
        "40_alone.ipynb",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("notebooks: []", "at least 1 item"),
        ("notebooks: [{name: 10_a, afterr: []}]", "notebooks.0.afterr: found .*extra inputs"),
        ("notebooks: [{name: 10_a}, {name: 10_a}]", "lists 10_a twice"),
        ("notebooks: [{name: 10_a, after: [10_b]}]", "10_a comes after '10_b'"),
        (
            "notebooks: [{name: 10_a, after: [20_b]}, {name: 20_b, after: [10_a]}]",
            "is a cycle",
        ),
        ("notebooks: [", "not YAML"),
    ],
)
def test_a_pipeline_that_cannot_be_run_is_refused(tmp_path: Path, text: str, found: str) -> None:
    spec = small_notebooks.pipeline(tmp_path, text)
    with pytest.raises(BadParameter, match=found):
        notebooks.run_all(spec, notebooks=tmp_path, out=tmp_path, parameters={}, progress=False)


def test_a_shared_parameter_that_no_notebook_declares_is_refused(tmp_path: Path) -> None:
    small_notebooks.write(tmp_path, "10_a", ["1"])
    spec = small_notebooks.pipeline(tmp_path, "notebooks: [{name: 10_a}]")
    with pytest.raises(BadParameter, match=r"no notebook of the pipeline declares .*'modls'"):
        notebooks.run_all(
            spec,
            notebooks=tmp_path,
            out=tmp_path,
            parameters={"lake": "x", "modls": "y"},
            progress=False,
        )


def test_an_interrupt_ends_the_kernels_at_once(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    small_notebooks.write(
        tmp_path,
        "10_slow",
        [f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"],
    )
    spec = small_notebooks.pipeline(tmp_path, "notebooks: [{name: 10_slow}]")
    run = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from apm_analytics.nightly import notebooks;"
            "notebooks.run_all(Path(sys.argv[1]), notebooks=Path(sys.argv[2]),"
            " out=Path(sys.argv[2]) / 'out', parameters={'lake': 'x'}, progress=False)",
            str(spec),
            str(tmp_path),
        ],
        stderr=subprocess.DEVNULL,
    )
    _wait_for(lambda: pid_file.exists() and pid_file.read_text(), 40)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=20) != 0
    _wait_for(lambda: not _alive(int(pid_file.read_text())), 10)


def _wait_for(condition: object, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
