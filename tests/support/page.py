"""What tests of the emulator's page share: a cluster and a pool to look at."""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Locator, Page
from yellowdog_client.model import ProvisionedWorkerPool, Task, WorkRequirement

from tests.support.emulator import Yellowdog, task_group

_numbers = itertools.count(1)


def page_link(yd: Yellowdog) -> str:
    url: str = yd.http("GET", "/emulator/page/link").json()["url"]
    assert url == yd.emulator.page_url
    return url


class Scene:
    """A cluster of a test's own: a work requirement with a group, and a pool with the only workers for it."""

    def __init__(self, yd: Yellowdog) -> None:
        self.yd = yd
        self.name = f"scene-{next(_numbers):03d}"
        self.requirement: WorkRequirement = yd.requirement(
            self.name, task_group("workers", workerTags=[self.name], finishIfAllTasksFinished=False)
        )
        self.pool: ProvisionedWorkerPool = yd.pool(f"{self.name}-pool", workerTag=self.name, maxNodes=5000)

    def add(self, count: int = 1) -> list[Task]:
        return self.yd.add(self.requirement, count)

    def instances(self) -> list[dict[str, Any]]:
        found = self.yd.emulator.status()["instances"]
        return [one for one in found if one["workerPool"] == self.pool.name]

    @property
    def cluster_page(self) -> str:
        return f"#/work/{quote(str(self.requirement.id), safe='')}"

    @property
    def pool_page(self) -> str:
        return f"#/pools/{quote(str(self.pool.id), safe='')}"


def rows(page: Page) -> Locator:
    return page.locator("#list tbody tr")
