"""A port, and uvicorn on it until a signal stops it."""

import contextlib
import errno
import signal
import socket
from collections.abc import Iterator
from types import FrameType

from core.console import log
from core.errors import InputError
from core.packages import needed
from serving.settings import LOCAL_NAMES, ServeSettings

GRACE = 30  # seconds in which requests that have begun may come to their end
MOST_REQUESTS = 256  # at a time
PATIENCE = 30  # seconds that an idle connection is kept


def open_port(settings: ServeSettings) -> socket.socket:
    """A socket that listens where the flags say. Raises InputError, in one sentence, where that cannot be."""
    host = settings.host.strip("[]")
    place = f"--host={settings.host} --port={settings.port}"
    try:
        address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # By the protocol's number asyncio knows that an answer's last bytes are not to wait for others (TCP_NODELAY):
        # whoever asked would wait 40 milliseconds more.
        port = socket.socket(address[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise InputError(f"{place}: {error.strerror}") from None
    except UnicodeError:
        raise InputError(f"{place}: that is no name of a host") from None
    try:
        # A port that the last server has just left is free.
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(address[4])
        port.listen(128)
    except OSError as error:
        port.close()
        hint = ""
        if error.errno == errno.EADDRINUSE:
            hint = "; take another one by --port"
        raise InputError(f"{place}: {error.strerror}{hint}") from None
    return port


def address_of(port: socket.socket, settings: ServeSettings) -> str:
    """Where a browser on this machine finds the server."""
    name = settings.host
    if name in ("0.0.0.0", "::", "[::]"):
        name = LOCAL_NAMES[0]
    elif ":" in name and not name.startswith("["):
        name = f"[{name}]"
    return f"http://{name}:{port.getsockname()[1]}/"


def greeting(port: socket.socket, settings: ServeSettings, token: str | None) -> list[str]:
    """What is said when the server listens."""
    address = address_of(port, settings)
    if token is not None and settings.token is None:
        # Behind a #, where no browser sends it on; the page takes it from there.
        return [
            f"serving at {address}#token={token}",
            f"--host={settings.host} lets others ask: their token is {token}",
        ]
    lines = [f"serving at {address}"]
    if token is None and not settings.is_local:
        lines.append(
            f"--host={settings.host} --token=none: whoever reaches this machine can search and change the index"
        )
    return lines


def run(app, port: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM comes; what was begun by then is finished. A second signal does not wait for it."""
    uvicorn = needed("uvicorn", "search.py serve", "serve")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        limit_concurrency=MOST_REQUESTS,
        timeout_keep_alive=PATIENCE,
        timeout_graceful_shutdown=GRACE,
    )
    server = uvicorn.Server(config)
    # uvicorn's own would raise the signal again when all is done, and an orderly end would look like a kill.
    server.capture_signals = lambda: _stopping(server)
    server.run(sockets=[port])
    if not server.started:
        raise InputError("the server did not start; what is above tells why")
    log("stopped; all that was acknowledged is on the disk")


@contextlib.contextmanager
def _stopping(server) -> Iterator[None]:
    """SIGINT and SIGTERM ask a server to come to its end."""

    def stop(number: int, _: FrameType | None) -> None:
        if server.should_exit:
            server.force_exit = True
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
