"""What the page makes of browsers, networks and servers that are not as it hopes."""

import base64
import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from client.session import LONGEST_WAIT_S, RETRIED, Client
from deploy.server import Server
from handler.service import Service
from handler.settings import Card, Limits
from handler.wire import Headers
from tests.support.fake_service import FACTS, Fake
from tests.support.gallery_browser import Visit, ask, draw, needs_chromium, shows, wait_for_tiles

pytestmark = [needs_chromium]

PREDICTIONS, DESCRIPTION = "**/predictions/dcgan", "**/models/dcgan*"
LOG_IN = "<!doctype html><title>Welcome to the hotel</title>"


def always(body: str | bytes, status: int = 200) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, body=body)


@pytest.mark.parametrize("storage", ["sessionStorage", "localStorage"])
def test_storage_that_the_browser_keeps_shut(visit: Visit, gallery_url: str, storage: str) -> None:
    page = visit("", gallery_url + "icon.svg")
    page.add_init_script(
        f"Object.defineProperty(window, '{storage}', {{ get() {{ throw new DOMException(); }} }})"
    )
    page.goto(f"{gallery_url}#seed=1&count=2&keep=1,2")
    wait_for_tiles(page, 2)
    page.click("#key-open")
    page.fill("#key", "secret")
    page.press("#key", "Enter")  # held by the page alone
    with page.expect_request(PREDICTIONS) as asked:
        draw(page, count="3")
    assert asked.value.headers["x-api-key"] == "secret"
    wait_for_tiles(page, 3)


def pictures(images: list[str], **others: Any) -> str:
    reply = {
        "images": images,
        "seeds": [*range(len(images))],
        "model": {"name": "dcgan", "version": "1.0", "weights_sha256": "ab" * 32},
    }
    return json.dumps({**reply, **others})


def test_a_200_that_is_not_ours(visit: Visit, server: Server) -> None:
    page = visit("#seed=1&count=2&view=mix", tiles=2)
    good = ask(server, seed=1, num_images=2)
    cut = base64.b64encode(base64.b64decode(good[1])[:-9]).decode()
    for body in (
        LOG_IN,
        "",
        "null",
        "[]",
        "{}",
        "7",
        pictures(good)[:-400],
        pictures([]),
        pictures([good[0], cut]),
        pictures([good[0], "aGVsbG8gd29ybGQsIGhlbGxv"]),
        pictures([good[0], good[1][:-8]]),
        pictures([good[0], 7]),  # type: ignore[list-item]
        pictures(good, seeds=None),
        pictures(good, seeds=[1]),
        pictures(good, model=None),
    ):
        page.route(PREDICTIONS, always(body))
        draw(page)
        expect(page.locator("#problem")).to_contain_text("The answer is not the model's, or broke")
        expect(page.locator(".problem:visible")).to_have_count(1)
        expect(page.locator("#status")).to_have_text("")
        wait_for_tiles(page, 2)  # what was shown stays
        page.unroute(PREDICTIONS)
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#problem")).to_be_hidden()
        expect(page.locator("#status")).to_have_text("Drew 2 pictures, seeds 1 to 2.")
    # So do files, and the other tasks.
    for body in (LOG_IN.encode(), base64.b64decode(good[0])[:-4]):
        page.route(PREDICTIONS, always(body))
        page.click("#draw-download")
        expect(page.locator("#problem")).to_contain_text("The answer is not the model's, or broke")
        page.unroute(PREDICTIONS)
        with page.expect_download():
            page.get_by_role("button", name="Try again").click()
        expect(page.locator("#problem")).to_be_hidden()
    page.route(PREDICTIONS, always('{"predictions": [{}]}'))
    page.locator("#grid .keep").first.click()
    page.get_by_label("Seed 1 in A").click()
    expect(page.locator("#problem")).to_contain_text("The answer is not the model's, or broke")
    page.unroute(PREDICTIONS)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#mix-result")).to_be_visible()


@pytest.mark.parametrize(
    "body", [LOG_IN, "null", "[]", "{}", '[{"customizedMetadata": "x"}]',
             '[{"customizedMetadata": {"model": {}, "request": {"properties": {"seed": 1}}}}]'],
)  # fmt: skip
def test_a_description_that_is_not_ours(visit: Visit, gallery_url: str, body: str) -> None:
    page = visit("", gallery_url + "icon.svg")
    page.route(DESCRIPTION, always(body))
    page.goto(f"{gallery_url}#seed=1&count=2")
    wait_for_tiles(page, 2)
    draw(page, count="0")
    expect(page.locator("#draw-problem")).to_contain_text("an integer 1 to 256")  # the server's


def test_an_error_that_is_not_ours(visit: Visit) -> None:
    page = visit("#seed=1&count=2", tiles=2)
    for body in (LOG_IN, "null", '"no"', '{"title": {"a": 1}, "detail": [2], "field": 3}'):
        page.route(PREDICTIONS, always(body, 500))
        draw(page)
        expect(page.locator("#problem strong")).to_have_text("The server failed")
        expect(page.locator("#problem dd")).to_have_count(0)
        page.unroute(PREDICTIONS)


def test_a_problem_is_not_covered_by_the_large_picture(visit: Visit) -> None:
    page = visit("#seed=1&count=2", tiles=2)
    page.locator("#grid .open").first.click()
    page.route(PREDICTIONS, always("", 500))
    page.locator("#view-download").press("Enter")  # a click may meet the picture as it grows
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#problem strong")).to_have_text("The server failed")


def test_back_and_forward(visit: Visit) -> None:
    page = visit("#seed=1&count=4&keep=2", tiles=4)
    page.click("#random")
    expect(page.locator("#summary")).not_to_have_text("4 pictures, seeds 1 to 4")
    summary = page.locator("#summary").text_content()
    page.locator("#grid .keep").first.click()
    expect(page.locator("#shelf button")).to_have_count(2)
    page.go_back()
    expect(page.locator("#summary")).to_have_text("4 pictures, seeds 1 to 4")
    expect(page.locator("#seed")).to_have_value("1")
    expect(page.locator("#shelf button")).to_have_count(2)  # nothing that was kept is lost
    assert "keep=2," in page.url
    page.go_forward()
    expect(page.locator("#summary")).to_have_text(summary or "")
    draw(page, count="300")  # refused: the address is still that of the pictures
    expect(page.locator("#draw-problem")).to_be_visible()
    page.reload()
    expect(page.locator("#summary")).to_have_text(summary or "")


@pytest.mark.parametrize(
    ("size", "nz", "limits", "drawn"),
    [
        (64, 100, Limits(), 36), (128, 4096, Limits(), 36), (256, 100, Limits(), 24),
        (512, 100, Limits(), 6), (64, 100, Limits(max_images=5), 4),
        (64, 100, Limits(max_reply_bytes=100_000), 4), (32, 8000, Limits(max_images=2), 2),
        (64, 100, Limits(max_images=1), 1),
    ],
)  # fmt: skip
def test_what_it_asks_for_keeps_to_the_servers_limits(
    visit: Visit, gallery_url: str, size: int, nz: int, limits: Limits, drawn: int
) -> None:
    card = Card.model_validate({**FACTS, "nz": nz, "image_size": size})
    network = Fake()
    network.nz, network.image_shape = nz, (size, size, 3)
    service = Service(network, card, limits)
    refused = []

    def answer(route: Route) -> None:
        request = route.request
        headers = {"Accept": request.headers["accept"], "Content-Type": "application/json"}
        (reply,) = service.handle(
            [{"body": json.loads(request.post_data or "")}], [Headers(headers)]
        )
        refused.extend([reply.body] if reply.status != 200 else [])
        route.fulfill(status=reply.status, content_type=reply.content_type, body=reply.body)

    page = visit("", gallery_url + "icon.svg")
    page.route(PREDICTIONS, answer)
    page.route(
        DESCRIPTION, lambda route: route.fulfill(json=[{"customizedMetadata": service.describe()}])
    )
    page.goto(gallery_url)
    wait_for_tiles(page, drawn)
    if drawn > 2:
        expect(page.locator("#walk-caption")).to_contain_text("Frame 1 of")
    page.goto(f"{gallery_url}#seed=1&keep={','.join(map(str, range(30)))}&view=mix")
    page.reload()
    wait_for_tiles(page, drawn)
    expect(page.locator("#shelf img[src]")).to_have_count(30)
    expect(page.locator(".problem:visible")).to_have_count(0)
    assert refused == []


def tries(page: Page, status: int, headers: dict[str, str], after_s: float) -> int:
    """How often the page asks until so many seconds after the first refusal."""
    asked: list[Route] = []

    def refuse(route: Route) -> None:
        asked.append(route)
        route.fulfill(status=status, headers=headers, body="")

    page.route(PREDICTIONS, refuse)
    with page.expect_response(PREDICTIONS):
        draw(page)
    left_ms = int(after_s * 1000)
    while left_ms > 0:
        page.evaluate("fetch('icon.svg').then((reply) => reply.text())")  # that reply has come
        step = min(left_ms, 500)
        page.clock.run_for(step)
        left_ms -= step
    page.evaluate("fetch('icon.svg').then((reply) => reply.text())")
    page.unroute(PREDICTIONS)
    return len(asked)


def test_it_tries_again_as_the_client_does(visit: Visit) -> None:
    most = 1 + inspect.signature(Client).parameters["retries"].default
    page = visit("#seed=1&count=1&view=mix", tiles=1)
    page.clock.install()
    for status in (400, 404, 408, 413, 425, 429, 500, 502, 503, 504):
        assert tries(page, status, {}, 20) == (most if status in RETRIED else 1), status
    for told, waited_s in (("7", 7), ("9999", LONGEST_WAIT_S)):
        # The clock runs by itself, too: some seconds on a busy machine.
        assert tries(page, 503, {"Retry-After": told}, waited_s * 0.6) == 1
        page.clock.run_for(200_000)
        page.reload()
        wait_for_tiles(page, 1)
        assert tries(page, 503, {"Retry-After": told}, waited_s * most) == most
    for nonsense in ("soon", "-3", "0", "Thu, 01 Jan 1970 00:00:00 GMT"):  # the back-off
        assert tries(page, 503, {"Retry-After": nonsense}, 20) == most, nonsense


# Clicks that come while a reply is under way: what is shown is what was asked for last.


def hold(page: Page, member: str) -> list[Route]:
    """Requests of the page that have this member are collected and not answered."""
    held: list[Route] = []

    def judge(route: Route) -> None:
        if member in json.loads(route.request.post_data or "{}"):
            held.append(route)
        else:
            route.continue_()

    page.route(PREDICTIONS, judge)
    return held


def wait_for(page: Page, held: list[Route]) -> Route:
    for _ in range(100):
        if held:
            return held[-1]
        page.wait_for_timeout(100)  # the routes are served meanwhile
    pytest.fail("nothing was asked")


def test_back_to_the_walk_that_is_shown(visit: Visit) -> None:
    page = visit("#seed=1&count=1&keep=1,7&steps=5")
    expect(page.locator("#walk-caption")).to_have_text("Frame 1 of 5, seed 1")
    held = hold(page, "walk")
    body = page.locator("#walk-body")
    page.get_by_role("radio", name="Linear").check()
    wait_for(page, held)
    expect(body).to_have_attribute("aria-busy", "true")
    page.get_by_role("radio", name="Slerp").check()
    expect(body).to_have_attribute("aria-busy", "false")
    held.clear()
    page.get_by_role("radio", name="Linear").check()
    wait_for(page, held)
    expect(body).to_have_attribute("aria-busy", "true")
    page.fill("#steps", "1")  # too few: the page says so itself
    page.press("#steps", "Enter")
    expect(page.locator("#walk-problem")).to_contain_text("a whole number from 2 to 256")
    expect(body).to_have_attribute("aria-busy", "false")


def test_a_term_pressed_while_the_reply_comes(visit: Visit, server: Server) -> None:
    page = visit("#seed=1&count=1&keep=1,2,3&a=1&view=mix")
    expect(page.locator("#mix-result")).to_be_visible()
    held = hold(page, "instances")
    page.get_by_label("Seed 2 in A").click()
    route = wait_for(page, held)
    reply = route.fetch()
    page.clock.install()
    page.clock.pause_at("2100-01-01")  # the next request does not leave yet
    page.evaluate(
        """() => {
          window.seen = [];
          const panel = document.querySelector("#panel-mix");
          new MutationObserver(() => {
            for (const image of panel.querySelectorAll("img")) {
              seen.push(`${image.getAttribute("src")} ${image.alt}`);
            }
          }).observe(panel, { subtree: true, childList: true, attributes: true });
        }"""
    )
    page.get_by_label("Seed 3 in B").click()
    route.fulfill(response=reply)
    page.evaluate("fetch('/gallery/').then((reply) => reply.text())")  # that reply has come
    page.unroute(PREDICTIONS)
    page.clock.resume()
    (wanted,) = ask(server, mix=[{"weight": 1, "seeds": [1, 2]}, {"weight": -1, "seeds": [3]}])
    result = page.locator("#mix-result")
    shows(result, wanted)
    expect(result).to_have_attribute("alt", "Result of mean(1, 2) \N{MINUS SIGN} 3")
    seen = page.evaluate("seen")
    assert seen
    assert [text for text in seen if text.startswith("undefined")] == []
    asked = [text for text in seen if text.endswith("Result of mean(1, 2) \N{MINUS SIGN} 3")]
    assert {text.split()[0] for text in asked} == {f"data:image/png;base64,{wanted}"}
