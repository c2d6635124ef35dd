"""An HTTP server that answers 200 to everything and keeps nothing.

In:  a port.
Out: nothing.
"""

import sys

import uvicorn


async def sink(scope, receive, send):  # type: ignore[no-untyped-def]
    """Read a request to its end and answer 200."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    uvicorn.run(
        sink,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        http="httptools",
        log_level="error",
        access_log=False,
    )
