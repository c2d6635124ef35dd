"""Where the shop's parts are: ports and URLs, from the environment.

In:  DEMO_* variables, set by `demo.run`.
Out: URLs of the services, of the database and of the cache.
"""

import os
from pathlib import Path

HOST = "127.0.0.1"
THIRD_PARTY = "127.0.0.2"  # an address of its own, so that it is not one of our hosts
SERVICES = ("gateway", "catalogue", "cart", "checkout", "payment", "graph")
FIRST_PORT = 8701


def port(service: str) -> int:
    """Give the port of a service."""
    return int(os.environ.get("DEMO_PORT", FIRST_PORT)) + SERVICES.index(service)


def host(service: str) -> str:
    """Give the address that a service listens on."""
    return THIRD_PARTY if service == "graph" else HOST


def url(service: str) -> str:
    """Give the base URL of a service."""
    return f"http://{host(service)}:{port(service)}"


def database() -> str:
    """Give SQLAlchemy's URL of the database; SQLite where no server is named."""
    return os.environ.get("DEMO_DATABASE", "sqlite:///demo.sqlite")


def redis() -> str:
    """Give the URL of Redis; empty where there is none."""
    return os.environ.get("DEMO_REDIS", "")


def faults() -> str:
    """Give the file that says which faults are on."""
    return os.environ.get("DEMO_FAULTS", "")


def say_ready() -> None:
    """Let whoever started this process know that it can work."""
    if "DEMO_READY" in os.environ:
        Path(os.environ["DEMO_READY"], str(os.getpid())).touch()
