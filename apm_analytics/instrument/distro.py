"""Entry points for `opentelemetry-instrument`: instrument a service without changing its code.

In:  OTEL_PYTHON_DISTRO=apm and OTEL_PYTHON_CONFIGURATOR=apm, if another distro is installed.
Out: the same as `setup`, for every FastAPI application that the process makes.
"""

from typing import Any

import wrapt
from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined]

from apm_analytics.instrument import wiring
from apm_analytics.instrument.pipeline import Pipeline


class ApmConfigurator:
    """Set up the SDK; `opentelemetry-instrument` calls `configure` once."""

    pipeline: Pipeline | None = None

    def configure(self, auto_instrumentation_version: str = "", **_: Any) -> None:
        """Start the pipeline of this process, unless it is switched off."""
        version = {"telemetry.auto.version": auto_instrumentation_version}
        ApmConfigurator.pipeline = wiring.start(None, version)


class ApmDistro(BaseDistro):  # type: ignore[misc]
    """Switch on contrib's instrumentations, with our hooks where we have some."""

    def _configure(self, **kwargs: Any) -> None:
        """Do nothing: the configurator does it."""

    def load_instrumentor(self, entry_point: Any, **kwargs: Any) -> None:
        """Switch one instrumentation on."""
        pipeline = ApmConfigurator.pipeline
        if pipeline is None:
            return
        if entry_point.name == "fastapi":
            wrapt.register_post_import_hook(
                lambda fastapi: _watch_new_applications(fastapi, pipeline), "fastapi"
            )
        elif entry_point.name in (*wiring.AT_ONCE, *wiring.LIBRARIES):
            wiring.instrument_library(entry_point.name, pipeline)
        else:
            super().load_instrumentor(entry_point, **kwargs)


def _watch_new_applications(fastapi: Any, pipeline: Pipeline) -> None:
    class WatchedFastAPI(fastapi.FastAPI):  # type: ignore[misc]
        """A FastAPI application that is instrumented from its start."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            wiring.watch_application(self, pipeline)

    fastapi.FastAPI = WatchedFastAPI
