"""Random requests, by hypothesis: good ones, some wrong in a field, and anything at all."""

import base64
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from handler.latents import MAX_SEED
from handler.settings import NO_DIRECTIONS, Directions

Body = dict[str, Any]
FIELDS = [
    "seed", "seeds", "num_images", "noise", "walk", "mix", "truncation", "edit", "columns",
    "padding", "background", "format",
]  # fmt: skip
dictionary = st.fixed_dictionaries
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def to_base64(rows: list[list[float]]) -> str:
    return base64.b64encode(np.array(rows, "<f4").tobytes()).decode("ascii")


@dataclass(frozen=True)
class RandomRequests:
    """Requests to a server of latents of ``nz`` numbers that gives up to ``most`` images.

    Its directions are edited by less than 1, if it has any.
    """

    nz: int
    most: int
    directions: Directions = NO_DIRECTIONS

    def rows(self, least: int = -4) -> st.SearchStrategy[Any]:
        numbers = st.floats(least, 4, width=32) | st.floats(least, 4) | st.integers(least, 4)
        return st.lists(numbers, min_size=self.nz, max_size=self.nz)

    def few(self, one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(one, min_size=1, max_size=self.most)

    @property
    def sources(self) -> dict[str, st.SearchStrategy[Any]]:
        """Good values of the fields that say where latents come from; their images are known."""
        seeds = st.integers(0, MAX_SEED - self.most) | st.integers(0, 9).map(str)
        noise = self.few(self.rows()) | self.rows() | self.few(self.rows()).map(to_base64)
        weights = st.floats(-2, 2) | st.integers(-2, 2)
        terms = st.one_of(
            dictionary({"weight": weights, "seeds": self.few(seeds)}),
            dictionary({"weight": weights, "noise": noise}),
        )

        def walk(row: st.SearchStrategy[Any], *methods: str | None) -> st.SearchStrategy[Any]:
            keys = st.lists(seeds | row, min_size=2, max_size=3)
            method = st.sampled_from(methods)
            return dictionary(
                {"between": keys, "steps": st.integers(3, self.most), "method": method},
                optional={"closed": st.booleans() | st.none()},
            )

        return {
            "seed": seeds,
            "num_images": st.integers(1, self.most),
            "seeds": self.few(seeds),
            "noise": noise,
            # Between opposite latents the arc may swing out beyond the largest one.
            "walk": walk(self.rows(least=0), "slerp", None) | walk(self.rows(), "linear"),
            "mix": st.lists(terms, min_size=1, max_size=4),
        }

    @property
    def bodies(self) -> st.SearchStrategy[Body]:
        """Good ones; each has a source, so that it draws the same twice."""
        values = self.sources
        source = st.one_of(
            dictionary({"seed": values["seed"]}, optional={"num_images": values["num_images"]}),
            *(dictionary({name: values[name]}) for name in ("seeds", "noise", "walk", "mix")),
        )
        strengths = {name: st.floats(-1, 1) | st.none() for name in self.directions.named}
        layout = dictionary({}, optional={
            "truncation": st.floats(0, 1, exclude_min=True) | st.none(),
            "edit": dictionary({}, optional=strengths) | st.none(),
            "columns": st.integers(1, self.most) | st.none(),
            "padding": st.integers(0, 3) | st.none(),
            "background": st.from_regex("#[0-9a-fA-F]{6}", fullmatch=True) | st.none(),
            "format": st.sampled_from(["png", "json", "npy", None, "webp", "apng", "gif"])
            | dictionary({"type": st.sampled_from(["webp", "apng", "gif"])}, optional={
                "fps": st.floats(0.1, 50) | st.none(),
                "loop": st.integers(0, 65_535) | st.none(),
            }),
        })  # fmt: skip
        return st.builds(lambda a, b: {**a, **b}, source, layout)

    @property
    def doubtful(self) -> st.SearchStrategy[Body]:
        """Good ones in which one field is replaced, mostly by what is wrong there."""
        values = json_values | st.one_of(*self.sources.values())
        replaced = st.tuples(st.sampled_from(FIELDS), values)
        return st.builds(lambda body, one: {**body, one[0]: one[1]}, self.bodies, replaced)

    @property
    def raws(self) -> st.SearchStrategy[Body]:
        """Good calls, in the ways that TorchServe hands them over, KServe's list among them."""
        half = replace(self, most=self.most // 2)  # two of them keep to the limit together
        instances = st.lists(half.bodies, min_size=1, max_size=2).map(
            lambda found: {"instances": [{**one, "format": "json"} for one in found]}
        )
        return st.one_of(
            instances.map(lambda value: {"body": value}),
            self.bodies.map(lambda value: {"body": value}),
            self.bodies.map(lambda value: {"body": bytearray(json.dumps(value), "ascii")}),
        )

    @property
    def anything(self) -> st.SearchStrategy[Body]:
        """Mostly bad calls."""
        names = st.sampled_from([*FIELDS, "instances", "x"])
        return st.one_of(
            json_values.map(lambda value: {"body": value}),
            st.binary(max_size=40).map(lambda value: {"body": bytearray(value)}),
            st.dictionaries(names, json_values, max_size=3).map(lambda value: {"body": value}),
            st.dictionaries(st.text(max_size=9), st.binary(max_size=9), max_size=3),
            st.dictionaries(names, st.binary(max_size=9) | st.text(), max_size=2),
            self.doubtful.map(lambda value: {"body": json.dumps(value).encode()}),
            st.lists(self.doubtful | json_values, max_size=3).map(
                lambda value: {"body": {"instances": value}}
            ),
        )
