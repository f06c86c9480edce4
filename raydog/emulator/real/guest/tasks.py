"""The agent's tasks: bash in a folder of its own, as the agent's user (platform contract, section 4)."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOME = "/opt/yellowdog/agent"
DATA = "/var/opt/yellowdog/agent/data"
_OPEN_FILES = 65536
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Account:
    """The user that tasks run as."""

    name: str
    number: int
    """User and group id."""


@dataclass
class Task:
    """A task whose process runs. ``session`` is the process's id, and its session's."""

    task_id: str
    session: int
    folder: Path
    over: bool = False
    """Known to have left no process behind; its number may belong to another session from then on."""


def start(
    account: Account, task_id: str, arguments: list[str], data: str | None, environment: Mapping[str, str]
) -> tuple[Task, int]:
    """Start ``/bin/bash`` with ``arguments``; returns the task and its output file, open for reading.

    OSError if the folder or the process cannot be made.
    """
    folder = Path(DATA, "workers", task_id.replace(":", "_"))
    _make_folder(folder, account)
    if data is not None:
        _write(folder / "taskdata.txt", data.encode(), account)
    output_path = folder / "taskoutput.txt"
    _write(output_path, b"", account)
    complete = {
        "HOME": HOME, "USER": account.name, "LOGNAME": account.name, "SHELL": "/bin/bash", "PATH": _PATH,
        "LANG": "C.UTF-8", "YD_AGENT_HOME": HOME, "YD_AGENT_DATA": DATA, "YD_TASK_ID": task_id, **environment,
    }  # fmt: skip
    output = os.open(output_path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        session = spawn(["/bin/bash", *arguments], complete, output, folder=str(folder), account=account)
    finally:
        os.close(output)
    return Task(task_id, session, folder), os.open(output_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def spawn(
    command: list[str],
    environment: Mapping[str, str],
    output: int,
    *,
    folder: str = "/",
    account: Account | None = None,
) -> int:
    """Start a program in a session of its own, with its output in the open file ``output``; its process id.

    As root, or as ``account``. Raises the OSError with which the program could not be started.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            _become(command, environment, output, folder, account)
        except OSError as error:
            os.write(writer, str(error.errno or 0).encode())
        finally:
            os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        failure = pipe.read()  # ends when the program has started, which closes the other end
    if failure:
        os.waitpid(child, 0)
        raise OSError(int(failure), f"cannot start {command[0]} in {folder}: {os.strerror(int(failure))}")
    return child


def _become(
    command: list[str], environment: Mapping[str, str], output: int, folder: str, account: Account | None
) -> None:
    os.setsid()
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.umask(0o022)
    _allow_many_files()
    if account is not None:
        os.setgroups([account.number])
        os.setgid(account.number)
        os.setuid(account.number)
    os.chdir(folder)
    os.execve(command[0], command, dict(environment))  # noqa: S606 - argument list, no shell


def _allow_many_files() -> None:
    """A hard and soft limit of 65,536 open files, as Ray wants it, or as near as this host lets us."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    except (ValueError, PermissionError):  # above the host's hard limit, without the right to raise it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def kill_session(session: int) -> bool:
    """SIGKILL to every process of a session; False if there was none."""
    members = session_members(session)
    for process in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return bool(members)


def session_members(session: int) -> list[int]:
    """The processes of a session that still run."""
    names = [entry.name for entry in os.scandir("/proc") if entry.name.isdigit()]
    return [int(name) for name in names if _session_of(name) == session]


def _session_of(process: str) -> int | None:
    try:
        text = Path("/proc", process, "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has ended meanwhile
    state, _parent, _group, session = text.rpartition(")")[2].split()[:4]
    return None if state in "ZX" else int(session)


def exit_code(status: int) -> int:
    """A shell's exit code for what waitpid returned: 128 + n for a process ended by signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def remove_folder(folder: Path) -> None:
    """Delete a task's folder, in a process of its own so that a large one does not hold up the agent."""
    away = folder.with_name(f".ended-{os.getpid()}-{folder.name}"[:200])
    try:
        folder.rename(away)
    except FileNotFoundError:
        return  # the task has deleted it itself
    if os.fork() == 0:
        try:
            shutil.rmtree(away, ignore_errors=True)
        finally:
            os._exit(0)


def _make_folder(folder: Path, account: Account) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, account.number, account.number)


def _write(path: Path, content: bytes, account: Account) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchown(file.fileno(), account.number, account.number)
