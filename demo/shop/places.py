"""Ports and URLs of the shop's parts, from the environment.

In:  DEMO_* variables, set by `demo.run`.
Out: URLs of the services, of the database and of the cache.
"""

import os
from pathlib import Path

HOST = "127.0.0.1"
THIRD_PARTY = "127.0.0.2"  # another address, so that it is not one of our own hosts
SERVICES = ("gateway", "catalogue", "cart", "checkout", "payment", "graph")
FIRST_PORT = 8701


def port(service: str) -> int:
    """Return the port of a service."""
    return int(os.environ.get("DEMO_PORT", FIRST_PORT)) + SERVICES.index(service)


def host(service: str) -> str:
    """Return the address that a service listens on."""
    return THIRD_PARTY if service == "graph" else HOST


def url(service: str) -> str:
    """Return the base URL of a service."""
    return f"http://{host(service)}:{port(service)}"


def database() -> str:
    """Return SQLAlchemy's URL of the database; SQLite if no server is set."""
    return os.environ.get("DEMO_DATABASE", "sqlite:///demo.sqlite")


def redis() -> str:
    """Return the URL of Redis; empty without one."""
    return os.environ.get("DEMO_REDIS", "")


def faults() -> str:
    """Return the path of the file with the active faults."""
    return os.environ.get("DEMO_FAULTS", "")


def say_ready() -> None:
    """Report to `demo.run` that this process is ready."""
    if "DEMO_READY" in os.environ:
        Path(os.environ["DEMO_READY"], str(os.getpid())).touch()
