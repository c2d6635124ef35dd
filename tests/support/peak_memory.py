"""Run Python code in a process of its own and measure the most memory that it occupied."""

import json
import resource
import subprocess
import sys

# Whatever the code does, the machine of the tests survives it.
ADDRESS_SPACE = 6 << 30
# Not ru_maxrss, which begins with the size of the process that forked this one.
_RUN = """
import json, sys
from pathlib import Path
sys.argv[1:], code = sys.argv[2:], sys.argv[1]
failure = ""
try:
    exec(code, {"__name__": "__main__"})
except BaseException as error:
    failure = f"{type(error).__name__}: {error}"
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print()
print(json.dumps({"peak": int(peak) // 1024, "failure": failure}))
"""


def run(code: str, *arguments: str) -> tuple[int, str, str]:
    """Return the peak of the resident memory (MiB), the exception that ended the code, its output.

    Parameters
    ----------
    arguments : the code's `sys.argv[1:]`.
    """
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, code, *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE)),
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    output, _, last = ended.stdout.rstrip("\n").rpartition("\n")
    result = json.loads(last)
    return result["peak"], result["failure"], output
