"""Start and stop the receiver: endpoints, pipeline, writer, compaction and retention.

In:  where to listen, who may send, the lake.
Out: a running receiver, until a signal or `stop`.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import pyarrow as pa
import uvicorn
import uvloop
from starlette.applications import Starlette

from apm_analytics.foundation.errors import ApmError, BadParameter
from apm_analytics.foundation.privacy import PrivacyRules
from apm_analytics.ingest.decode import otlp
from apm_analytics.ingest.receiver import compiling, grpc_endpoint, http_endpoint
from apm_analytics.ingest.receiver.health import LOOK_S, Cause
from apm_analytics.ingest.receiver.intake import Intake
from apm_analytics.ingest.receiver.metrics import Metrics
from apm_analytics.ingest.receiver.pipeline import Pipeline
from apm_analytics.ingest.receiver.upkeep import compact_often, retain_often
from apm_analytics.ingest.redaction.requests import Redactor
from apm_analytics.lake.maintenance import lean
from apm_analytics.serve import Access, Readers, bounded_protocol, close_idlest, open_connections

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# File descriptors kept for files, threads and the lake.
RESERVED_FILES = 512
# gRPC's share of the connections. Beyond its share, an endpoint closes those idle longest.
GRPC_SHARE = 0.6
MANY_CONNECTIONS = 10_000
STOP_GRACE_S = 5.0
# The first retention runs an hour after the start, so that a short trial deletes nothing.
RETAIN_EVERY_S = 3_600.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 1 << 30
_PR_SET_THP_DISABLE = 41  # linux/prctl.h

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tls:
    """Certificate and key in PEM; with `client_ca`, clients need a certificate issued by it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class Config:
    """Addresses and limits; port 0 picks a free port."""

    lake: Path
    host: str = "127.0.0.1"
    grpc_port: int = 4317
    http_port: int = 4318
    admin_host: str = "127.0.0.1"
    admin_port: int = 8888
    access: Access = field(default_factory=Access)
    tls: Tls | None = None
    cors_origins: Sequence[str] = ()
    rules: PrivacyRules = field(default_factory=lambda: PrivacyRules([], [], b""))
    max_request_bytes: int = 16 * 1024 * 1024
    budget_bytes: int = 64 * 1024 * 1024
    readers: int = 32
    timeout_s: float = 10.0
    idle_s: float = 60.0
    max_connections: int | None = None  # of both endpoints; None: what the system allows
    retain: bool = False  # run `apm lake retain` every hour


class Receiver:
    """A receiver on the running event loop.

    Examples
    --------
    >>> receiver = Receiver(Config(Path("data/lake")))  # doctest: +SKIP
    >>> await receiver.start()  # doctest: +SKIP
    """

    def __init__(self, config: Config) -> None:
        check(config)
        self.config = config
        self.metrics = Metrics()
        self._redactor = Redactor(config.rules)
        self.pipeline = Pipeline(
            config.lake,
            self.metrics,
            budget_bytes=config.budget_bytes,
            redactor=self._redactor,
        )
        self._servers: list[uvicorn.Server] = []
        self._serving: list[asyncio.Task[None]] = []
        self._grpc: grpc.aio.Server | None = None
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.grpc_port = self.http_port = self.admin_port = 0

    async def start(self) -> None:
        """Start serving on all ports.

        Raises
        ------
        ApmError
            A port is taken, or a certificate cannot be read.
        """
        config = self.config
        files = _raise_file_limit()
        if config.max_connections is not None:
            files = min(files, config.max_connections)
        max_http = int(files * (1 - GRPC_SHARE))
        if files - max_http < MANY_CONNECTIONS:
            _log.warning(
                "the system allows %d open files: beyond %d connections the idlest of gRPC are "
                "closed; raise it (LimitNOFILE, ulimit -n)",
                files,
                files - max_http,
            )
        await asyncio.to_thread(compiling.warm_up, self._redactor)
        self.pipeline.start()
        intake = Intake(
            self.pipeline,
            config.access,
            self.metrics,
            readers=Readers(config.readers, config.timeout_s),
            max_request_bytes=config.max_request_bytes,
        )
        self._grpc = grpc_endpoint.make_server(
            intake,
            timeout_s=config.timeout_s,
            max_connections=files - max_http,
            idle_s=config.idle_s,
        )
        self.grpc_port = self._bind_grpc(self._grpc)
        await self._grpc.start()
        self._tasks.append(
            asyncio.create_task(close_idlest(self.grpc_port, files - max_http, self._stopping))
        )
        app = http_endpoint.make_app(intake, cors_origins=config.cors_origins)
        self.http_port, server = await self._serve(
            app, config.host, config.http_port, config.tls, max_http
        )
        admin = http_endpoint.make_admin_app(self.pipeline, self.metrics)
        self.admin_port, _ = await self._serve(
            admin, config.admin_host, config.admin_port, None, max_http
        )
        self.metrics.watch(
            lag_seconds=self.pipeline.lag_seconds,
            held_bytes=lambda: self.pipeline.held_bytes,
            connections=lambda: open_connections(server),
            ready=lambda: self.pipeline.ready,
            troubles={
                cause.name.lower(): partial(self.pipeline.health.has, cause) for cause in Cause
            },
        )
        self._tasks.append(
            asyncio.create_task(
                compact_often(config.lake, self._stopping, self.metrics.compacted_parts.inc)
            )
        )
        if config.retain:
            self._tasks.append(
                asyncio.create_task(
                    retain_often(
                        config.lake,
                        self._stopping,
                        RETAIN_EVERY_S,
                        lambda: self.pipeline.health.trouble is None,
                    )
                )
            )

    async def stop(self) -> None:
        """Answer and write all accepted requests, then close."""
        self._stopping.set()
        if self._grpc is not None:
            await self._grpc.stop(STOP_GRACE_S)
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._serving)
        await asyncio.gather(*self._tasks)
        await asyncio.to_thread(self.pipeline.stop)

    def _bind_grpc(self, server: grpc.aio.Server) -> int:
        config = self.config
        address = f"{_bracketed(config.host)}:{config.grpc_port}"
        try:
            if config.tls is None:
                return int(server.add_insecure_port(address))
            authority = config.tls.client_ca.read_bytes() if config.tls.client_ca else None
            credentials = grpc.ssl_server_credentials(
                [(config.tls.key.read_bytes(), config.tls.certificate.read_bytes())],
                root_certificates=authority,
                require_client_auth=authority is not None,
            )
            return int(server.add_secure_port(address, credentials))
        except RuntimeError as error:
            raise ApmError(
                f"cannot listen on {address}: is another receiver or Collector running there? "
                "stop it or choose another --grpc-port"
            ) from error

    async def _serve(
        self, app: Starlette, host: str, port: int, tls: Tls | None, max_connections: int
    ) -> tuple[int, uvicorn.Server]:
        config = uvicorn.Config(
            app,
            http=bounded_protocol(timeout_s=self.config.timeout_s, max_connections=max_connections),
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_keep_alive=int(self.config.idle_s),
            timeout_graceful_shutdown=int(STOP_GRACE_S),
            ssl_certfile=str(tls.certificate) if tls else None,
            ssl_keyfile=str(tls.key) if tls else None,
            ssl_ca_certs=str(tls.client_ca) if tls and tls.client_ca else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_ca else ssl.CERT_NONE,
        )
        listener = _listen(host, port)
        server = _Server(config)
        self._servers.append(server)
        self._serving.append(asyncio.create_task(server.serve([listener])))
        while not server.started:
            if self._serving[-1].done():
                self._serving[-1].result()
                raise ApmError(f"the HTTP server on {host}:{port} ended at once")
            await asyncio.sleep(0.01)
        return int(listener.getsockname()[1]), server


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run`, as one process has several servers."""
        yield


def check(config: Config) -> None:
    """Refuse to listen on a public address without authentication.

    Raises
    ------
    BadParameter
        An address other than loopback, with neither tokens nor client certificates; files that
        are no certificate and key.
    """
    if config.tls is not None:
        try:
            ssl.create_default_context().load_cert_chain(config.tls.certificate, config.tls.key)
        except OSError as error:  # also ssl.SSLError
            raise BadParameter(
                f"{config.tls.certificate} and {config.tls.key} are no certificate and its key "
                f"in PEM: {error}"
            ) from error
    guarded = not config.access.open or (config.tls is not None and config.tls.client_ca)
    if config.host not in LOOPBACK and not guarded:
        raise BadParameter(
            f"to listen on {config.host} senders need tokens: make one with `apm token NAME` and "
            "give the file with --tokens (APM_RECEIVE_TOKENS_FILE), or client certificates with "
            "--tls-client-ca; without them only 127.0.0.1 is served"
        )


def run(config: Config, say: Callable[[str], None]) -> None:
    """Run a receiver until SIGTERM or SIGINT.

    Raises
    ------
    ApmError
        The receiver could not start.
    """
    lean.without_pandas()
    compiling.compile_once(say)
    _keep_freed_memory()
    uvloop.run(_run(config, say))


def _keep_freed_memory() -> None:
    """Make malloc keep freed memory, which the next flush needs again.

    Returning it to the system and allocating it again costs a tenth of all CPU in page faults.
    """
    with contextlib.suppress(AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)  # only the main arena keeps large blocks
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(parameter, _KEPT_BYTES)
        pa.set_memory_pool(pa.system_memory_pool())
        # NumPy requests 2 MB pages; a flush fills few of them, but all are zeroed.
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


async def _run(config: Config, say: Callable[[str], None]) -> None:
    receiver = Receiver(config)
    otlp.warm_up()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        await receiver.start()
        # Loaded modules stay in memory, so garbage collection need not visit them.
        gc.collect()
        gc.freeze()
        for line in _lines(receiver):
            say(line)
        while not stopping.is_set() and not receiver.pipeline.health.has(Cause.THREAD_ENDED):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK_S)
    finally:
        trouble = receiver.pipeline.health.trouble
        await receiver.stop()
        gc.unfreeze()
    if trouble is not None and trouble.cause is Cause.THREAD_ENDED:
        raise ApmError(f"{trouble}; what was acknowledged is in the journal")
    say("stopped; everything acknowledged is in the lake or its journal")


def _lines(receiver: Receiver) -> Iterator[str]:
    config = receiver.config
    scheme = "https" if config.tls else "http"
    host = _bracketed(config.host)
    yield f"OTLP over gRPC on {host}:{receiver.grpc_port}, into {config.lake}"
    yield f"OTLP over HTTP on {scheme}://{host}:{receiver.http_port}/v1/traces, metrics, logs"
    yield (
        f"metrics and health on http://{_bracketed(config.admin_host)}:{receiver.admin_port}"
        "/metrics, /healthz, /readyz"
    )
    if config.access.open and config.tls and config.tls.client_ca:
        authority = config.tls.client_ca
        yield f"no token is configured: whoever has a certificate of {authority} may send"
    elif config.access.open:
        yield "no token is configured: everyone on this machine may send, nobody else"
    elif config.tls is None and config.host not in LOOPBACK:
        yield "warning: without --tls-cert tokens travel in clear text"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(
        family, proto=socket.IPPROTO_TCP
    )  # asyncio sets TCP_NODELAY only with it
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ApmError(
            f"cannot listen on {host}:{port}: {error}; stop what runs there or choose another port"
        ) from error
    return listener


def _raise_file_limit() -> int:
    """Raise the limit of open files to the maximum; return how many connections that allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - RESERVED_FILES, RESERVED_FILES)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
