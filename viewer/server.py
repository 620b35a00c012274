"""A server for one page on this machine: GET only, on the loopback address only, of what one function answers."""

import errno
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from utils import UserError, complaint

ADDRESS = "127.0.0.1"
HEADERS = {
    # Another page may neither embed what is shown here nor frame it.
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Another model may be shown at this address next.
    "Cache-Control": "no-store",
}

Answer = Callable[[str], tuple[str, bytes] | None]


class Server(ThreadingHTTPServer):
    """Serves `answer(path) -> (media type, body)`, or 404 where it gives None, until `shutdown`.

    Args:
        port: 0 for any that is free; `url` says which it is.
        policy: the pages' Content-Security-Policy.

    An error of `answer` that the user can mend (`utils.complaint`) is said on stderr, in a line, and answered with 500.

    Raises:
        UserError: the port is in use or not allowed.
    """

    daemon_threads = True

    def __init__(self, answer: Answer, port: int, policy: str):
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            why = "already in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise UserError(f"--port {port}: {why}: give another one, or 0 for any that is free") from None
        self.answer, self.headers = answer, HEADERS | {"Content-Security-Policy": policy}
        # A foreign name that resolves to this machine (DNS rebinding) is not answered.
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(self, request, client_address) -> None:
        """Let a browser hang up in the middle of a tile, as it does where one zooms on."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise the body waits 40 ms for the browser to acknowledge the head.
    disable_nagle_algorithm = True
    # Seconds that an idle connection is kept.
    timeout = 60

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"not the name of this server\n")
            return
        try:
            found = self.server.answer(self.path.partition("?")[0])
        except Exception as error:
            # Rows that stay in the file may turn out to be damaged, or gone, at any time.
            if not (line := complaint(error)):
                raise
            print(f"error: {line}", file=sys.stderr)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{line}\n".encode())
            return
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")
        else:
            self._send(HTTPStatus.OK, *found)

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**self.server.headers, "Content-Type": kind, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Say nothing of requests."""

    def version_string(self) -> str:
        return "view.py"
