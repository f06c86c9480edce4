"""The emulator's page over a real Ray cluster: a worker appears, and preempting it there removes it from Ray."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import chromium
from tests.support.daemon import EmulatorDaemon
from tests.support.page import rows
from tests.support.ray_cli import WAIT, RayCluster, eventually

pytestmark = pytest.mark.e2e

NODES = "import json, ray; ray.init(address='auto', log_to_driver=False, logging_level='ERROR'); "
NODES += "print('nodes', json.dumps({one['NodeManagerAddress']: one['Alive'] for one in ray.nodes()}))"


@pytest.fixture
def browser(platform: EmulatorDaemon) -> Iterator[Browser]:
    """After the platform, so that a machine without real instances does not start one."""
    with chromium() as one:
        yield one


def nodes_of_ray(cluster: RayCluster) -> dict[str, bool]:
    """Whether Ray takes the node for alive, by address."""
    printed = re.search(r"^nodes (\{.*\})", cluster.exec(f'python -c "{NODES}"'), re.MULTILINE)
    assert printed is not None
    found: dict[str, bool] = json.loads(printed[1])
    return found


def test_a_worker_appears_on_the_page_and_preempting_it_there_removes_it_from_ray(
    cluster: RayCluster, platform: EmulatorDaemon, browser: Browser
) -> None:
    page = browser.new_page()
    page.goto(platform.status()["pageUrl"])
    expect(page.locator("#connection")).to_have_text("Live")
    assert "token" not in page.url

    def one_worker(document: dict[str, Any]) -> None:
        document["available_node_types"]["worker"]["min_workers"] = 1

    cluster.write(one_worker)
    cluster.up()
    (worker,) = eventually(lambda: platform.instances("worker") or None, "a worker's instance")
    page.keyboard.press("3")
    row = page.locator(f'#list tr[data-id="{worker["id"]}"]')
    expect(row.locator(".status")).to_have_text("Running", timeout=WAIT * 1000)
    address = row.locator("td.code").inner_text()
    eventually(lambda: nodes_of_ray(cluster).get(address), "the worker in Ray")

    # What it costs this machine, and what its task prints
    expect(row.locator("td[data-label=Processes]")).to_have_text(re.compile(r"^\d+$"))
    expect(row.locator("td[data-label=CPU]")).to_have_text(re.compile(r"^\d+ %$"))
    row.get_by_role("link").last.click()
    expect(page.get_by_label("Output of the task")).to_contain_text("Ray runtime started", timeout=WAIT * 1000)
    page.keyboard.press("Escape")

    row.get_by_role("button", name="Preempt").click()
    page.get_by_role("dialog").get_by_role("button", name="Preempt").click()
    expect(row).to_have_count(0)
    eventually(lambda: nodes_of_ray(cluster).get(address) is False, "the end of the worker in Ray")
    replaced = eventually(
        lambda: [one for one in platform.instances("worker") if one["id"] != worker["id"]] or None,
        "another worker in its place",
    )
    expect(page.locator(f'#list tr[data-id="{replaced[0]["id"]}"]')).to_be_visible()

    # The whole cluster ends before the eyes of who watches
    requirement = platform.status()["workRequirements"][0]["id"]
    page.evaluate("address => { location.hash = address }", f"#/work/{quote(requirement, safe='')}")
    expect(page.locator("#head .title .status")).to_have_text("Running")
    expect(rows(page)).to_have_count(3)
    cluster.down()
    expect(page.locator("#head .title .status")).to_have_text("Cancelled")
    expect(page.get_by_role("button", name="Abort")).to_have_count(0)
