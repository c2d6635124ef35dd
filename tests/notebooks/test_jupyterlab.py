import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import browser
import small_run

NOTEBOOK = "00_start_here.ipynb"
START_S = 60
LONG_MS = 90_000


def test_start_here_runs_in_jupyterlab_and_shows_its_chart(
    tmp_path: Path, workspace: Path, server_binary: Callable[[str], Path]
) -> None:
    chromium = server_binary("chromium")
    run = small_run.write(tmp_path, trained=False)
    shutil.copy(workspace / "params.yaml", run.workspace)
    shutil.copytree(workspace / "notebooks", run.workspace / "notebooks")
    before = (workspace / "notebooks" / NOTEBOOK).read_bytes()
    with (
        jupyterlab(run.workspace, workspace / "deploy" / "jupyterlab") as address,
        browser.page(chromium, viewport={"width": 1400, "height": 1000}) as page,
    ):
        page.goto(f"{address}/lab/tree/{NOTEBOOK}?reset", timeout=LONG_MS)
        # Without a started kernel, Run All opens a dialog instead of running.
        page.get_by_text("| Idle").wait_for(timeout=LONG_MS)
        page.get_by_text("Run", exact=True).first.click()
        page.get_by_text("Run All Cells", exact=True).click()
        chart = page.locator(".jp-OutputArea svg.marks, .jp-OutputArea canvas.marks")
        deadline = time.monotonic() + LONG_MS / 1_000
        while chart.count() == 0:
            assert time.monotonic() < deadline, page.locator(".jp-Notebook").inner_text()
            # A notebook draws only the cells in sight, and the chart is near the end.
            page.locator(".jp-WindowedPanel-outer").first.evaluate(
                "panel => { panel.scrollTop = panel.scrollHeight; }"
            )
            page.wait_for_timeout(500)
        box = chart.first.bounding_box()
        assert box is not None and box["width"] > 300 and box["height"] > 100
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        assert page.locator(".jp-toast, .Toastify__toast").count() == 0
    assert (workspace / "notebooks" / NOTEBOOK).read_bytes() == before


@contextmanager
def jupyterlab(workspace: Path, settings: Path) -> Iterator[str]:
    """Run JupyterLab on a free loopback port, with separate settings and state."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    state = {
        f"JUPYTER_{name}": str(workspace / "jupyter" / name.lower())
        for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    }
    log = workspace / "jupyterlab.log"
    with log.open("wb") as said:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--ServerApp.ip=127.0.0.1",
                f"--ServerApp.port={port}",
                "--ServerApp.port_retries=0",
                "--IdentityProvider.token=",
                f"--ServerApp.root_dir={workspace / 'notebooks'}",
                f"--LabApp.app_settings_dir={settings}",
            ],
            env={**os.environ, **state, "APM_WORKSPACE": str(workspace)},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(f"{address}/api"):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
