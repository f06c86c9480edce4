"""Takes Ray's list of scrape targets and Ray's Grafana dashboards from the head: ``receiver.py FOLDER PORT``.

``GET /files`` gives the SHA-256 of each file by its name; ``PUT /files/<name>`` replaces one. Only names and contents
that Ray itself writes are taken: whoever can reach the port can at most have another address scraped. Python 3.8 or
newer and nothing else, since it runs on a node that need not have RayDog.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TARGETS = "prom_metrics_service_discovery.json"
"""Ray's name for it (``ray/_private/ray_constants.py``)."""
MAX_BYTES = 8 * 1024 * 1024  # Ray's largest dashboard has some 300 kB
MAX_DASHBOARDS = 64
MAX_TARGETS = 100_000

_DASHBOARD = re.compile(r"[a-z0-9_]{1,80}_grafana_dashboard\.json")
_HOST_AND_PORT = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]{0,99}")  # Prometheus acts on labels that begin with two underscores


def check(name: str, content: bytes) -> str | None:
    """Say what is wrong with a file, or None."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return "is not JSON"
    return check_targets(value) if name == TARGETS else check_dashboard(value)


def check_targets(value: Any) -> str | None:
    """Say what is wrong with a list of targets (Prometheus' ``file_sd`` format), or None."""
    if not isinstance(value, list):
        return "is no list of target groups"
    total = 0
    for group in value:
        if not isinstance(group, dict) or not set(group) <= {"targets", "labels"}:
            return "has a target group that is not made of targets and labels"
        targets, labels = group.get("targets"), group.get("labels", {})
        if not isinstance(targets, list) or not all(is_address(target) for target in targets):
            return "has a target that is no host:port"
        if not isinstance(labels, dict) or not all(
            isinstance(text, str) and _LABEL.fullmatch(label) for label, text in labels.items()
        ):
            return "has a label that is not allowed"
        total += len(targets)
    return f"has more than {MAX_TARGETS} targets" if total > MAX_TARGETS else None


def is_address(target: Any) -> bool:
    """Whether it is ``host:port`` and no more: no path, no scheme."""
    found = _HOST_AND_PORT.fullmatch(target) if isinstance(target, str) else None
    return found is not None and 0 < int(found[2]) < 65536


def check_dashboard(value: Any) -> str | None:
    """Say what is wrong with a dashboard, or None. Grafana checks the rest."""
    if not isinstance(value, dict) or not isinstance(value.get("panels"), list):
        return "is no dashboard"
    return None if isinstance(value.get("title"), str) else "is a dashboard without a title"


class Files:
    """The files that were received, in ``targets/`` and ``dashboards/`` below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("targets", "dashboards"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path | None:
        """Where a file of this name is kept; None for a name that Ray does not use."""
        if name == TARGETS:
            return self.folder / "targets" / name
        return self.folder / "dashboards" / name if _DASHBOARD.fullmatch(name) else None

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file, by name."""
        found = [*self.folder.glob("targets/*.json"), *self.folder.glob("dashboards/*.json")]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def has_room(self, path: Path) -> bool:
        return path.exists() or len(list(path.parent.glob("*.json"))) < MAX_DASHBOARDS

    def write(self, path: Path, content: bytes) -> None:
        """Replace a file in one step: Prometheus and Grafana read at any time."""
        new = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        new.write_bytes(content)
        new.replace(path)

    def note_contact(self) -> None:
        """Leave a sign that the head is there."""
        (self.folder / "contact").touch()


class Receiver(BaseHTTPRequestHandler):
    """One request. Whatever is wrong with it is answered; nothing that is sent ends the server."""

    timeout = 20  # seconds for which a connection may say nothing
    server_version = "RayDog"
    sys_version = ""

    def __init__(self, files: Files, *args: Any) -> None:
        self.files = files
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path != "/files":
            self.answer(404, {"error": "there is only /files"})
            return
        self.files.note_contact()
        self.answer(200, self.files.digests())

    def do_PUT(self) -> None:
        self.close_connection = True  # what was refused has perhaps not been read
        name = self.path[len("/files/") :] if self.path.startswith("/files/") else ""
        path = self.files.path(name)
        length = self.headers.get("Content-Length", "")
        if path is None:
            self.answer(404, {"error": "no file of Ray's has this name"})
        elif not re.fullmatch("[0-9]{1,12}", length):
            self.answer(411, {"error": "the length is missing"})
        elif int(length) > MAX_BYTES:
            self.answer(413, {"error": f"{name} is larger than {MAX_BYTES} bytes"})
        elif not self.files.has_room(path):
            self.answer(413, {"error": f"there are {MAX_DASHBOARDS} dashboards already"})
        else:
            self.take(path, int(length))

    def take(self, path: Path, length: int) -> None:
        content = self.rfile.read(length)
        if len(content) < length:
            return  # whoever sent it has hung up
        wrong = check(path.name, content)
        if wrong is not None:
            self.answer(400, {"error": f"{path.name} {wrong}"})
            return
        try:
            self.files.write(path, content)
        except OSError as error:
            self.log_message("%s cannot be written: %s", path.name, error)
            self.answer(507, {"error": f"{path.name} cannot be written: {error.strerror}"})
            return
        self.answer(200, {"written": path.name})

    def answer(self, status: int, body: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if str(code) not in {"200", "HTTPStatus.OK"}:  # a look every two seconds is no news
            super().log_request(code, size)


def serve(folder: Path, port: int, address: str = "") -> ThreadingHTTPServer:
    """A server that listens; ``serve_forever`` is the caller's. Port 0 takes a free one."""
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.allow_reuse_address = True
    return ThreadingHTTPServer((address, port), partial(Receiver, Files(folder)))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2])).serve_forever()
