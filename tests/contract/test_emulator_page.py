"""The emulator's page in Chromium, with simulated instances."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from raydog.emulator import Emulator
from tests.support.browser import chromium
from tests.support.emulator import Yellowdog, yellowdog
from tests.support.page import Scene, page_link, rows

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def yd() -> Iterator[Yellowdog]:
    with yellowdog() as one:
        yield one


@pytest.fixture
def open_page(browser: Browser, yd: Yellowdog) -> Iterator[Open]:
    """Opens the page as its owner; afterwards no script has failed and nothing was fetched from elsewhere."""
    troubles: list[str] = []
    contexts = []

    def opened(address: str = "", *, emulator: Yellowdog = yd, **settings: Any) -> Page:
        context = browser.new_context(**settings)
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        ours = emulator.emulator.url

        def check_request(url: str) -> None:
            if not url.startswith(ours + "/"):
                troubles.append(f"fetched {url}")

        page.on("request", lambda request: check_request(request.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(page_link(emulator))
        expect(page.locator("#connection")).to_have_text("Live")
        if address:
            page.evaluate("address => { location.hash = address }", address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def scene(yd: Yellowdog) -> Scene:
    return Scene(yd)


def test_a_worker_appears_and_preempting_it_there_takes_it_away(scene: Scene, open_page: Open) -> None:
    page = open_page(scene.pool_page)
    expect(page.get_by_text("No nodes.")).to_be_visible()
    scene.add()
    expect(rows(page)).to_have_count(1)
    (instance,) = scene.instances()
    expect(rows(page)).to_contain_text(instance["privateIpAddress"])
    expect(rows(page).locator(".status")).to_have_text("Running")
    page.get_by_role("button", name=f"Preempt {instance['hostname']}").click()
    page.get_by_role("dialog").get_by_role("button", name="Preempt").click()
    expect(rows(page)).to_have_count(0)
    assert scene.instances() == []
    page.keyboard.press("4")
    lost = rows(page).filter(has_text=instance["hostname"]).filter(has_text="Lost")
    expect(lost).to_contain_text("the instance was preempted")


def test_a_preemption_with_warning_is_announced_first(scene: Scene, open_page: Open) -> None:
    scene.add()
    page = open_page(scene.pool_page)
    page.get_by_role("button", name="Preempt").click()
    page.get_by_label("Warning before it goes").select_option("30 seconds")
    page.get_by_role("dialog").get_by_role("button", name="Preempt").click()
    expect(rows(page).locator(".status")).to_have_text("Preemption warning")
    assert len(scene.instances()) == 1


def test_a_task_prints_live_and_is_aborted_there(scene: Scene, open_page: Open) -> None:
    printed = ["first line\n"]

    def task_output(_instance_id: str, _task_id: str) -> str:
        return "".join(printed)

    (task,) = scene.add()
    page = open_page(scene.cluster_page)
    try:
        scene.yd.emulator.call(lambda server: setattr(server.driver, "task_output", task_output))
        page.get_by_role("link", name=str(task.name)).click()
        output = page.get_by_label("Output of the task")
        expect(output).to_have_text("first line")
        printed.append("<b>second</b> line\n")
        expect(output).to_contain_text("<b>second</b> line")
    finally:
        scene.yd.emulator.call(lambda server: delattr(server.driver, "task_output"))
    page.get_by_role("button", name="Abort task", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Abort").click()
    expect(page.locator("#drawer dd .status")).to_have_text("Aborted")
    expect(page.get_by_role("button", name="Abort task", exact=True)).to_be_hidden()
    assert scene.yd.status_of(task) == "ABORTED"


def test_a_pool_is_shut_down_and_a_cluster_aborted_there(scene: Scene, open_page: Open) -> None:
    scene.add(2)
    page = open_page(scene.cluster_page)
    page.get_by_role("button", name=f"Abort {scene.name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Abort").click()
    expect(page.locator("#head .title .status")).to_have_text("Cancelled")
    page.get_by_role("link", name=re.compile("^Pools")).click()
    row = rows(page).filter(has_text=f"{scene.name}-pool")
    row.get_by_role("button", name="Shut down").click()
    page.get_by_role("dialog").get_by_role("button", name="Shut down").click()
    expect(row.locator(".status")).to_have_text("Terminated")
    expect(row.get_by_role("button")).to_have_count(0)
    assert scene.yd.pool_status(scene.pool) == "TERMINATED"


def test_a_change_of_mind_changes_nothing(scene: Scene, open_page: Open) -> None:
    scene.add()
    page = open_page(scene.pool_page)
    page.get_by_role("button", name="Preempt").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Preempt").click()
    page.get_by_role("button", name="Keep it").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(rows(page)).to_have_count(1)
    assert len(scene.instances()) == 1


def test_a_refusal_is_said(scene: Scene, open_page: Open) -> None:
    scene.add()
    page = open_page(scene.pool_page)
    page.get_by_role("button", name="Preempt").click()
    (instance,) = scene.instances()
    scene.yd.emulator.preempt(instance["id"])
    page.get_by_role("dialog").get_by_role("button", name="Preempt").click()
    expect(page.get_by_role("alert")).to_contain_text("live instance")


def test_all_of_it_works_from_a_keyboard(scene: Scene, open_page: Open) -> None:
    scene.add(3)
    page = open_page()
    expect(page.get_by_role("link", name=scene.name, exact=True)).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_label("Filter")).to_be_focused()
    page.keyboard.type(scene.name)
    expect(rows(page)).to_have_count(1)
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("link", name=scene.name, exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=scene.name)).to_be_visible()
    expect(rows(page)).to_have_count(3)
    page.get_by_label("Filter").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    second = page.get_by_role("link", name="task-2", exact=True)
    expect(second).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#drawer-title")).to_be_focused()
    expect(page.locator("#drawer-title")).to_have_text("task-2")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Abort task", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Abort task", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#drawer")).to_be_hidden()
    expect(second).to_be_focused()
    outline = second.evaluate("element => getComputedStyle(element).outlineStyle")
    assert outline == "solid", "where the keyboard is can be seen"
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name=scene.name)).to_be_hidden()
    for key, section in enumerate(("Clusters", "Pools", "Instances", "Events"), start=1):
        page.keyboard.press(str(key))
        expect(page.locator("nav [aria-current=page]")).to_contain_text(section)


def test_the_keyboard_stays_where_it_is_while_rows_come_and_go(scene: Scene, open_page: Open) -> None:
    scene.add(2)
    page = open_page(scene.pool_page)
    expect(rows(page)).to_have_count(2)
    first, second = scene.instances()
    page.get_by_role("button", name=f"Preempt {second['hostname']}").focus()
    scene.add(1)
    expect(rows(page)).to_have_count(3)
    expect(page.get_by_role("button", name=f"Preempt {second['hostname']}")).to_be_focused()
    scene.yd.emulator.preempt(second["id"])
    expect(rows(page)).to_have_count(2)
    assert page.evaluate("document.activeElement.closest('tr') !== null")
    assert first in scene.instances()


def test_thousands_of_nodes_are_counts_and_a_window(scene: Scene, open_page: Open) -> None:
    scene.add(1000)
    scene.add(1000)
    page = open_page(scene.pool_page)
    expect(page.locator("#shown")).to_have_text("1\u2013100 of 2,000 nodes")
    expect(rows(page)).to_have_count(100)
    page.get_by_role("button", name="Next rows").click()
    expect(page.locator("#shown")).to_have_text("101\u2013200 of 2,000 nodes")
    expect(rows(page)).to_have_count(100)
    wanted = scene.instances()[1500]
    page.get_by_label("Filter").fill(wanted["hostname"])
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text(wanted["privateIpAddress"])


# What it looks like

_CONTRAST = """() => {
  const parse = (text) => text.match(/[0-9.]+/g).map(Number);
  const canvas = document.createElement("canvas").getContext("2d");
  const rgb = (colour) => { canvas.fillStyle = "#000"; canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data; };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (parse(colour)[3] !== 0) return rgb(colour);
    }
    return rgb("Canvas");
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, .hidden")) continue;
    const [one, other] = [light(rgb(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) poor.push(`${element.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
_NAMELESS = """() => [...document.querySelectorAll("button, a[href], input, select")]
  .filter((element) => element.checkVisibility())
  .filter((element) => !(element.ariaLabel || element.textContent.trim() || element.labels?.length))
  .map((element) => element.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_reads_well_in_light_and_dark_wide_and_narrow(
    scene: Scene, open_page: Open, scheme: str, width: int
) -> None:
    tasks = scene.add(3)
    scene.yd.abort(tasks[0])
    scene.yd.emulator.preempt(scene.instances()[1]["id"])
    settings = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = open_page(**settings)
    task = f"{scene.cluster_page}?task={quote(str(tasks[1].id), safe='')}"
    for address in ("#/work", "#/pools", "#/instances", "#/events", scene.pool_page, scene.cluster_page, task):
        page.evaluate("address => { location.hash = address }", address)
        expect(rows(page).first).to_be_visible()
        if address == task:
            expect(page.get_by_label("Output of the task")).to_be_visible()
        assert page.evaluate(_CONTRAST) == [], f"hard to read at {address}"
        assert page.evaluate(_NAMELESS) == [], f"a control without a name at {address}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"too wide at {address}"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128) == (scheme == "dark")


def test_the_token_leaves_the_address_and_survives_a_reload(scene: Scene, open_page: Open) -> None:
    page = open_page()
    assert "token" not in page.url
    page.reload()
    expect(page.locator("#connection")).to_have_text("Live")
    assert page.context.cookies() == []


# Beside the platform's own work


def test_what_is_done_there_meets_no_fault_and_is_in_no_record(scene: Scene, open_page: Open) -> None:
    scene.add()
    page = open_page(scene.pool_page)
    expect(rows(page)).to_have_count(1)
    scene.yd.emulator.forget_calls()
    scene.yd.emulator.fault("shutdown_worker_pool", "status", status=503)
    try:
        page.get_by_role("button", name="Shut down").click()
        page.get_by_role("dialog").get_by_role("button", name="Shut down").click()
        expect(page.locator("#head .title .status")).to_have_text("Shutdown")
        assert scene.yd.emulator.calls() == []
    finally:
        scene.yd.emulator.clear_faults()


def test_an_open_page_finds_an_emulator_that_was_restarted(browser: Browser) -> None:
    def emulator(port: int) -> Emulator:
        return Emulator(port=port, key_id="some-id", key_secret="some-secret")

    with yellowdog(emulator(0)) as first:
        port = int(first.emulator.url.rsplit(":", 1)[1])
        context = browser.new_context()
        page = context.new_page()
        page.goto(first.emulator.url)
        page.get_by_label("Key id").fill("some-id")
        page.get_by_label("Key secret").fill("some-secret")
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#connection")).to_have_text("Live")
        began = time.monotonic()
        first.emulator.stop()
        assert time.monotonic() - began < 5, "an open page does not hold the emulator up"
        expect(page.locator("#connection")).to_have_text("Reconnecting")
    with yellowdog(emulator(port)) as second:
        expect(page.locator("#connection")).to_have_text("Live", timeout=10_000)
        second.requirement("after-restart")
        expect(page.get_by_role("link", name="after-restart")).to_be_visible()
        context.close()
