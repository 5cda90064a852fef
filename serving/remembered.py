"""The images that asked last, for those who say whether the answers are right."""

import hashlib
import threading
from collections import OrderedDict


class Remembered:
    """The images that asked last, by their SHA-256, as many as fit into `most` bytes."""

    def __init__(self, most: int):
        self._most = most
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def keep(self, content: bytes) -> str:
        """Remember an image; its name."""
        name = hashlib.sha256(content).hexdigest()
        with self._lock:
            if name not in self._contents:
                self._contents[name] = content
                self._bytes += len(content)
            self._contents.move_to_end(name)
            while self._bytes > self._most and len(self._contents) > 1:
                _, oldest = self._contents.popitem(last=False)
                self._bytes -= len(oldest)
        return name

    def find(self, name: str) -> bytes | None:
        """The image of a name, None where it is forgotten."""
        with self._lock:
            return self._contents.get(name)
