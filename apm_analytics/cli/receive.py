"""Commands of the receiver: `apm receive`, `apm token`."""

import logging
from pathlib import Path

import click

from apm_analytics.cli.options import LAKE, Finite
from apm_analytics.foundation.errors import BadParameter

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_PORT = click.IntRange(0, 65_535)  # 0: a free one


@click.command()
@LAKE
@click.option("--host", help="[default: 0.0.0.0 with --tokens or --tls-client-ca, else 127.0.0.1]")
@click.option("--grpc-port", type=_PORT, default=4317, show_default=True)
@click.option("--http-port", type=_PORT, default=4318, show_default=True)
@click.option("--admin-host", default="127.0.0.1", show_default=True)
@click.option(
    "--admin-port",
    type=_PORT,
    default=8888,
    show_default=True,
    help="/metrics, /healthz, /readyz",
)
@click.option("--tokens", type=_FILE, envvar="APM_RECEIVE_TOKENS_FILE", help="See `apm token`.")
@click.option("--tls-cert", type=_FILE, help="PEM.")
@click.option("--tls-key", type=_FILE, help="PEM.")
@click.option(
    "--tls-client-ca", type=_FILE, help="Accept only clients with a certificate of this CA."
)
@click.option("--privacy", type=_FILE, help="[default: specs/privacy.yaml]")
@click.option("--cors-origin", multiple=True, help="A browser origin that may send.")
@click.option("--max-request-mb", type=Finite(0.001, 64), default=16.0, show_default=True)
@click.option(
    "--budget-mb",
    type=Finite(1, 4096),
    default=64.0,
    show_default=True,
    help="Most MB accepted and not yet written; beyond it senders are asked to retry.",
)
@click.option("--timeout", type=Finite(0.1, 600), default=10.0, show_default=True, help="Seconds.")
@click.option("--no-retention", is_flag=True, help="Keep everything, whatever its age.")
def receive(
    lake: Path,
    host: str | None,
    grpc_port: int,
    http_port: int,
    admin_host: str,
    admin_port: int,
    tokens: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    cors_origin: tuple[str, ...],
    privacy: Path | None,
    max_request_mb: float,
    budget_mb: float,
    timeout: float,
    no_retention: bool,
) -> None:
    """Receive OTLP from SDKs and Collectors into the lake."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    from apm_analytics.foundation import settings
    from apm_analytics.foundation.privacy import load_rules
    from apm_analytics.ingest import receiver
    from apm_analytics.serve import load_access

    tls = None
    if tls_cert or tls_key or tls_client_ca:
        if not (tls_cert and tls_key):
            raise BadParameter("TLS needs both --tls-cert and --tls-key")
        tls = receiver.Tls(tls_cert, tls_key, tls_client_ca)
    guarded = tokens is not None or tls_client_ca is not None
    config = receiver.Config(
        lake,
        host=host or ("0.0.0.0" if guarded else "127.0.0.1"),
        grpc_port=grpc_port,
        http_port=http_port,
        admin_host=admin_host,
        admin_port=admin_port,
        access=load_access(tokens),
        tls=tls,
        cors_origins=cors_origin,
        rules=load_rules(privacy or settings.load().workspace / "specs" / "privacy.yaml"),
        max_request_bytes=int(max_request_mb * 1024 * 1024),
        budget_bytes=int(budget_mb * 1024 * 1024),
        timeout_s=timeout,
        retain=not no_retention,
    )
    if not no_retention:
        periods = settings.retention(settings.load().workspace)
        click.echo(
            f"records older than this are removed every hour: {periods.described()}; "
            "or --no-retention",
            err=True,
        )
    receiver.run(config, lambda line: click.echo(line, err=True))


@click.command()
@click.argument("name")
def token(name: str) -> None:
    """Create a token with which an application or tenant may send to `apm receive`."""
    from apm_analytics.serve import new_token

    made, entry = new_token(name)
    click.echo(f"token, shown only now: {made}", err=True)
    click.echo("entry for the token file, below its line `tokens:`", err=True)
    click.echo(entry, nl=False)
