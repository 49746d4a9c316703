"""For those who know Locust: ``locust -f benchmarks/locustfile.py --host http://127.0.0.1:8080``.

Users who look at what they got before they ask again: a closed loop. When the server is slow
they ask less, so its percentiles are better than those of benchmarks.load, which is the tool
for the question how long users wait.
"""

from __future__ import annotations

import random

from locust import FastHttpUser, between, task

PATH = "/predictions/dcgan"


class Visitor(FastHttpUser):
    """Three single images to each grid of 64, with half a second to a second in between."""

    wait_time = between(0.5, 1.0)

    @task(3)
    def image(self) -> None:
        """One image of a seed of its own."""
        self.client.post(PATH, json={"seed": random.randrange(2**52)}, name="image")

    @task(1)
    def grid(self) -> None:
        """A grid of 64."""
        body = {"seed": random.randrange(2**52), "num_images": 64}
        self.client.post(PATH, json=body, name="grid")
