"""Who may see the emulator's page and act there, and that it knows no place but its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from raydog.emulator.page.routes import FILES, STATIC
from tests.support.browser import chromium
from tests.support.emulator import Yellowdog, yellowdog
from tests.support.page import Scene, page_link


@pytest.fixture(scope="module")
def yd() -> Iterator[Yellowdog]:
    with yellowdog() as one:
        yield one


@pytest.fixture
def scene(yd: Yellowdog) -> Scene:
    return Scene(yd)


def test_without_a_token_it_asks_for_the_key(scene: Scene) -> None:
    emulator = scene.yd.emulator
    with chromium() as browser:
        page = browser.new_page()
        page.goto(emulator.url)
        page.get_by_label("Key id").fill(emulator.key_id)
        page.get_by_label("Key secret").fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_label("Key secret")).to_have_value("")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_label("Key secret").fill(emulator.key_secret)
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("Live")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.get_by_role("link", name=scene.name, exact=True)).to_be_visible()


def test_the_page_is_no_secret_but_all_that_it_shows_is(scene: Scene) -> None:
    yd = scene.yd
    for name in FILES:
        answer = yd.http("GET", f"/emulator/page/{name}", headers={"Authorization": ""})
        assert answer.status_code == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert yd.emulator.key_secret not in answer.text
    for method, path in (
        ("GET", "link"),
        ("POST", "feed"),
        ("POST", f"pools/{scene.pool.id}/shutdown"),
        ("POST", f"requirements/{scene.requirement.id}/abort"),
    ):
        for authorization in ("", "Bearer ", "Bearer wrong", "yd-key wrong:wrong"):
            answer = yd.http(method, f"/emulator/page/{path}", headers={"Authorization": authorization})
            assert answer.status_code == 401, path
    assert yd.pool_status(scene.pool) not in {"SHUTDOWN", "TERMINATED"}


def test_the_token_opens_the_page_and_nothing_else(yd: Yellowdog) -> None:
    token = page_link(yd).split("#token=")[1]
    answer = yd.http("GET", "/workerPools", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401


def test_other_sites_get_nothing(scene: Scene) -> None:
    yd = scene.yd
    path = f"/emulator/page/pools/{scene.pool.id}/shutdown"
    host = yd.emulator.url.removeprefix("http://")
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": f"evil.example:{host.split(':')[1]}"}, 421),
        ({"Host": "[broken"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ):
        assert yd.http("POST", path, headers=headers).status_code == status, headers
        assert yd.http("GET", "/", headers=headers).status_code == status, headers
    assert yd.pool_status(scene.pool) not in {"SHUTDOWN", "TERMINATED"}
    forwarded = {"Host": "localhost:9000", "Origin": "http://localhost:9000"}
    assert yd.http("POST", path, headers=forwarded).status_code == 200


def test_path_tricks_find_no_file(yd: Yellowdog) -> None:
    for path in ("..%2froutes.py", "%2e%2e/routes.py", "static%2findex.html", "index.html%00", "routes.py"):
        assert yd.http("GET", f"/emulator/page/{path}").status_code in {404, 405}, path


def test_it_names_no_other_place() -> None:
    """Nothing in the page's files is an address elsewhere, so it works offline and tells nobody of itself."""
    known = "http://www.w3.org/2000/svg"  # the name of a vocabulary; never fetched
    shipped = {path.name for path in STATIC.iterdir()}
    assert shipped == set(FILES)
    for path in STATIC.iterdir():
        text = path.read_text().replace(known, "")
        assert not re.search(r"\b(https?|wss?|ftp):|['\"(]//|@import|\burl\(|\bdata:[a-z]+/", text), path.name
        assert "innerHTML" not in text, "texts of tasks and errors are shown as texts"
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", html), "against the content policy"


def test_its_files_are_in_the_package() -> None:
    settings = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    found = re.search(r"^raydog = (\[.*\])$", settings, re.MULTILINE)
    assert found is not None
    shipped = {pattern.removeprefix("**/*") for pattern in ast.literal_eval(found[1])}
    assert {path.suffix for path in STATIC.iterdir()} <= shipped


def test_a_request_that_makes_no_sense_is_refused(yd: Yellowdog) -> None:
    for body in ('{"section": "secrets"}', "[]", "{", '{"offset": -1}', '{"filter": 3}', '{"live": "yes"}'):
        assert yd.http("POST", "/emulator/page/feed", data=body).status_code == 400, body
    assert yd.http("POST", "/emulator/page/feed", data=" " * 70_000).status_code == 413
