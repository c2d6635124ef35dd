"""Settings of an instrumented service, from its environment.

In:  environment variables APM_*, and OTEL_TRACES_SAMPLER with its argument.
Out: `InstrumentSettings`; a bad value is logged and its default used, because an instrumented
     application must start in any case.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
# Hosts that are ours: this machine, names without a dot (containers, services), cluster names.
OWN_HOSTS = ("localhost", "127.*", "::1", "*.svc", "*.svc.cluster.local", "*.internal", "*.local")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InstrumentSettings:
    """How a service is instrumented; every field has a variable in `VARIABLES`.

    Examples
    --------
    >>> InstrumentSettings.from_environment({"APM_SAMPLE_RATE": "0.1"}).sample_rate
    0.1
    """

    enabled: bool = True
    sample_rate: float = 1.0  # share of ordinary traces to keep
    slow_s: float = 1.0  # a local root at least this long is always kept
    critical_transactions: tuple[str, ...] = ()  # always kept
    trace_timeout_s: float = 60.0  # one open for longer is decided with the spans it has
    max_spans_per_trace: int = 1000
    sampling_source: str = ""  # file or URL of remote settings, see `remote`
    sampling_poll_s: float = 10.0
    profiling_enabled: bool = False
    profiling_duty: float = 0.005  # share of the time in which a request is profiled
    own_hosts: tuple[str, ...] = OWN_HOSTS
    graph_hosts: tuple[str, ...] = ("graph.microsoft.com",)
    kpi_max_series: int = 100  # attribute sets per KPI
    privacy_rules: Path = PACKAGE.parent / "specs" / "privacy.yaml"
    shutdown_s: float = 5.0  # longest delay of the exit for sending telemetry

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "InstrumentSettings":
        """Read the settings of this process; a bad value is logged and its default used."""
        environ = os.environ if environ is None else environ
        read: dict[str, Any] = {}
        if (rate := _rate_of_otel_sampler(environ)) is not None:
            read["sample_rate"] = rate
        for field in fields(cls):
            variable, parse, needed = VARIABLES[field.name]
            text = environ.get(variable, "").strip()
            if not text:
                continue
            try:
                read[field.name] = parse(text)
            except ValueError:
                _log.warning(
                    "%s: found %r, needs %s; %r is used", variable, text, needed, field.default
                )
        return cls(**read)


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise ValueError(text)
    return text.lower() in ("true", "1", "yes", "on")


def _between(low: float, high: float, kind: type = float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


_SECONDS = _between(0.001, 86_400.0)
_COUNT = _between(1, 1_000_000, int)
_SHARE = _between(0.0, 1.0)
# Field -> its variable, its parser, and the accepted values in words.
VARIABLES: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "enabled": ("APM_ENABLED", _flag, "true or false"),
    "sample_rate": ("APM_SAMPLE_RATE", _SHARE, "a number from 0 to 1"),
    "slow_s": ("APM_SLOW_SECONDS", _SECONDS, "seconds"),
    "critical_transactions": ("APM_CRITICAL_TRANSACTIONS", _names, "names with commas"),
    "trace_timeout_s": ("APM_TRACE_TIMEOUT", _SECONDS, "seconds"),
    "max_spans_per_trace": ("APM_MAX_SPANS_PER_TRACE", _COUNT, "a number from 1 to a million"),
    "sampling_source": ("APM_SAMPLING_SOURCE", str, "a file or an http URL"),
    "sampling_poll_s": ("APM_SAMPLING_POLL_SECONDS", _SECONDS, "seconds"),
    "profiling_enabled": ("APM_PROFILING_ENABLED", _flag, "true or false"),
    "profiling_duty": ("APM_PROFILING_DUTY", _SHARE, "a number from 0 to 1"),
    "own_hosts": ("APM_OWN_HOSTS", _names, "host names or globs with commas"),
    "graph_hosts": ("APM_GRAPH_HOSTS", _names, "host names with commas"),
    "kpi_max_series": ("APM_KPI_MAX_SERIES", _COUNT, "a number from 1 to a million"),
    "privacy_rules": ("APM_PRIVACY_RULES", Path, "a file"),
    "shutdown_s": ("APM_SHUTDOWN_SECONDS", _SECONDS, "seconds"),
}


def _rate_of_otel_sampler(environ: Mapping[str, str]) -> float | None:
    """Return the rate that OTEL_TRACES_SAMPLER sets; APM_SAMPLE_RATE takes precedence."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower().removeprefix("parentbased_")
    if name == "always_on":
        return 1.0
    if name == "always_off":
        return 0.0
    if name == "traceidratio":
        argument = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
        try:
            rate: float = _SHARE(argument)
            return rate
        except ValueError:
            _log.warning(
                "OTEL_TRACES_SAMPLER_ARG: found %r, needs a number from 0 to 1; 1 is used", argument
            )
            return 1.0
    if name:
        _log.warning(
            "OTEL_TRACES_SAMPLER: found %r, needs always_on, always_off or traceidratio; "
            "it is ignored, set APM_SAMPLE_RATE",
            name,
        )
    return None
