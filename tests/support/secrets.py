"""Where secrets must not be: ways to look into processes, into nodes and into every answer of the platform."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from raydog.emulator.rest import fleet, operator, other, templates, work
from raydog.ssh import SshSession

_LOOKS_APART_SECONDS = 0.1
_ROUTES = (*fleet.ROUTES, *operator.ROUTES, *other.ROUTES, *templates.ROUTES, *work.ROUTES)


class Secrets:
    """What is looked for, by what it is: as it stands, and as base64 has it, at whichever offset."""

    def __init__(self, **named: str) -> None:
        assert all(len(secret) >= 16 for secret in named.values()), "short ones are found by chance"
        self.plain = dict(named)
        self._needles = {
            needle: name for name, secret in named.items() for needle in (secret.encode(), *_in_base64(secret))
        }

    def found_in(self, text: bytes | str) -> set[str]:
        """Which of them a text holds."""
        data = text.encode(errors="replace") if isinstance(text, str) else text
        return {name for needle, name in self._needles.items() if needle in data}

    def lines(self) -> str:
        """All that is looked for, a line each, for ``grep -F -f``."""
        return "".join(f"{needle.decode()}\n" for needle in self._needles)


def _in_base64(secret: str) -> list[bytes]:
    """The middle of what base64 makes of a text that begins at each of the three offsets."""
    return [base64.b64encode(b"\0" * offset + secret.encode())[4:-4] for offset in range(3)]


@dataclass
class ProcessWatch:
    """Looks again and again at the command lines and environments of all processes of this machine, nodes' included."""

    secrets: Secrets
    seen: set[tuple[str, str, str]] = field(default_factory=set)
    """What was found: the secret, where (``cmdline`` or ``environ``), and the process's command line."""
    looks: int = 0
    programs: set[str] = field(default_factory=set)
    """Names of the processes that were looked at."""

    def __enter__(self) -> ProcessWatch:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOKS_APART_SECONDS):
            self.looks += 1
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit():
                    self._look(folder)

    def _look(self, folder: Path) -> None:
        for name in ("cmdline", "environ"):
            try:
                data = (folder / name).read_bytes()
                program = (folder / "comm").read_text().strip()
            except OSError:
                return  # it has ended, or is not ours to look into
            self.programs.add(program)
            for secret in self.secrets.found_in(data):
                self.seen.add((secret, name, program))


def files_with(session: SshSession, secrets: Secrets) -> dict[str, str]:
    """The files of a node that hold a secret, with their modes. What is looked for travels on standard input."""
    command = (
        "grep -rlaF -f - ~ /tmp /run /var /etc /dev/shm --exclude-dir=venv --exclude-dir=sys 2>/dev/null "
        "| sort -u | xargs -r stat -c '%a %n'"
    )
    found = session.run(command, 120, secrets.lines()).stdout
    return {line.split(" ", 1)[1]: line.split(" ", 1)[0] for line in found.splitlines()}


def portal_answers(url: str, headers: Mapping[str, str]) -> dict[str, bytes]:
    """Every answer that the platform gives to a question without effect: by path.

    Begins with the questions that name nothing, and goes on with all ids that the answers hold.
    """
    patterns = [
        route.pattern
        for route in _ROUTES
        if route.method == "GET" and route.handler is not None and not route.pattern.endswith("/updates")
    ]
    answers: dict[str, bytes] = {}
    with requests.Session() as http:
        http.trust_env = False
        http.headers.update(headers)

        def ask(path: str) -> Any:
            answer = http.get(url + path, timeout=30)
            if answer.status_code == 200:
                answers[path] = answer.content
                return answer.json() if "json" in answer.headers.get("Content-Type", "") else None
            return None

        ids: set[str] = set()
        asked: set[str] = set()
        for pattern in patterns:
            if "{" not in pattern:
                ids |= _ids(ask(pattern))
        while asked != ids:
            for one in ids - asked:
                asked.add(one)
                for pattern in patterns:
                    if pattern.count("{") == 1 and "{id}" in pattern:
                        ids |= _ids(ask(pattern.replace("{id}", one)))
    return answers


def _ids(answer: Any) -> set[str]:
    if isinstance(answer, dict):
        return {one for value in answer.values() for one in _ids(value)}
    if isinstance(answer, list):
        return {one for value in answer for one in _ids(value)}
    return {answer} if isinstance(answer, str) and answer.startswith("ydid:") and len(answer) < 120 else set()
