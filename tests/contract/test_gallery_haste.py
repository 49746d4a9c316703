"""Clicks that come while a reply is under way: what is shown is what was asked for last."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, Route, expect

from deploy.server import Server
from tests.support.gallery_browser import Visit, ask, needs_chromium

pytestmark = [needs_chromium]


def hold(page: Page, member: str) -> list[Route]:
    """Requests of the page that have this member are collected and not answered."""
    held: list[Route] = []

    def judge(route: Route) -> None:
        if member in json.loads(route.request.post_data or "{}"):
            held.append(route)
        else:
            route.continue_()

    page.route("**/predictions/dcgan", judge)
    return held


def wait_for(page: Page, held: list[Route]) -> Route:
    for _ in range(100):
        if held:
            return held[-1]
        page.wait_for_timeout(100)
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
    page.unroute("**/predictions/dcgan")
    page.clock.resume()
    (wanted,) = ask(server, mix=[{"weight": 1, "seeds": [1, 2]}, {"weight": -1, "seeds": [3]}])
    result = page.locator("#mix-result")
    expect(result).to_have_attribute("src", f"data:image/png;base64,{wanted}")
    expect(result).to_have_attribute("alt", "Result of mean(1, 2) \N{MINUS SIGN} 3")
    seen = page.evaluate("seen")
    assert seen
    assert [text for text in seen if text.startswith("undefined")] == []
    asked = [text for text in seen if text.endswith("Result of mean(1, 2) \N{MINUS SIGN} 3")]
    assert {text.split()[0] for text in asked} == {f"data:image/png;base64,{wanted}"}
