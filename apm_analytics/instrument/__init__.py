"""Instrument an application from inside: traces, metrics, logs and profiles over OTLP.

In:  a FastAPI service, APM_* and OTEL_* variables.
Out: redacted telemetry at an OTLP receiver; no error of ours is raised into the service.

>>> from apm_analytics import instrument
>>> app = FastAPI()  # doctest: +SKIP
>>> instrument.setup(app)  # doctest: +SKIP
"""

from apm_analytics.instrument.business import event, kpi, transaction
from apm_analytics.instrument.config import InstrumentSettings
from apm_analytics.instrument.correlation import LOG_FORMAT, correlation_id, request_id
from apm_analytics.instrument.wiring import setup

__all__ = [
    "LOG_FORMAT",
    "InstrumentSettings",
    "correlation_id",
    "event",
    "kpi",
    "request_id",
    "setup",
    "transaction",
]
