"""A soak's course: the cluster comes up, waves and troubles go on until the time is over, calm returns."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from benchmarks.soak.steady import Watched, below
from benchmarks.soak.trouble import Troublemaker, plan
from benchmarks.soak.waves import LONGEST_SECONDS, Waves
from raydog.errors import RayDogError
from raydog.progress import Progress
from raydog.waiting import Pending, Ready, WaitTimeout, wait_until
from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import Command, RayCluster, eventually

_STEP_SECONDS = 0.5
_SAMPLE_SECONDS = 3.0
_CALM_SECONDS = 180.0
_EVIDENCE = "tail -n 300 /tmp/ray/session_latest/logs/monitor*; tail -n 50 ~/.raydog/redis.log"


class Course:
    """One soak on an emulator of its own. `run` it, `close` it, then ask for `problems`."""

    def __init__(
        self, platform: EmulatorDaemon, cluster: RayCluster, *, seed: int, seconds: float, workers: int
    ) -> None:
        self._platform = platform
        self._cluster = cluster
        self._seconds = seconds
        self._process: int = platform.status()["pid"]
        self._plan = plan(seed, seconds)
        self._maker = Troublemaker(platform, self._process)
        self._waves = Waves(cluster, seed, workers * 2, self.say)
        self._happened: Counter[str] = Counter()
        self._watched: list[Watched] = []
        self._progress = Progress()
        self._began = time.monotonic()
        self._sampled = 0.0
        self._tunnel: Command | None = None

        def change(document: dict[str, Any]) -> None:
            document["max_workers"] = document["available_node_types"]["worker"]["max_workers"] = workers
            document["provider"]["cluster_lifetime_hours"] = seconds / 3600 + 1

        cluster.write(change)

    def say(self, what: str, details: str) -> None:
        """A line of what happened."""
        self._progress.close()
        print(f"{time.monotonic() - self._began:.1f}\t{what}\t{' '.join(details.split())}", flush=True)

    def run(self) -> None:
        """All of it. A wave that fails does not end it; see `problems`."""
        self.say("up", f"{self._cluster.up().seconds:.0f} s")
        self._tunnel = self._cluster.start(
            "raydog", "tunnel", self._cluster.yaml.name, "--only", "--port", "0:8265", "--port", "0:10001"
        )
        self._tunnel.printed("Ctrl+C closes them")
        self._watched = [
            Watched("autoscaler", eventually(self._monitor, "the autoscaler's process")),
            Watched("emulator", self._process),
            Watched("raydog tunnel", self._tunnel.process.pid),
        ]
        self._began = time.monotonic()
        wait_until(
            self._step,
            self._seconds + 2 * LONGEST_SECONDS,
            interval=_STEP_SECONDS,
            max_interval=_STEP_SECONDS,
            on_pending=self._progress.update,
        )
        self._calm()

    def _monitor(self) -> int | None:
        """The process that is Ray's autoscaler, on the head."""
        found = below(self._process).items()
        return next((process for process, words in found if any(one.endswith("/monitor.py") for one in words)), None)

    def _step(self) -> Ready[None] | Pending:
        now = time.monotonic() - self._began
        while self._plan and self._plan[0].at <= now:
            trouble = self._plan.pop(0)
            told = self._maker.make(trouble)
            if told is not None:
                self.say(trouble.kind, told)
                if trouble.kind != "capacity":  # that is the end of one
                    self._happened[trouble.kind] += 1
        if now >= self._seconds:
            self._maker.end()
        self._waves.step(more=now < self._seconds)
        if now - self._sampled >= _SAMPLE_SECONDS and now < self._seconds:
            self._sampled = now
            for one in self._watched:
                one.sample(round(now, 1))
        if now >= self._seconds and not self._waves.under_way:
            return Ready(None)
        done = self._waves.finished
        return Pending(f"{len(done)} waves, {self._happened.total()} troubles, {now:.0f} of {self._seconds:.0f} s")

    def _calm(self) -> None:
        """Nothing goes wrong any more: workers leave for want of work, and the cluster finds nothing amiss."""
        self.say("calm", "waiting for the workers to leave")

        def quiet() -> Ready[None] | Pending:
            left = [one["hostname"] for one in self._platform.instances("-worker-")]
            return Pending(f"still there: {', '.join(left)}") if left else Ready(None)

        try:
            wait_until(quiet, _CALM_SECONDS, on_pending=self._progress.update)
        except WaitTimeout as timeout:
            raise RayDogError(f"idle workers did not leave: {timeout.observed}") from timeout
        self._cluster.raydog("status", self._cluster.yaml.name)  # fails if it names a problem
        self.say("calm", "no worker is left, and raydog status names no problem")

    def save_evidence(self) -> None:
        """What the head's logs and ``raydog status`` say, into the cluster's folder."""
        self._maker.end()
        name = self._cluster.yaml.name
        commands = {"head": ("ray", "exec", name, _EVIDENCE), "status": ("raydog", "status", name)}
        for log, words in commands.items():
            output = self._cluster.start(*words).wait().output
            (self._cluster.folder / f"{log}.log").write_text(output, encoding="utf-8")

    def close(self) -> None:
        """End what runs beside the cluster; nothing goes wrong any more."""
        self._progress.close()
        self._maker.end()
        self._cluster.close()

    def problems(self) -> list[str]:
        """What was not as it has to be."""
        found = [f"wave {one.number} (seed {one.seed}): {one.problem}" for one in self._waves.finished if one.problem]
        if not self._waves.finished:
            found.append("no wave has finished")
        for one in self._watched:
            if one.lost is not None:
                found.append(f"{one.name}: the process ended after {one.lost:.0f} s")
            elif not one.change().steady:  # too few samples prove nothing
                found.append(f"{one.name} is not steady: {one.change().as_json()}")
        return found

    def as_json(self) -> dict[str, Any]:
        """What happened, for the result file."""
        return {
            "waves": [one.as_json() for one in self._waves.finished],
            "troubles": dict(self._happened),
            "processes": {
                one.name: {**one.change().as_json(), "samples": [list(sample) for sample in one.samples]}
                for one in self._watched
            },
        }
