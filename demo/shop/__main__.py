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
        # Longer than callers leave a connection idle, so that none is closed during a request.
        config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_keep_alive=75)
        uvicorn.Server(config).run(sockets=[_listening(name)])


def _listening(name: str) -> socket.socket:
    """Listen on a port that the previous release still uses, so that a deployment drops no request.

    asyncio disables Nagle's algorithm only if the socket names its protocol; otherwise the body of
    an answer waits 40 ms for the acknowledgement of its head.
    """
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((places.host(name), places.port(name)))
    listener.listen(128)  # a service reports that it is ready just before its server takes over
    return listener


if __name__ == "__main__":
    main(sys.argv[1])
