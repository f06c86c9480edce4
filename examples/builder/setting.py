"""What the examples here have in common: where they run, and what goes to the nodes.

``--local`` is an emulator of YellowDog on this machine (Linux, root), started for the example and stopped with it.
Otherwise the platform is the one in the environment, or in a ``.env`` file: YD_API_KEY_ID, YD_API_KEY_SECRET and, for
another than YellowDog's own, YD_API_URL.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import ray

from raydog.builder import RayDogCluster
from raydog.emulator import daemon
from raydog.emulator.record import StateDir
from raydog.errors import ConfigError, RayDogError
from raydog.userdata import with_authorized_key
from raydog.yellowdog.credentials import Credentials, load_credentials

SCRIPTS = Path(__file__).parent / "scripts"
SSH_USER = "yd-agent"
CONNECT_ATTEMPTS = 3
LOCAL_PACKAGES = ("prometheus",)
"""What nodes of an emulator have besides; see ``raydog emulator start --package``."""


@dataclass
class Place:
    """Where a cluster is made. With ``keep``, the key to it and the emulator stay when the example ends."""

    credentials: Credentials
    namespace: str
    head_template: str
    worker_templates: list[str]
    images_id: str | None
    private_key: Path
    ray_start_options: str
    keep: bool = False

    def user_data(self, **settings: str) -> str:
        """What sets a node up with the Ray and the Python that run here, and lets our key log in."""
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        text = script("node-setup-userdata.sh", RAY_VERSION=ray.__version__, PYTHON_VERSION=python, **settings)
        public_key = self.private_key.with_name(f"{self.private_key.name}.pub").read_text()
        authorized = with_authorized_key(text, SSH_USER, public_key)
        if authorized is None:
            raise ConfigError("there is no user data to add the key to")
        return authorized

    def worker_script(self, pool: str) -> str:
        """The workers' task, with the pool's name as a label of its nodes."""
        options = self.ray_start_options
        return script("worker-node-task-script.sh", RAY_LABELS=f"worker-pool={pool}", RAY_START_OPTIONS=options)


def script(name: str, **settings: str) -> str:
    """A script of the folder, with ``export NAME=value`` lines after its first line."""
    first, rest = (SCRIPTS / name).read_text().split("\n", 1)
    exports = [f"export {setting}={shlex.quote(value)}" for setting, value in settings.items()]
    return "\n".join([first, *exports, rest])


def arguments_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every example. Those that say where may stand in the environment as well."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(option: str, variable: str, meaning: str) -> None:
        parser.add_argument(
            option, default=os.environ.get(variable), metavar="...", help=f"{meaning} (default: ${variable})"
        )

    parser.add_argument("--local", action="store_true", help="on an emulator of this machine: no account, no cost")
    add("--namespace", "YD_NAMESPACE", "the YellowDog namespace")
    add("--head-template", "RAYDOG_HEAD_TEMPLATE", "compute requirement template of the head, name or id")
    add("--worker-templates", "RAYDOG_WORKER_TEMPLATES", "templates of two kinds of workers, a comma between")
    add("--images-id", "RAYDOG_IMAGES_ID", "image of all nodes, where the templates have none")
    add("--private-key", "RAYDOG_PRIVATE_KEY", "SSH key with its public half beside it; without this, a new one")
    add("--ray-start-options", "RAYDOG_RAY_START_OPTIONS", "more options of `ray start` on workers")
    parser.add_argument("--cluster-name", default=f"example-{time.strftime('%H%M%S')}", metavar="...")
    parser.add_argument(
        "--client-port", type=int, default=10001, metavar="N", help="local port for Ray's client (10001)"
    )
    parser.add_argument("--dashboard-port", type=int, default=8265, metavar="N", help="and its dashboard (8265)")
    parser.add_argument("--state-file", type=Path, metavar="...", help="default: the cluster's name with .json")
    parser.add_argument("--hold", action="store_true", help="wait for Enter before the end, to look around")
    parser.add_argument("--keep", action="store_true", help="leave the cluster; the state file is the way to end it")
    return parser


def complete(arguments: argparse.Namespace) -> argparse.Namespace:
    """Defaults that depend on other arguments. Raises `ConfigError` if something is missing."""
    if arguments.state_file is None:
        arguments.state_file = Path(f"{arguments.cluster_name}.json")
    local = {
        "namespace": "local",
        "head_template": "local/head",
        "worker_templates": "local/worker,local/head",
        "ray_start_options": "--num-cpus=1",  # the nodes share this machine's CPUs
    }
    if arguments.local:
        for name, value in local.items():
            setattr(arguments, name, getattr(arguments, name) or value)
    required = ("namespace", "head_template", "worker_templates")
    missing = [f"--{name.replace('_', '-')}" for name in required if not getattr(arguments, name)]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: say so, or --local to run on this machine alone")
    if len(arguments.worker_templates.split(",")) != 2:
        raise ConfigError(f"--worker-templates has two names with a comma between, not {arguments.worker_templates!r}")
    return arguments


@contextmanager
def place(arguments: argparse.Namespace) -> Iterator[Place]:
    """The place that the arguments describe. What had to be made for it is gone afterwards, unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="raydog-example-"))
    emulator = StateDir(folder / "emulator")
    found: Place | None = None
    try:
        found = _find(arguments, folder, emulator)
        yield found
    finally:
        if found is not None and found.keep:
            say(f"kept, in {folder}: the SSH key" + (", the emulator" if arguments.local else ""))
        else:
            daemon.stop(emulator)
            shutil.rmtree(folder)


def _find(arguments: argparse.Namespace, folder: Path, emulator: StateDir) -> Place:
    if arguments.local:
        say("starting an emulator of YellowDog on this machine")
        running = daemon.start(emulator, daemon.Settings(packages=LOCAL_PACKAGES), lambda _step: None)
        credentials = Credentials(running.url, running.key_id, running.key_secret)
    else:
        credentials = load_credentials()
    if arguments.private_key:
        private_key = Path(arguments.private_key).expanduser()
    else:
        private_key = folder / "ssh-key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(private_key)], check=True)
    return Place(
        credentials=credentials,
        namespace=arguments.namespace,
        head_template=arguments.head_template,
        worker_templates=arguments.worker_templates.split(","),
        images_id=arguments.images_id,
        private_key=private_key,
        ray_start_options=arguments.ray_start_options or "",
    )


@dataclass
class Life:
    """A cluster until the end of the block, however that comes, and its state in a file for as long as it is there.

    The file is the way out if the program is killed. With ``--keep`` both stay when all has gone well.
    """

    cluster: RayDogCluster
    here: Place
    arguments: argparse.Namespace
    saved: bool = False

    def save(self) -> None:
        """To be called when the cluster has been built, and when its pools have changed."""
        self.cluster.save_state_to_json_file(self.arguments.state_file)
        self.saved = True

    def __enter__(self) -> Life:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.arguments.keep and error is None:
            self.here.keep = True
            return
        with self.cluster:  # its end shuts down what this program has made, and raises if something is left
            pass
        if self.saved:
            self.arguments.state_file.unlink()
            say(f"{self.arguments.cluster_name} has been shut down")


def connect(port: int) -> AbstractContextManager[Any]:
    """Ray's client through a tunnel, as a context manager.

    The head starts a server for each client and gives it 30 s, which may not do on a busy machine: then once more. Each
    failure is said.
    """
    for left in reversed(range(CONNECT_ATTEMPTS)):
        try:
            return cast(AbstractContextManager[Any], ray.init(f"ray://localhost:{port}"))
        except ConnectionError as error:
            if not left:
                raise
            say(f"the head could not serve a client ({str(error).strip().splitlines()[-1]}); once more")
    raise AssertionError("unreachable")


def hold() -> None:
    """Wait for Enter; not at all where nobody can press it."""
    print("Enter ends the example", flush=True)
    sys.stdin.readline()


_began = time.monotonic()


def say(text: str) -> None:
    """A line with the seconds since the start."""
    print(f"{time.monotonic() - _began:6.1f} s  {text}", flush=True)


def run(main: Callable[[], int]) -> int:
    """Run an example; its exit status. SIGTERM cleans up as Ctrl+C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return main()
    except RayDogError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was made has been ended", file=sys.stderr)
        return 130
