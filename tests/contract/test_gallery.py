"""What the page of ``make gallery`` does, in a headless Chromium, against a live TorchServe."""

import base64
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import requests
from playwright.sync_api import Browser, expect

from client.session import read
from deploy.server import Ports, Server
from tests.support.gallery_browser import (
    PATH,
    Visit,
    ask,
    draw,
    gallery,
    needs_chromium,
    post,
    saved,
    shows,
    sources,
    wait_for_tiles,
)

pytestmark = [needs_chromium]

LARGEST = 2**53 - 1


def test_the_grid_shows_the_servers_pictures(visit: Visit, server: Server) -> None:
    page = visit(tiles=36)
    assert sources(page, "#grid img") == ask(server, seed=1, num_images=36)
    expect(page.locator("#summary")).to_have_text("36 pictures, seeds 1 to 36")
    expect(page.locator("#facts")).to_contain_text("dcgan 1.0 · weights ")
    expect(page.locator("#facts")).to_contain_text("64 \N{MULTIPLICATION SIGN} 64 px")
    draw(page, seed=str(LARGEST - 2), count="3", columns="2")
    wait_for_tiles(page, 3)
    assert sources(page, "#grid img") == ask(server, seeds=[LARGEST - 2, LARGEST - 1, LARGEST])
    tops = page.locator("#grid .tile").evaluate_all("all => all.map(one => one.offsetTop)")
    assert tops[0] == tops[1] < tops[2]


def test_a_random_seed_is_told_and_shared(visit: Visit, server: Server) -> None:
    page = visit("#seed=1&count=4", tiles=4)
    page.click("#random")
    expect(page.locator("#seed")).not_to_have_value("1")
    expect(page.locator("#seed")).not_to_have_value("")
    wait_for_tiles(page, 4)
    seed = page.input_value("#seed")
    assert f"seed={seed}&count=4" in page.url
    assert sources(page, "#grid img") == ask(server, seed=int(seed), num_images=4)


def test_keeping_and_the_address(visit: Visit, server: Server) -> None:
    page = visit("#seed=5&count=6", tiles=6)
    for i in (4, 1, 2):
        page.locator("#grid .keep").nth(i).click()
    page.locator("#grid .keep").nth(2).click()  # and let go again
    expect(page.locator("#grid [aria-pressed=true]")).to_have_count(2)
    expect(page.locator("#kept-count")).to_have_text("2")
    assert sources(page, "#shelf img") == ask(server, seeds=[9, 6])
    assert page.url.endswith("#seed=5&count=6&keep=9,6")

    other = visit("#seed=100&count=2&keep=9,6", tiles=2)  # somebody else opens the link
    expect(other.locator("#shelf img[src]")).to_have_count(2)
    assert sources(other, "#shelf img") == ask(server, seeds=[9, 6])
    other.get_by_label("Remove seed 9").click()
    assert other.url.endswith("&keep=6")
    expect(other.get_by_label("Remove seed 6")).to_be_focused()
    other.evaluate("location.hash = '#seed=7&count=3&keep=1,2,3'")
    wait_for_tiles(other, 3)
    expect(other.locator("#shelf button")).to_have_count(3)
    other.click("#kept-clear")
    expect(other.locator("#shelf button")).to_have_count(0)


def test_the_slider_walks(visit: Visit, server: Server) -> None:
    page = visit("#seed=1&count=4&keep=1,7,42&steps=9&frame=4", tiles=4)
    between = {"between": [1, 7, 42], "steps": 9}
    slerp = ask(server, walk={**between, "method": "slerp"})
    linear = ask(server, walk={**between, "method": "linear"})
    expect(page.locator("#walk-caption")).to_have_text("Frame 5 of 9, seed 7")
    assert sources(page, "#walk-frame") == [slerp[4]]
    page.focus("#walk-slider")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#walk-caption")).to_have_text("Frame 6 of 9, between seeds 7 and 42")
    assert sources(page, "#walk-frame") == [slerp[5]]
    assert "frame=5" in page.url
    name, png = saved(page, "#walk-frame-download")
    assert (name, png) == ("dcgan-walk-frame-6.png", base64.b64decode(slerp[5]))
    assert "noise" in read(png)["request"]
    page.get_by_role("radio", name="Linear").check()
    shows(page.locator("#walk-frame"), linear[5])
    assert linear[5] != slerp[5]
    _, strip = saved(page, "#walk-download")
    assert read(strip)["request"]["walk"] == {**between, "method": "linear"}
    page.click("#walk-play")
    expect(page.locator("#walk-caption")).not_to_contain_text("Frame 6 of 9")
    page.click("#walk-play")  # a pause goes into the address
    frame = int(page.input_value("#walk-slider"))
    assert f"frame={frame}" in page.url or frame == 0
    assert sources(page, "#walk-frame") == [linear[frame]]
    page.fill("#steps", "2")
    page.press("#steps", "Enter")
    expect(page.locator("#walk-problem")).to_contain_text("walk.steps")
    expect(page.locator("#walk-problem")).to_contain_text("an integer 3 to 256")


def test_arithmetic(visit: Visit, server: Server) -> None:
    page = visit("#seed=1&count=9&keep=1,2,3,4,5&view=mix", tiles=9)
    first = page.get_by_label("Seed 1 in A")
    place = first.bounding_box()
    first.click()
    expect(page.locator("#mix-result")).to_be_visible()
    assert first.bounding_box() == place  # the next click hits what it aims at
    for name, seeds in (("A", (2, 3)), ("B", (4,)), ("C", (2, 5))):
        for seed in seeds:
            page.get_by_label(f"Seed {seed} in {name}").click()
    expect(page.get_by_label("Seed 5 in C")).to_be_focused()
    terms = [
        {"weight": 1, "seeds": [1, 2, 3]},
        {"weight": -1, "seeds": [4]},
        {"weight": 1, "seeds": [2, 5]},
    ]
    (wanted,) = ask(server, mix=terms)
    expect(page.locator("#mix-formula")).to_have_text("mean(1, 2, 3) \N{MINUS SIGN} 4 + mean(2, 5)")
    shows(page.locator("#mix-result"), wanted)
    (mean,) = ask(server, mix=[{"weight": 1, "seeds": [1, 2, 3]}])
    assert sources(page, "#mean-a") == [mean]
    name, png = saved(page, "#mix-download")
    assert name == "dcgan-mix.png"
    assert png == post(server, mix=terms)
    assert read(png)["request"]["mix"] == terms
    page.get_by_label("Seed 4 in B").click()  # a term may be left out
    expect(page.locator("#mix-formula")).to_have_text("mean(1, 2, 3) + mean(2, 5)")
    (without,) = ask(server, mix=[terms[0], terms[2]])
    shows(page.locator("#mix-result"), without)
    page.get_by_label("Remove seed 5").click()  # what is no longer kept is in no term
    expect(page.locator("#mix-formula")).to_have_text("mean(1, 2, 3) + 2")


def test_the_file_is_the_servers_own_and_so_is_that_of_curl(
    visit: Visit, server: Server, tmp_path: Path
) -> None:
    page = visit(
        "#seed=20&count=6&columns=3&keep=5,2",
        permissions=["clipboard-read", "clipboard-write"],
        viewport={"width": 1400, "height": 900},
        tiles=6,
    )
    name, png = saved(page, "#draw-download")
    assert name == "dcgan-seed-20-6.png"
    assert png == post(server, seed=20, num_images=6, columns=3)
    assert b"tEXtdcgan\0" in png
    assert read(png)["request"]["seed"] == 20
    page.click("#draw-curl")
    expect(page.locator("#status")).to_have_text("The curl command is in the clipboard.")
    command = page.evaluate("navigator.clipboard.readText()")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / name).read_bytes() == png
    _, kept = saved(page, "#kept-download")
    assert read(kept)["request"]["seeds"] == [5, 2]


def test_one_picture_is_shown_larger(visit: Visit, server: Server) -> None:
    page = visit("#seed=5&count=6", permissions=["clipboard-read", "clipboard-write"], tiles=6)
    title, focused = page.locator("#view-title"), page.locator(":focus")
    page.locator("#grid .open").nth(4).click()
    expect(title).to_have_text("Seed 9")
    (wanted,) = ask(server, seed=9)
    assert sources(page, "#view-image") == [wanted]
    width = page.locator("#view-image").evaluate("one => one.getBoundingClientRect().width")
    assert width >= 256
    assert width % 64 == 0  # whole pixels
    page.click("#view-copy")
    expect(page.locator("#viewer #status")).to_have_text("The seed is in the clipboard.")
    assert page.evaluate("navigator.clipboard.readText()") == "9"
    page.click("#view-curl")
    expect(page.locator("#viewer #status")).to_have_text("The curl command is in the clipboard.")
    assert '{"seed":9}' in page.evaluate("navigator.clipboard.readText()")
    name, png = saved(page, "#view-download")
    assert name == "dcgan-seed-9.png"
    assert png == post(server, seed=9)
    page.click("#view-keep")
    expect(page.locator("#view-keep")).to_have_attribute("aria-pressed", "true")
    for key, seed in (
        ("ArrowRight", 10),
        ("ArrowRight", 5),
        ("ArrowLeft", 10),
        ("Home", 5),
        ("End", 10),
    ):
        page.keyboard.press(key)
        expect(title).to_have_text(f"Seed {seed}")
        expect(page.locator("#view-keep")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(focused).to_have_attribute("aria-label", "Seed 10")
    page.keyboard.press("Enter")
    expect(title).to_have_text("Seed 10")
    page.mouse.click(3, 3)  # beside it
    expect(page.locator("#viewer")).to_be_hidden()
    assert page.url.endswith("keep=9")


def test_an_example_walk_explains_the_page(visit: Visit) -> None:
    page = visit("#seed=1&count=2", tiles=2)
    expect(page.locator("#walk-caption")).to_have_text("Frame 1 of 24, seed 8")
    expect(page.locator("#walk-example")).to_be_visible()
    for i in (0, 1):
        page.locator("#grid .keep").nth(i).click()
    expect(page.locator("#walk-caption")).to_have_text("Frame 1 of 24, seed 1")
    expect(page.locator("#walk-example")).to_be_hidden()
    page.click("#kept-clear")
    expect(page.locator("#walk-caption")).to_have_text("Frame 1 of 24, seed 8")


def test_where_the_clipboard_is_closed_the_command_is_shown(visit: Visit) -> None:
    page = visit("#seed=1&count=1", tiles=1)
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }")
    page.click("#draw-curl")
    expect(page.locator("#copy-text")).to_be_focused()
    assert page.input_value("#copy-text").startswith("curl -X POST 'http://127.0.0.1:")
    page.keyboard.press("Escape")
    expect(page.locator("#copy-dialog")).to_be_hidden()


def test_bad_numbers_are_named_and_the_pictures_stay(visit: Visit) -> None:
    page = visit("#seed=1&count=2", tiles=2)
    problem = page.locator("#draw-problem")
    for field, typed, allowed in (
        ("seed", "-4", f"0 to {LARGEST}"),
        ("seed", str(LARGEST + 1), f"0 to {LARGEST}"),
        ("seed", "1e3", f"0 to {LARGEST}"),
        ("count", "0", "1 to 256"),
        ("count", "257", "1 to 256"),
        ("columns", "1.5", "1 to 256"),
    ):
        draw(page, **{"seed": "1", "count": "2", "columns": "", field: typed})
        expect(problem).to_contain_text(f"Seen{typed}Alloweda whole number from ")
        expect(problem).to_contain_text(allowed)
        expect(page.locator(f"#{field}")).to_be_focused()
        expect(page.locator("[aria-invalid=true]")).to_have_id(field)
        wait_for_tiles(page, 2)
    draw(page, seed="1", count="3", columns="")
    wait_for_tiles(page, 3)
    expect(problem).to_be_hidden()
    expect(page.locator("[aria-invalid=true]")).to_have_count(0)


def test_a_refusal_of_the_server_is_shown_in_its_words(visit: Visit) -> None:
    page = visit(f"#seed={LARGEST}&count=2")  # each number is allowed, both together are not
    problem = page.locator("#draw-problem")
    expect(problem).to_contain_text("A field has a value that is not allowed")
    expect(problem).to_contain_text(str(LARGEST))
    expect(problem).to_contain_text("with num_images 2")
    expect(page.locator("#seed")).to_be_focused()
    expect(page.locator("#grid .open")).to_have_count(0)


def test_without_the_description_the_server_judges(visit: Visit, server: Server) -> None:
    with gallery(replace(server.ports, management=Ports.free().management)) as address:
        page = visit("#seed=1&count=2", address)
        wait_for_tiles(page, 2)
        expect(page.locator("#facts")).not_to_contain_text("px")
        draw(page, seed="many")
        expect(page.locator("#draw-problem")).to_contain_text("'many'")
        expect(page.locator("#draw-problem")).to_contain_text(f"an integer 0 to {LARGEST}")
        page.close()  # before what serves it, which would reset what is on its way


def test_a_model_server_that_is_gone(visit: Visit) -> None:
    with gallery(Ports.free()) as address:
        page = visit("#seed=1&count=2&keep=1,2", address)
        expect(page.locator("#problem")).to_contain_text("The model server does not answer")
        page.wait_for_load_state("networkidle")  # the shelf and the walk have failed too
        expect(page.locator(".problem:visible")).to_have_count(1)  # one error is told once
        expect(page.locator("#status")).to_have_text("")
        page.close()


def test_a_page_whose_server_is_gone(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    with gallery(server.ports) as address:
        page = context.new_page()
        page.goto(f"{address}#seed=1&count=2")
        wait_for_tiles(page, 2)
    draw(page, count="3")
    expect(page.locator("#problem")).to_contain_text("The server cannot be reached")
    expect(page.locator("#grid .open")).to_have_count(2)
    context.close()


def test_an_address_that_makes_no_sense(visit: Visit) -> None:
    page = visit(
        "#seed=%3Cimg src=x onerror=alert(1)%3E&count=2&keep=1,-2,abc,99999999999999999&frame=x"
        "&a=5&view=none&method=none&steps=%22&nothing=1&toString=1&__proto__=2&constructor=3"
    )
    expect(page.locator("#draw-problem")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(page.locator("#shelf button")).to_have_count(1)
    expect(page.locator("#walk-problem")).to_contain_text("walk.steps")


def test_only_what_the_page_asks_for_is_passed_on(gallery_url: str) -> None:
    root = gallery_url.removesuffix(PATH)
    for method, path, status in (
        ("GET", "/", 302),
        ("GET", "/gallery/serve.py", 404),
        ("GET", "/gallery/../serve.py", 404),
        ("GET", "/models/", 404),
        ("GET", "/models/dcgan/1.0", 404),
        ("GET", "/models", 404),
        ("PUT", "/models/dcgan?min_worker=0", 405),
        ("DELETE", "/models/dcgan", 405),
        ("GET", "/predictions/dcgan", 405),
        ("GET", "/models/dcgan", 200),
    ):
        prepared = requests.Request(method, root).prepare()
        prepared.url = root + path  # requests would tidy the dots up
        with requests.Session() as session:
            reply = session.send(prepared, allow_redirects=False, timeout=10)
        assert reply.status_code == status, (method, path)
        assert json.loads(reply.text)[0]["modelName"] == "dcgan" if status == 200 else True
