"""Who may ask, and how often: looked at before anything of a request is read."""

import hmac
import ipaddress
import json
import socket
import time
from collections import OrderedDict

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.settings import LOCAL_NAMES, ServeSettings
from core.text import counted

OPEN_PATHS = ("/api/health", "/openapi.json", "/")
SAFE_METHODS = ("GET", "HEAD")
# What a form of another site could send without asking first.
FORM_TYPES = ("", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded")
OWN_HEADER = "x-requested-with"
PICTURES_A_REQUEST = 20
MOST_CLIENTS = 10_000  # that are remembered
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
# Of all but the page, which brings its own.
NOTHING_ALLOWED = "default-src 'none'; frame-ancestors 'none'; sandbox"


class Guard:
    """An ASGI app that lets some requests through to another one; what it refuses is JSON, too.

    token: the word that requests have to bear, None for none.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, token: str | None):
        self._app = app
        self._settings = settings
        self._token = token
        self._rates = Rates(settings.rate_limit)
        self._names = {*LOCAL_NAMES, settings.host.lower(), *(name.lower() for name in settings.hostnames)}
        if not settings.is_local:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("content-security-policy", NOTHING_ALLOWED)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        status, sentence, more = refusal
        body = json.dumps({"error": sentence}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **more}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send_with_headers({"type": "http.response.start", "status": status, "headers": raw})
        await send_with_headers({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        """(status, sentence, headers) for a request that is not let through."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 400, "this server is not called so; --hostnames tells it further names", {}
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "a page of another site may not ask", {}
        path = scope["path"]
        if not path.startswith("/api/") or path in OPEN_PATHS:
            return None
        # Who bears no token is counted in full, so that it cannot be guessed.
        may_ask = self._token is None or self._bears_token(headers)
        cost = 1.0
        if may_ask and scope["method"] in SAFE_METHODS:
            cost = 1 / PICTURES_A_REQUEST
        client, _ = scope.get("client") or ("", 0)
        wait = self._rates.wait(client, cost)
        if wait:
            after = {"retry-after": str(wait)}
            return 429, f"too many requests; try again in {counted(wait, 'second')} (--rate_limit)", after
        if not may_ask:
            asked = {"www-authenticate": 'Bearer realm="search"'}
            return 401, "a token is needed: send it as Authorization: Bearer TOKEN", asked
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        could_be_a_form = scope["method"] == "POST" and kind in FORM_TYPES
        if could_be_a_form and OWN_HEADER not in headers:
            sentence = "send application/json or an image's type as Content-Type, or the header X-Requested-With"
            return 403, sentence, {}
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server: a name that it knows; or, where others may ask, any address.

        A page whose name was made to point here (DNS rebinding) comes with that name.
        """
        name, _ = split_port(host.lower())
        if name in self._names or name.strip("[]") in self._names:
            return True
        if self._settings.is_local:
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _bears_token(self, headers: Headers) -> bool:
        scheme, _, word = headers.get("authorization", "").partition(" ")
        given = word.strip().encode("latin-1", "replace")
        # Compared in a time that does not tell how much of it is right.
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._token.encode())


def split_port(host: str) -> tuple[str, str]:
    """(name, port) of a Host header; an address of IPv6 stands in brackets."""
    if host.startswith("["):
        name, bracket, port = host.partition("]")
        return name + bracket, port.removeprefix(":")
    name, _, port = host.partition(":")
    return name, port


class Rates:
    """How many requests each client has left, which grow again with time (a leaky bucket). limit: a minute; 0: any."""

    def __init__(self, limit: int):
        self._limit = limit
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, cost: float) -> int:
        """Seconds until a client may ask for so much again, 0 for at once; then it is counted."""
        if not self._limit:
            return 0
        now = time.monotonic()
        left, when = self._clients.pop(client, (float(self._limit), now))
        left = min(float(self._limit), left + (now - when) * self._limit / 60)
        is_enough = left >= cost
        if is_enough:
            left -= cost
        self._clients[client] = (left, now)
        # Whoever asked longest ago has all of it again soon.
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        if is_enough:
            return 0
        return max(1, round((cost - left) * 60 / self._limit + 0.5))
