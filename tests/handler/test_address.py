"""Addresses: the same fields and errors as a POST, and what caches are told."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler import replies
from handler.address import is_among, seed_of
from handler.body import parse
from handler.latents import MAX_SEED
from handler.replies import Renderer, Reply
from handler.service import Service
from handler.settings import NO_DIRECTIONS, Directions, Limits
from handler.wire import Headers
from tests.support.directions import directions
from tests.support.fake_service import CARD, NZ, Fake, one

SERVED = CARD.weights_sha256[:8]
SERVICE = Service(Fake(), CARD, Limits())
ALICE = 1542618457563584


def get(address: str, service: Service = SERVICE, **headers: str) -> Reply:
    """As a proxy asks, with headers by their names in Python."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    (reply,) = service.handle(
        [{"body": bytearray()}], [Headers({"X-Picture-Address": address, **named})]
    )
    return reply


def at(path: str) -> Reply:
    """As TorchServe hands over what follows /predictions/dcgan/1.0/."""
    (reply,) = SERVICE.handle([{"body": bytearray()}], [Headers({"url_path": path})])
    return reply


def refused(address: str, **headers: str) -> dict[str, Any]:
    reply = get(address, **headers)
    document: dict[str, Any] = json.loads(reply.body)
    assert reply.status == document["status"]
    assert not reply.headers
    return document


@pytest.mark.parametrize(
    ("address", "fields"),
    [
        ("/seed/42.png", {"seed": 42}),
        ("/seed/42.json", {"seed": 42, "format": "json"}),
        ("/seed/42.npy?num_images=3", {"seed": 42, "num_images": 3, "format": "npy"}),
        ("/seeds/1-5.png", {"seed": 1, "num_images": 5}),
        ("/seeds/7.json", {"seeds": [7], "format": "json"}),
        ("/seeds/1,5,9.png?columns=3", {"seeds": [1, 5, 9], "columns": 3}),
        ("/seeds/9,1-3,2.png", {"seeds": [9, 1, 2, 3, 2]}),
        ("/walk/1-7-42.png?steps=5", {"walk": {"between": [1, 7, 42], "steps": 5}}),
        ("/seeds/1-3.apng", {"seed": 1, "num_images": 3, "format": "apng"}),
        (
            "/walk/1-7.webp?steps=5&closed=true&fps=20&loop=1",
            {
                "walk": {"between": [1, 7], "steps": 5, "closed": True},
                "format": {"type": "webp", "fps": 20, "loop": 1},
            },
        ),
        ("/seed/1.gif?format.fps=5", {"seed": 1, "format": {"type": "gif", "fps": 5}}),
        (
            "/walk/1-7.png?walk.steps=5&method=linear",
            {"walk": {"between": [1, 7], "steps": 5, "method": "linear"}},
        ),
        ("/name/alice.png", {"seed": ALICE}),
        ("/name/%61lice.png", {"seed": ALICE}),
        ("/name/e%CC%81.png", {"seed": 2624717593249400}),  # NFC makes one character of the two
        ("/name/%C3%A9.png", {"seed": 2624717593249400}),
        ("/name/a%2Fb.png", {"seed": 6801148225158857}),
        (
            "/seeds/1-6.png?columns=3&padding=0&background=%23203040",
            {"seed": 1, "num_images": 6, "columns": 3, "padding": 0, "background": "#203040"},
        ),
        ("/seed/1.png?padding=null", {"seed": 1}),
        (f"/v/{SERVED}/seeds/1-5.png", {"seed": 1, "num_images": 5}),
        ('/random.png?mix=[{"weight":1,"seeds":[3]}]', {"mix": [{"weight": 1, "seeds": [3]}]}),
    ],
)
def test_an_address_is_a_post(address: str, fields: dict[str, Any]) -> None:
    reply, posted = get(address), one(SERVICE, fields)
    assert posted.status == 200, posted.body
    assert (reply.status, reply.content_type) == (200, posted.content_type), reply.body
    assert reply.body == posted.body
    caching = {"ETag", "CDN-Cache-Control", "X-Accel-Expires"}
    assert {k: v for k, v in reply.headers.items() if k not in caching} == posted.headers


@pytest.mark.parametrize(
    ("address", "fields"),
    [
        ("/seed/x.json", {"seed": "x", "format": "json"}),
        ("/seeds/1-9999.png", {"seed": 1, "num_images": 9999}),
        ("/walk/1-x.png", {"walk": {"between": [1, "x"]}}),
        ("/seed/1.gif?fps=80", {"seed": 1, "format": {"type": "gif", "fps": 80}}),
        ("/name/alice.png?column=8", {"seed": ALICE, "column": 8}),
    ],
)
def test_a_mistake_in_an_address_is_that_of_a_post(address: str, fields: dict[str, Any]) -> None:
    reply, posted = get(address), one(SERVICE, fields)
    assert posted.status in (400, 413)
    assert (reply.status, reply.body) == (posted.status, posted.body)


@pytest.mark.parametrize("path", ["seed/42.png", f"v/{SERVED}/name/é/100%.png", "name/a?b.png"])
def test_torchserves_own_path_is_decoded_already(path: str) -> None:
    assert at(path).status == 200
    assert at(path).headers == get("/" + quote(path)).headers
    assert at(path).body == get("/" + quote(path)).body


def test_a_request_without_an_address_is_no_address() -> None:
    assert "ETag" not in one(SERVICE, {"seed": 1}, {"url_path": ""}).headers


@pytest.mark.parametrize(
    ("address", "slug", "field"),
    [
        ("/seed/x.png", "invalid-field", "seed"),
        (f"/seed/{MAX_SEED + 1}.png", "invalid-field", "seed"),
        ("/seed/1.jpg", "invalid-field", "format"),
        ("/seed/1.png?column=8", "unknown-field", "column"),
        ("/seed/1.png?steps=8", "unknown-field", "steps"),
        ("/seed/1.png?fps=8", "unknown-field", "fps"),
        ("/seed/1.gif?type=webp", "conflicting-fields", "format.type"),
        ("/seed/1.png?seed=2", "conflicting-fields", "seed"),
        ("/seed/1.png?seeds=[2]", "conflicting-fields", "seeds"),
        ("/seed/1.png?columns=2&columns=2", "conflicting-fields", "columns"),
        ("/seed/1.png?columns.x=2&columns=2", "conflicting-fields", "columns"),
        ("/seed/1.png?format=json", "conflicting-fields", "format"),
        ("/seed/1.png?walk.steps=2", "conflicting-fields", "walk"),
        ("/seeds/5-1.png", "invalid-field", "seeds"),
        ("/seeds/1,,2.png", "invalid-field", "seeds"),
        ("/seeds/0,1-9007199254740991.png", "too-large", "seeds"),
        ("/walk/1-7.png", "invalid-field", "walk.steps"),
        ("/walk/1.png?steps=3", "invalid-field", "walk.between"),
        ("/walk/1--7.png?steps=3", "invalid-field", "walk.between[1]"),
        ("/walk/1-7.png?steps=3&walk.steps=3", "conflicting-fields", "walk.steps"),
        ("/walk/1-7.png?steps=3&walk.speed=3", "unknown-field", "walk.speed"),
        ('/random.png?instances=[{"seed":1}]', "conflicting-fields", "format"),
        ("/", "not-found", None),
        ("/seed/1", "not-found", None),
        ("/seed/.png", "not-found", None),
        ("/name/.png", "not-found", None),
        ("/random", "not-found", None),
        ("/noise/1.png", "not-found", None),
        ("//seed/1.png", "not-found", None),
        ("/x/../seed/1.png", "not-found", None),
        ("/seed/1.png#x", "not-found", None),
        ("/v/seed/1.png", "not-found", None),
        ("/v//seed/1.png", "not-found", "v"),
        (f"/v/{SERVED.upper()}/seed/1.png", "not-found", "v"),
        ("/v/24275f3d/seed/1.png", "not-found", "v"),
        (f"/v/{SERVED}-/seed/1.png", "not-found", "v"),
        (f"/v/{SERVED}-{SERVED}/seed/1.png", "not-found", "v"),
        ("/name/%zz.png", "invalid-address", None),
        ("/name/%ff.png", "invalid-address", None),
        ("/name/é.png", "invalid-address", None),
        ("/seed/1.png?columns", "invalid-address", None),
        ("/seed/1.png?&&", "invalid-address", None),
        ("/seed/1.png?columns=%ff", "invalid-address", None),
    ],
)
def test_what_is_wrong_with_an_address(address: str, slug: str, field: str | None) -> None:
    document = refused(address)
    assert document["type"] == f"urn:dcgan:problem:{slug}"
    assert document.get("field") == field


def test_a_wrong_version_names_the_one_served() -> None:
    assert refused("/v/24275f3d/seed/1.png")["allowed"] == SERVED


def test_an_address_takes_no_body() -> None:
    reply = one(SERVICE, {"seed": 1}, {"X-Picture-Address": "/seed/1.png"})
    assert reply.kind == "conflicting-fields"


hostile = st.one_of(
    st.text(),
    st.text(st.sampled_from("/.-,?&=%#+v0129afseedkwl\r\n\0é")),
    st.lists(
        st.sampled_from(
            ["/", "seed", "seeds", "walk", "name", "random", "v", SERVED, "..", ".", ".png", "1",
             "-", ",", "%2F", "%2e%2e", "%00", "%0d%0a", "%", "?", "&", "=", "columns", "steps",
             "edit.x", "[", "{", "9" * 17, "é", "\r\nX-Injected: 1"]
        ),
        max_size=12,
    ).map("".join),
)  # fmt: skip


@given(hostile, st.booleans())
@example("/name/%0D%0AX-Injected:%201.png", False)
@example("/name/%00.png", False)
@example("/name/" + "%F0%9F%98%80" * 2000 + ".png", False)
@example("/seeds/" + "1," * 4000 + ".png", False)
@example("/walk/" + "1-" * 4000 + ".png?steps=3", False)
@example("/seed/1.png?" + "a." * 4000 + "=1", False)
@example("/seed/1.png?columns=" + "[" * 8000, False)
@example("." * 8000 + "!", True)
def test_nothing_of_an_address_reaches_a_header(address: str, decoded: bool) -> None:
    reply = at(address) if decoded else get(address)
    assert reply.status in (200, 400, 404, 413)
    for name, value in reply.headers.items():
        assert name.startswith(("X-", "ETag", "CDN-Cache-Control"))
        assert value.isascii()
        assert value.isprintable()
        assert len(value) < 1000


@given(st.text(min_size=1))
def test_every_name_has_a_picture(name: str) -> None:
    reply = get(f"/name/{quote(name, safe='')}.png")
    assert reply.headers["X-Seed"] == str(seed_of(name))
    assert 0 <= seed_of(name) <= MAX_SEED


def test_what_caches_are_told() -> None:
    some_minutes, a_year = get("/seed/1.png").headers, get(f"/v/{SERVED}/seed/1.png").headers
    assert some_minutes["CDN-Cache-Control"] == "public, max-age=300"
    assert some_minutes["X-Accel-Expires"] == "5"
    assert a_year["CDN-Cache-Control"] == "public, max-age=31536000, immutable"
    assert a_year["X-Accel-Expires"] == "31536000"
    assert some_minutes["ETag"] == a_year["ETag"]


def edited_service(found: Directions) -> Service:
    return Service(Fake(), CARD, Limits(), directions=found)


@pytest.mark.parametrize("query", ["edit.copy=1", "edit=%7B%22copy%22:1%7D", "truncation=1"])
def test_an_edit_is_for_ever_where_the_version_is_of_the_directions_too(query: str) -> None:
    found = directions(NZ)
    service, both = edited_service(found), f"{SERVED}-{found.sha256[:8]}"
    kept = {
        version: get(f"{version}/seed/1.png?{query}", service).headers["CDN-Cache-Control"]
        for version in ("", f"/v/{SERVED}", f"/v/{both}")
    }
    assert ("immutable" in kept[f"/v/{SERVED}"]) == ("edit" not in query)
    assert "immutable" in kept[f"/v/{both}"]
    assert "immutable" not in kept[""]


def with_another_step() -> Directions:
    named = dict(directions(NZ).named)
    named["copy"] = named["copy"].model_copy(update={"step": [0.7] * NZ})
    return Directions(named)


@pytest.mark.parametrize("after", [with_another_step(), directions(NZ, "copy"), NO_DIRECTIONS])
def test_no_version_outlives_its_directions(after: Directions) -> None:
    before = directions(NZ)
    old, new = edited_service(before), edited_service(after)
    told = get("/seed/1.png", old).headers
    both = f"{told['X-Weights-SHA256'][:8]}-{told['X-Directions-SHA256'][:8]}"
    for path in ("/seed/1.png", "/seed/1.png?edit.copy=1", "/seed/1.png?edit=null"):
        assert get(f"/v/{both}{path}", old).status == 200
        refusal = get(f"/v/{both}{path}", new)
        assert refusal.status == 404
        assert json.loads(refusal.body)["allowed"] == f"{SERVED}-{after.sha256[:8]}"
    # The weights are the same, and so is what depends on them alone.
    assert get(f"/v/{SERVED}/seed/1.png", new).body == get(f"/v/{SERVED}/seed/1.png", old).body


def test_the_header_of_directions_is_there_where_there_are_any() -> None:
    assert "X-Directions-SHA256" not in get("/seed/1.png").headers


@pytest.mark.parametrize(
    "address", ["/random.png", "/random.json?num_images=2", "/random.png?seed=null"]
)
def test_a_random_picture_is_not_kept(address: str) -> None:
    reply = get(address, If_None_Match="*")
    assert reply.status == 200
    assert reply.headers["CDN-Cache-Control"] == "no-store"
    assert reply.headers["X-Accel-Expires"] == "0"
    assert "ETag" not in reply.headers


def test_a_copy_that_is_good_costs_no_forward_pass() -> None:
    fake = Fake()
    service = Service(fake, CARD, Limits())
    first = get("/seeds/1-5.png", service)
    calls = fake.calls
    reply = get("/seeds/1-5.png", service, If_None_Match=first.headers["ETag"])
    assert (reply.status, reply.body, fake.calls) == (304, b"", calls)
    assert reply.content_type == "image/png"
    names = ("ETag", "CDN-Cache-Control")
    assert reply.headers == {name: first.headers[name] for name in names}
    assert get("/seeds/1-5.png", service, If_None_Match='"other"').body == first.body
    assert fake.calls > calls


TAG = '"0123456789abcdef"'


@pytest.mark.parametrize(
    ("header", "good"),
    [
        ("", False), (TAG, True), (f"W/{TAG}", True), ("*", True), (" * ", True),
        (f'"a", W/"b,c" , {TAG}', True), (f'"a",{TAG},"b"', True), ('"a"', False),
        (TAG[1:-1], False), (TAG.upper(), False), (f'"{TAG}', False), ('"*"', False),
    ],
)  # fmt: skip
def test_if_none_match(header: str, good: bool) -> None:
    assert is_among(TAG, header) is good


def test_the_tag_is_of_the_picture_and_not_of_how_it_was_asked_for() -> None:
    same = ["/seed/7.png", "/seed/007.png?columns=5", "/seed/7.png?background=%23FFFFFF"]
    assert len({get(address).headers["ETag"] for address in same}) == 1
    others = [
        "/seed/8.png", "/seed/7.json", "/seed/7.npy", "/seeds/7.json", "/seeds/7-8.png",
        "/seed/7.webp", "/seed/7.gif", "/seed/7.gif?fps=2", "/seed/7.gif?loop=2", "/seed/7.apng",
        "/walk/7-8.png?steps=2&closed=true", "/seed/7.png?padding=1",
        "/walk/7-8.png?steps=2", "/walk/7-8.png?steps=2&method=linear",
    ]  # fmt: skip
    tags = [get(address).headers["ETag"] for address in [same[0], *others]]
    assert len(set(tags)) == len(tags)


def test_the_tag_changes_with_whatever_may_change_the_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (item,) = parse({"body": {"seed": 1}}, NZ, Limits()).items
    other, narrow = Fake(), Fake()
    other.name, narrow.precision = "other", "bfloat16"
    renderers = [
        Renderer(CARD, Fake(), True), Renderer(CARD, Fake(), False),
        Renderer(CARD, other, True), Renderer(CARD, narrow, True),
        *(Renderer(CARD.model_copy(update=changed), Fake(), True)
          for changed in ({"weights_sha256": "cd" * 32}, {"version": "2"})),
        Renderer(CARD, Fake(), True, directions=directions(NZ)),
        Renderer(CARD, Fake(), True, directions=directions(NZ, "copy")),
    ]  # fmt: skip
    for name in ("processor_name", "versions", "_code_sha256"):
        with monkeypatch.context() as patch:
            patch.setattr(replies, name, lambda *_: "another")
            renderers.append(Renderer(CARD, Fake(), True))
    tags = [renderer.etag(item) for renderer in renderers]
    assert len(set(tags)) == len(tags)
    assert Renderer(CARD, Fake(), True).etag(item) == tags[0]
