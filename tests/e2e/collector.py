"""Build a Collector once, into the user's cache.

In:  builder.yaml or whole.yaml beside this file, Go.
Out: the path of the program; built again when the file changes.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

MANIFEST = Path(__file__).parent / "builder.yaml"
WHOLE = MANIFEST.with_name("whole.yaml")
BUILDER = "go.opentelemetry.io/collector/cmd/builder"
BUILD_TIMEOUT_S = 1800


def cache() -> Path:
    """Return the folder that survives `make clean`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "apm-analytics"


def built(file: Path = MANIFEST) -> Path | None:
    """Return the Collector of a manifest, built where it is not there yet; None without Go."""
    manifest = file.read_text()
    name = hashlib.sha256(manifest.encode()).hexdigest()[:12]
    program = cache() / f"otelcol-apm-{name}"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        return None
    program.parent.mkdir(parents=True, exist_ok=True)
    modules = re.findall(r"gomod: (\S+) (v\S+)", manifest)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        (Path(folder) / "builder.yaml").write_text(manifest)
        version = dict(modules)["go.opentelemetry.io/collector/receiver/otlpreceiver"]
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}

        def run(*arguments: str, where: str = "otelcol-apm") -> None:
            command = [go, *arguments]
            subprocess.run(
                command,
                cwd=Path(folder) / where,
                check=True,
                timeout=BUILD_TIMEOUT_S,
                env=environment,
            )

        skip = ("--skip-get-modules", "--skip-compilation")
        run("run", f"{BUILDER}@{version}", *skip, "--config", "builder.yaml", where=".")
        # Without the builder's `go mod tidy`, which also fetches what the modules' tests need.
        if not (Path(folder) / "otelcol-apm" / "go.mod").exists():
            run("mod", "init", "otelcol-apm")
        run("get", *(f"{name}@{at}" for name, at in modules))
        run("build", "-trimpath", "-ldflags=-s -w", "-o", "otelcol-apm", ".")
        (Path(folder) / "otelcol-apm" / "otelcol-apm").rename(program)
    return program


if __name__ == "__main__":
    print(built())
