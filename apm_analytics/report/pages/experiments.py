"""Compare training runs with DVC's plots, as one self-contained page.

In:  the workspace, and revisions or experiments known to DVC.
Out: dvc_plots/index.html.

DVC's own page loads Vega from a CDN. This module passes DVC a page template that contains Vega.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from apm_analytics.foundation.errors import ApmError, NotFound
from apm_analytics.report.pages import nightly

OUT = "dvc_plots"
# DVC's templates are written for Vega-Lite 5; vl_convert names versions without the patch.
VEGA_LITE = "5.20"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:">
{refresh_tag}
<title>Training runs compared</title>
<style>body { font-family: sans-serif; } table { border-spacing: 15px; }</style>
<script>SCRIPT</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""
SHOWN_LINES = 5


def plots(workspace: Path, revisions: Sequence[str] = ()) -> Path:
    """Write the plots of dvc.yaml, of the workspace or of several revisions side by side.

    Parameters
    ----------
    workspace : the checkout.
    revisions : commits, branches or experiments; "workspace" is the current state.

    Returns
    -------
    The page; it opens from a file and makes no request.

    Raises
    ------
    NotFound
        No dvc.yaml in the workspace.
    ApmError
        DVC found no such revision, or no plots in it; the message contains DVC's output.

    Examples
    --------
    >>> plots(Path("."), ["workspace", "narrow"])  # doctest: +SKIP
    """
    if not (workspace / "dvc.yaml").exists():
        raise NotFound(f"no dvc.yaml in {workspace}; APM_WORKSPACE names the checkout")
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "page.html"
        template.write_text(PAGE.replace("SCRIPT", nightly.bundle(VEGA_LITE)), encoding="utf-8")
        what = ["diff", *revisions] if revisions else ["show"]
        command = [sys.executable, "-m", "dvc", "plots", *what]
        process = subprocess.run(
            [*command, "--html-template", str(template), "-o", OUT],
            cwd=workspace,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
        )
    page = workspace / OUT / "index.html"
    if process.returncode != 0 or not page.exists():
        lines = [line for line in (process.stderr + process.stdout).splitlines() if line.strip()]
        raise ApmError(
            f"no plots: {' | '.join(lines[-SHOWN_LINES:])}; train first (`dvc repro`), and see "
            "`dvc exp show` for what can be compared"
        )
    return page
