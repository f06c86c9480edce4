"""The daemon's own process: serves one state folder until SIGTERM or SIGINT, then ends all that it made."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from raydog.emulator.driver import InstanceDriver
from raydog.emulator.record import Record, StateDir, process_start
from raydog.emulator.server import Server
from raydog.emulator.templates import Templates
from raydog.errors import RayDogError, StateError

log = logging.getLogger("raydog.emulator")

Report = Callable[[dict[str, object]], None]


def make_driver(
    instances: str, state: StateDir, internet: bool, expose: Sequence[Path] = (), packages: Sequence[str] = ()
) -> InstanceDriver | None:
    """The driver of the kind of instances, None for simulated ones."""
    if instances == "simulated":
        return None
    from raydog.emulator.real import RealDriver  # noqa: PLC0415 - Linux only

    return RealDriver(state.path, internet=internet, expose=expose, packages=packages)


async def serve(
    state: StateDir,
    instances: str,
    port: int,
    templates: Templates,
    internet: bool,
    on_ready: Callable[[str], None],
    expose: Sequence[Path] = (),
    packages: Sequence[str] = (),
) -> None:
    """Run until a signal; calls ``on_ready`` with the URL once it answers."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pid = os.getpid()
    started = process_start(pid) or ""
    state.write(Record(pid, started, instances))
    server = Server(make_driver(instances, state, internet, expose, packages), templates, *state.key())
    starting = asyncio.create_task(server.start(port))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            state.write(Record(pid, started, instances, server.url))
            log.info("the emulator answers at %s", server.url)
            on_ready(server.url)
        await stopping
        log.info("stopping")
        _note_stopping(state, Record(pid, started, instances))
    finally:
        stopping.cancel()
        starting.cancel()
        await asyncio.wait({starting, stopping})
        await server.stop()
        state.forget()  # only now: a record that stays means that something may be left
    log.info("stopped; nothing is left")


def _note_stopping(state: StateDir, record: Record) -> None:
    """For commands that come meanwhile. A disk that is full is no reason not to stop."""
    try:
        state.write(record)
    except StateError as error:
        log.warning("%s", error)


class _Progress(logging.Handler):
    """Passes log records on to whoever waits for the start."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.INFO)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report({"progress": record.getMessage()})


class _Pipe:
    """Lines of JSON to the process that started us; it may go away at any time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def report(self, message: dict[str, object]) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def main(arguments: list[str]) -> int:
    """``python -m raydog.emulator.service``: started by `raydog.emulator.daemon.start`, not by people."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--instances", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--templates", type=Path)
    parser.add_argument("--internet", action="store_true")
    parser.add_argument("--expose", type=Path, action="append", default=[])
    parser.add_argument("--package", action="append", default=[])
    parser.add_argument("--pipe", type=int, required=True)
    options = parser.parse_args(arguments)
    if os.fork():
        os._exit(0)  # our parent can go on; the child belongs to init and to no terminal
    os.setsid()
    pipe = _Pipe(options.pipe)
    pipe.report({"pid": os.getpid(), "started": process_start(os.getpid())})
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    progress = _Progress(pipe.report)
    log.addHandler(progress)

    def ready(url: str) -> None:
        pipe.report({"url": url})
        log.removeHandler(progress)
        pipe.close()

    state = StateDir(options.state_dir)
    try:
        templates = Templates.load(options.templates)
        kind, port = options.instances, options.port
        asyncio.run(serve(state, kind, port, templates, options.internet, ready, options.expose, options.package))
    except Exception as error:
        log.removeHandler(progress)
        log.exception("the emulator failed")
        said = isinstance(error, (RayDogError, OSError))  # the others' words alone mean little
        pipe.report({"error": str(error) if said else repr(error)})
        return 1
    finally:
        pipe.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
