"""Build the Collector of deploy/otel-collector once, into the user's cache.

In:  deploy/otel-collector/builder.yaml, Go.
Out: the path of the program; made anew when the file changes.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "otel-collector"
BUILDER = "go.opentelemetry.io/collector/cmd/builder"
BUILD_TIMEOUT_S = 1800


def cache() -> Path:
    """Give the folder that survives `make clean`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "apm-analytics"


def built() -> Path | None:
    """Give the Collector, built where it is not there yet; None without Go."""
    manifest = (FOLDER / "builder.yaml").read_text()
    name = hashlib.sha256(manifest.encode()).hexdigest()[:12]
    program = cache() / f"otelcol-apm-{name}"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        return None
    program.parent.mkdir(parents=True, exist_ok=True)
    version = re.findall(r"otlpreceiver (v\S+)", manifest)[0]
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        config = Path(folder) / "builder.yaml"
        config.write_text(manifest)
        command = [go, "run", f"{BUILDER}@{version}", "--config", str(config)]
        environment = {**os.environ, "CGO_ENABLED": "0"}
        subprocess.run(command, cwd=folder, check=True, timeout=BUILD_TIMEOUT_S, env=environment)
        (Path(folder) / "otelcol-apm" / "otelcol-apm").rename(program)
    return program


if __name__ == "__main__":
    print(built())
