"""The agent's virtual environment: its own and writable, with this project's packages inside.

Two ``.pth`` files bring them in: ``packages.pth`` everything that the project's environment has but RayDog,
``raydog.pth`` RayDog itself with its metadata. Without the second, an instance is like one whose image was
built without RayDog; what is installed into the environment wins over both.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from .layer import Layer

ENVIRONMENT = "/opt/yellowdog/agent/venv"
_FARM = "/opt/yellowdog/lib"
_OWN = re.compile(r"(raydog|yellowdog_ray)([-.].*)?|__editable__.*raydog.*|__pycache__|.*\.(pth|virtualenv)")

_ACTIVATE = """\
# Source this file: . {environment}/bin/activate
deactivate () {{
    PATH="${{_RAYDOG_OLD_PATH:-$PATH}}"
    export PATH
    unset VIRTUAL_ENV VIRTUAL_ENV_PROMPT _RAYDOG_OLD_PATH
    unset -f deactivate
    hash -r 2> /dev/null
}}
_RAYDOG_OLD_PATH="$PATH"
VIRTUAL_ENV="{environment}"
VIRTUAL_ENV_PROMPT="(venv) "
PATH="$VIRTUAL_ENV/bin:$PATH"
export PATH VIRTUAL_ENV VIRTUAL_ENV_PROMPT
hash -r 2> /dev/null
"""


def build(layer: Layer, python: dict[str, Any], owner: tuple[int, int]) -> None:
    """Make the environment in the layer, owned by ``owner``.

    ``python`` says what the driver's own Python is: ``version`` ("3.11.7"), ``executable`` (of the base),
    ``site_packages`` (folders, in the order of ``sys.path``), ``raydog`` (name of a file or folder to its
    path), ``scripts`` (folder with ``ray``, ``pip`` and the like).
    """
    short = ".".join(python["version"].split(".")[:2])
    packages = f"{ENVIRONMENT}/lib/python{short}/site-packages"
    layer.folder(packages)
    layer.write(f"{packages}/packages.pth", f"{_FARM}/packages\n")
    layer.write(f"{packages}/raydog.pth", f"{_FARM}/raydog\n")
    _link_all(layer, f"{_FARM}/packages", _packages(python["site_packages"]))
    _link_all(layer, f"{_FARM}/raydog", python["raydog"])

    executable = python["executable"]
    home = os.path.dirname(executable)  # noqa: PTH120
    layer.write(
        f"{ENVIRONMENT}/pyvenv.cfg",
        f"home = {home}\ninclude-system-site-packages = false\nversion = {python['version']}\n",
    )
    layer.write(f"{ENVIRONMENT}/bin/activate", _ACTIVATE.format(environment=ENVIRONMENT))
    programs = layer.at(f"{ENVIRONMENT}/bin")
    (programs / f"python{short}").symlink_to(executable)
    for name in ("python", "python3"):
        (programs / name).symlink_to(f"python{short}")
    layer.at(f"{ENVIRONMENT}/lib64").symlink_to("lib")
    _copy_scripts(layer, Path(python["scripts"]))
    for folder, folders, files in os.walk(layer.at(ENVIRONMENT)):
        for path in (folder, *(os.path.join(folder, name) for name in (*folders, *files))):  # noqa: PTH118
            os.lchown(path, *owner)


def _packages(site_packages: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in site_packages:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if not _OWN.fullmatch(entry.name):
                found.setdefault(entry.name, entry.path)
    return found


def _link_all(layer: Layer, folder: str, targets: dict[str, str]) -> None:
    here = layer.folder(folder)
    for name, target in targets.items():
        (here / name).symlink_to(target)


def _copy_scripts(layer: Layer, folder: Path) -> None:
    shebang = re.compile(rb"#!.*python[0-9.]*\n(?P<rest>.*)", re.DOTALL)
    for entry in sorted(folder.iterdir()):
        if not stat.S_ISREG(entry.lstat().st_mode) or not os.access(entry, os.X_OK):
            continue
        with entry.open("rb") as file:
            if file.read(2) != b"#!":
                continue
        matched = shebang.fullmatch(entry.read_bytes())
        if matched:
            text = f"#!{ENVIRONMENT}/bin/python\n" + matched["rest"].decode()
            layer.write(f"{ENVIRONMENT}/bin/{entry.name}", text, 0o755)
