"""Wait for a status with a helper of the real SDK: ``python -m tests.support.sdk_waiting KIND ID STATUS``.

A process of its own, because the SDK's reader thread spins for ever once the server has ended a stream.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future
from typing import Any

from yellowdog_client import PlatformClient
from yellowdog_client.model import (
    ApiKey,
    ComputeRequirementStatus,
    ServicesSchema,
    WorkerPoolStatus,
    WorkRequirementStatus,
)

from raydog.emulator import Emulator

SECONDS = 30.0


class Waiting:
    """A helper of the SDK that waits; ``ready`` is given once it has subscribed."""

    def __init__(self, emulator: Emulator, kind: str, entity_id: object, status: str) -> None:
        command = [sys.executable, "-m", "tests.support.sdk_waiting", kind, str(entity_id), status]
        environment = {**os.environ, **emulator.environment, "NO_PROXY": "*"}
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "subscribed\n"

    def result(self) -> str:
        """The status with which it came back."""
        output, _ = self._process.communicate(timeout=SECONDS)
        return output.strip()


def _future(client: PlatformClient, kind: str, entity_id: str, status: str) -> Future[Any]:
    if kind == "work":
        work = client.work_client.get_work_requirement_helper_by_id(entity_id)
        return work.when_requirement_status_is(WorkRequirementStatus[status])
    if kind == "pool":
        pool = client.worker_pool_client.get_worker_pool_helper_by_id(entity_id)
        return pool.when_worker_pool_status_is(WorkerPoolStatus[status])
    compute = client.compute_client.get_compute_requirement_helper_by_id(entity_id)
    return compute.when_requirement_status_is(ComputeRequirementStatus[status])


def main() -> None:
    kind, entity_id, status = sys.argv[1:]
    key = ApiKey(os.environ["YD_API_KEY_ID"], os.environ["YD_API_KEY_SECRET"])
    client = PlatformClient.create(ServicesSchema(defaultUrl=os.environ["YD_API_URL"]), key)
    future = _future(client, kind, entity_id, status)
    print("subscribed", flush=True)
    print(str(future.result(SECONDS).status), flush=True)
    os._exit(0)  # the reader thread would not let it end


if __name__ == "__main__":
    main()
