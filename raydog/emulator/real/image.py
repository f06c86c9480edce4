"""What instances need and the host lacks: Debian packages unpacked into a folder, never installed.

`ensure_packages` resolves the packages with apt against what the host has, downloads what is missing with
lists and archives of its own, and unpacks them with ``dpkg-deb`` without running any maintainer script.
The host stays as it was found; root is not needed. The folder becomes an overlay layer of each instance, and
`find_program` runs the same programs on the host, for tests::

    subprocess.Popen(
        [find_program("redis-server"), "--port", "0"],
        env={**os.environ, **program_environment()},
    )

Files are kept below ``$XDG_CACHE_HOME/raydog/image/<key>`` (``~/.cache`` by default), the key covering the
distribution's release, the architecture, the packages wanted and those of them that the host has already.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raydog.errors import ProvisioningError

PACKAGES = (
    "iproute2", "nftables", "openssh-client", "openssh-server", "procps", "redis-server", "redis-tools", "rsync",
)  # fmt: skip
"""Debian packages whose programs every instance has."""

_LAYOUT = 1
"""Part of the key: raise it when the folder's contents change for the same packages."""

_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PROGRAM_FOLDERS = ("usr/sbin", "usr/bin", "usr/lib/openssh")
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders of ``/`` that are links into ``/usr`` on a merged system; a layer must not cover the links."""

_APT_CONFIGURATION = """\
Dir::State::Lists "{work}/lists";
Dir::Cache "{work}/cache";
Dir::Cache::Archives "{work}/archives";
Dir::Log "{work}/log";
Debug::NoLocking "true";
APT::Sandbox::User "{user}";
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
APT::Get::Upgrade "false";
APT::Get::Download-Only "true";
APT::Keep-Downloaded-Packages "true";
Acquire::Retries "2";
Acquire::Languages "none";
Binary::apt-get::APT::Keep-Downloaded-Packages "true";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
"""


def cache_folder() -> Path:
    """The folder that holds all images: ``$XDG_CACHE_HOME/raydog/image`` or ``~/.cache/raydog/image``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "raydog" / "image"  # noqa: PTH117


def ensure_packages(
    cache_dir: Path | None = None,
    progress: Callable[[str], None] | None = None,
    packages: Sequence[str] = PACKAGES,
) -> Path:
    """The folder with the unpacked packages that the host lacks; made on first use, then reused offline.

    Each set of ``packages`` has a folder of its own. ``progress`` gets a line before each step that takes a while.
    Raises `ProvisioningError` when apt, the network or a package is missing.
    """
    say = progress or (lambda _line: None)
    folder = cache_dir or cache_folder()
    present = _packages_of_host(packages)
    target = folder / _key(packages, present)
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{target.name}.lock"):
        if target.is_dir():
            return target
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=folder))
        try:
            work.chmod(0o755)
            tree = work / "tree"
            tree.mkdir(mode=0o755)
            if missing := [name for name in packages if name not in present]:
                for archive in _download(missing, work, say):
                    _run(["dpkg-deb", "--extract", str(archive), str(tree)], missing)
                tidy(tree)
            tree.rename(target)
        finally:
            shutil.rmtree(work)
    return target


def find_program(name: str, cache_dir: Path | None = None) -> Path:
    """Path of a program (``redis-server``, ``sshd``, ``sftp-server``, ``ip``): the host's, else the image's.

    Makes the image if it has to. Start the program with `program_environment` added to its environment.
    Raises `ProvisioningError` if neither has it.
    """
    searched = os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_PATH, "/usr/lib/openssh"))
    if found := shutil.which(name, path=searched):
        return Path(found)
    tree = ensure_packages(cache_dir)
    for folder in _PROGRAM_FOLDERS:
        path = tree / folder / name
        if path.exists():
            return path
    raise ProvisioningError(f"program {name!r} is neither on this machine nor in the image {tree}; install it", "Image")


def program_environment(cache_dir: Path | None = None) -> dict[str, str]:
    """Environment variables (``LD_LIBRARY_PATH``) with which the image's programs find their libraries."""
    return {"LD_LIBRARY_PATH": os.pathsep.join(map(str, library_folders(ensure_packages(cache_dir))))}


def library_folders(tree: Path) -> list[Path]:
    """The folders of shared libraries in an unpacked tree."""
    return sorted({path.parent for path in (tree / "usr/lib").glob("*-linux-*/*.so*")})


def tidy(tree: Path) -> None:
    """Make an unpacked tree fit as a layer over ``/``.

    Folders that are links on the host are merged into ``/usr``, and set-user-id bits are cleared: in the
    cache of an ordinary user they would grant that user's rights.
    """
    for name in _MERGED:
        if (tree / name).is_dir() and Path("/", name).is_symlink():
            shutil.copytree(tree / name, tree / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(tree / name)
    for path in tree.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID))


def _key(packages: Sequence[str], present: frozenset[str]) -> str:
    release = platform.freedesktop_os_release()
    system = f"{release['ID']}-{release.get('VERSION_CODENAME') or release.get('VERSION_ID', 'unknown')}"
    machine = platform.machine()
    parts = (str(_LAYOUT), system, machine, *packages, "present", *sorted(present))
    return f"{system}-{machine}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def _packages_of_host(packages: Sequence[str]) -> frozenset[str]:
    if shutil.which("dpkg-query") is None:
        raise _missing_tools("dpkg-query")
    # The exit status is 1 when one of them is unknown, which is an answer here.
    answer = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (line.split() for line in answer.stdout.splitlines())
    return frozenset(words[1] for words in lines if len(words) == 2 and words[0] == "installed")


def _download(missing: list[str], work: Path, say: Callable[[str], None]) -> list[Path]:
    for folder in ("lists/partial", "archives/partial", "cache", "log"):
        (work / folder).mkdir(parents=True)
    configuration = work / "apt.conf"
    user = "root" if os.geteuid() == 0 else ""
    configuration.write_text(_APT_CONFIGURATION.format(work=work, user=user))
    apt = ["apt-get", "-q", "-q", "-c", str(configuration)]
    say("reading the package lists of the distribution (apt)")
    _run([*apt, "update"], missing)
    say(f"downloading {', '.join(missing)} for the instances (not installed on this machine)")
    _run([*apt, "install", *missing], missing)
    archives = sorted((work / "archives").glob("*.deb"))
    if not archives:
        raise ProvisioningError(_remedy(f"apt downloaded nothing for {', '.join(missing)}", missing), "Image")
    return archives


def _run(command: list[str], missing: list[str]) -> None:
    if shutil.which(command[0]) is None:
        raise _missing_tools(command[0])
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ProvisioningError(_remedy(f"{command[0]} did not end in 300 s", missing), "Image") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-1500:]
        raise ProvisioningError(_remedy(f"{command[0]} failed ({done.returncode}): {said}", missing), "Image")


def _remedy(cause: str, missing: list[str]) -> str:
    return (
        f"the packages of emulated instances could not be fetched: {cause}\n"
        f"Check the network and apt's sources, or install them: apt-get install {' '.join(missing)}"
    )


def _missing_tools(program: str) -> ProvisioningError:
    return ProvisioningError(
        f"real instances need Debian or Ubuntu: {program} is not here. Use `--instances simulated`, "
        f"or run in a Debian container with the packages {' '.join(PACKAGES)}",
        "Image",
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
