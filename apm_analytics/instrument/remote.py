"""Change sampling and profiling of a running service, without a restart.

In:  a small JSON file or an http URL that is polled: {"sample_rate": 0.05, "slow_s": 2.0,
     "critical_transactions": ["checkout"], "profiling_enabled": true, "memory_seconds": 60}.
Out: a new policy; invalid settings are logged once and the old policy stays.
"""

import json
import logging
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

from apm_analytics.foundation.errors import BadInput
from apm_analytics.instrument.sampling import Live

LARGEST = 64 * 1024  # bytes
TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


class RemoteSettings:
    """Poll a source and keep the policy up to date.

    Parameters
    ----------
    source : a path, or a URL that begins with http.
    live : its policy is replaced; keys that the source leaves out keep their initial value.
    on_memory : called with `memory_seconds`, once per new content.
    """

    def __init__(
        self,
        source: str,
        live: Live,
        *,
        poll_s: float = 10.0,
        on_memory: Callable[[float], None] | None = None,
    ) -> None:
        self._source = source
        self._live = live
        self._start = live.policy
        self._poll_s = poll_s
        self._on_memory = on_memory
        self._seen: bytes | None = None
        self._warned = ""
        self._ended = threading.Event()

    def begin(self) -> None:
        """Poll in the background; a file is read at once, a server must not delay the start."""
        if not self._source.startswith("http"):
            self.poll()
        threading.Thread(target=self._work, name="apm-remote-settings", daemon=True).start()

    def end(self) -> None:
        """Stop polling."""
        self._ended.set()

    def poll(self) -> bool:
        """Poll once; return True when the policy was replaced."""
        try:
            content = self._read()
            if content == self._seen:
                return False
            settings = _checked(content)
            memory_s = settings.pop("memory_seconds", None)
            self._live.policy = replace(self._start, **settings)
            first = self._seen is None
            self._seen, self._warned = content, ""
            if memory_s and self._on_memory and not first:
                self._on_memory(float(memory_s))
            return True
        except Exception as error:
            text = f"{self._source}: {error}; the settings stay unchanged"
            if text != self._warned:
                self._warned = text
                _log.warning(text)
            return False

    def _work(self) -> None:
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        self.poll()
        while not self._ended.wait(self._poll_s):
            self.poll()

    def _read(self) -> bytes:
        if self._source.startswith(("http://", "https://")):
            with urllib.request.urlopen(self._source, timeout=TIMEOUT_S) as answer:
                content: bytes = answer.read(LARGEST + 1)
        else:
            with Path(self._source).open("rb") as file:
                content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise BadInput(f"found over {LARGEST} bytes, needs a small JSON object")
        return content


def _checked(content: bytes) -> dict[str, Any]:
    try:
        settings = json.loads(content)
    except ValueError as error:
        raise BadInput(f"found no JSON ({error}), needs an object") from error
    if not isinstance(settings, dict):
        raise BadInput(f"found {type(settings).__name__}, needs an object")
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in _CHECKS:
            raise BadInput(f"found {key!r}, needs some of {', '.join(_CHECKS)}")
        fits, needed = _CHECKS[key]
        if not fits(value):
            raise BadInput(f"{key}: found {value!r}, needs {needed}")
        checked[key] = frozenset(value) if isinstance(value, list) else value
    return checked


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sample_rate": (lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "slow_s": (lambda v: _is_number(v) and v > 0, "seconds"),
    "critical_transactions": (
        lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v),
        "a list of names",
    ),
    "profiling_enabled": (lambda v: isinstance(v, bool), "true or false"),
    "memory_seconds": (lambda v: _is_number(v) and 0 <= v <= 3600, "seconds up to an hour"),
}
