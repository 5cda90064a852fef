"""The flags of `search.py serve`, and what follows from them."""

import ipaddress
import secrets
from dataclasses import dataclass

from core.errors import InputError
from core.types import ByteSize, Count, Port, Words

NO_TOKEN = "none"
TOKEN_BYTES = 18  # of a token that is made up here: 144 bits
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class ServeSettings:
    """Where a server listens, and what it lets in.

    Options:
        host: address to listen on; 0.0.0.0 or :: are all of this machine
        port: port to listen on; 0: any that is free
        token: word that requests have to bear; none: no word (default: none where only this machine can ask, else
            one that is made up and printed)
        hostnames: comma-separated names by which the server is reached, as behind a proxy
        max_upload: bytes of a request at the most, as 32MB
        max_pixels: pixels of an image at the most
        rate_limit: searches and changes a minute that one client may ask for, and twenty times as many pictures; 0:
            any number
        read_only: nothing is added, deleted or noted down
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    token: str | None = None
    hostnames: Words = ()
    max_upload: ByteSize = 32_000_000
    max_pixels: Count = 50_000_000
    rate_limit: Count = 600
    read_only: bool = False

    @property
    def is_local(self) -> bool:
        """Whether only this machine can ask."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    def chosen_token(self) -> str | None:
        """The token that requests have to bear, None for none; one is made up where others could ask.

        Raises InputError for a token that no header could carry.
        """
        if self.token == NO_TOKEN:
            return None
        if self.token is None:
            if self.is_local:
                return None
            return secrets.token_urlsafe(TOKEN_BYTES)
        is_plain = self.token.isascii() and self.token.isprintable() and " " not in self.token
        if not self.token or not is_plain:
            raise InputError(f"--token={self.token!r} has to be letters, digits and signs of ASCII without a space")
        return self.token
