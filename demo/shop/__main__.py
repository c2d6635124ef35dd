"""Run one service of the shop: `python -m demo.shop gateway`, or the worker, or fill the store."""

import importlib
import socket
import sys

import uvicorn

from demo.shop import places, store, worker


def main(name: str) -> None:
    """Run one part of the shop."""
    if name == "fill":
        store.fill()
    elif name == "worker":
        worker.main()
    else:
        app = importlib.import_module(f"demo.shop.{name}").app
        # Longer than callers leave a connection idle, so that none is closed under a request.
        config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_keep_alive=75)
        uvicorn.Server(config).run(sockets=[_listening(name)])


def _listening(name: str) -> socket.socket:
    """Listen beside a release that still runs, so that a deployment refuses nobody.

    Without its protocol named, asyncio leaves Nagle's algorithm on: an answer's body would wait
    40 ms for the client's acknowledgement of its head.
    """
    found = socket.socket(proto=socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((places.host(name), places.port(name)))
    found.listen(128)  # a service says that it is ready just before its server takes over
    return found


if __name__ == "__main__":
    main(sys.argv[1])
