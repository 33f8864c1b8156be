"""Very many clients of one server, of whom some leave whenever they like; what became of each request."""

from __future__ import annotations

import asyncio
import collections
import json
import random
from dataclasses import dataclass, field
from typing import Any

import httpx

CHAT = "/chat/completions"
MANNERS = {"whole": 35, "stream": 25, "leave a stream": 12, "hang up": 12, "half a body": 6, "wrong": 5, "json": 5}
"""How a request is made, and how often among a hundred."""

_SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
_JSON = {"type": "json_schema", "json_schema": {"name": "n", "schema": _SCHEMA}}


@dataclass
class Outcome:
    """What became of the requests.

    Attributes:
        made: how many of each manner.
        lost: those that got no answer, or a wrong one, though their client stayed.
        retried: how often a client was told to come again.
    """

    made: collections.Counter[str] = field(default_factory=collections.Counter)
    lost: list[str] = field(default_factory=list)
    retried: int = 0


class Storm:
    """Asks a server.

    Args:
        base: its address, with `/v1`.
        model: what it calls its model.
        pictures: `data:` addresses to ask about.
        max_tokens: of each answer.
    """

    def __init__(self, base: str, model: str, pictures: list[str], max_tokens: int = 12) -> None:
        self._base, self._model, self._pictures, self._max_tokens = base, model, pictures, max_tokens
        self._texts: list[str] = []

    async def learn(self) -> None:
        """Ask each question alone, to know the answers."""
        async with httpx.AsyncClient(timeout=120) as client:
            for number in range(2 * len(self._pictures)):
                response = await client.post(f"{self._base}{CHAT}", json=self._body(number))
                self._texts.append(response.json()["choices"][0]["message"]["content"])

    async def blow(self, n_requests: int, n_clients: int, seed: int) -> Outcome:
        """Make so many requests from so many clients at a time."""
        outcome, numbers = Outcome(), iter(range(n_requests))

        async def one_client(k: int) -> None:
            draw = random.Random(f"{seed} {k}")
            limits = httpx.Limits(max_keepalive_connections=k % 2)  # every second one opens a connection each time
            async with httpx.AsyncClient(timeout=120, limits=limits) as client:
                for _ in numbers:
                    manner = draw.choices(list(MANNERS), list(MANNERS.values()))[0]
                    outcome.made[manner] += 1
                    await self._ask(client, manner, draw, outcome)

        await asyncio.gather(*(one_client(k) for k in range(n_clients)))
        return outcome

    async def burst(self, n: int) -> collections.Counter[int]:
        """So many requests at the same moment; how often each status was answered."""
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=n)) as client:
            posts = (client.post(f"{self._base}{CHAT}", json=self._body(number)) for number in range(n))
            return collections.Counter(response.status_code for response in await asyncio.gather(*posts))

    def _body(self, number: int, **more: Any) -> dict[str, Any]:
        picture = self._pictures[number // 2 % len(self._pictures)]
        text = ("Describe this picture.", "List all objects.")[number % 2]
        parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": picture}}]
        messages = [{"role": "user", "content": parts}]
        return {"model": self._model, "messages": messages, "max_tokens": self._max_tokens, **more}

    async def _ask(self, client: httpx.AsyncClient, manner: str, draw: random.Random, outcome: Outcome) -> None:
        number = draw.randrange(len(self._texts))
        try:
            if manner == "half a body":
                await self._half_a_body(draw)
            elif manner == "hang up":
                await self._hang_up(client, number, draw)
            elif manner in ("stream", "leave a stream"):
                await self._stream(client, number, manner, outcome)
            else:
                await self._whole(client, number, manner, outcome)
        except httpx.HTTPError as error:
            outcome.lost.append(f"{manner}: {error!r}")

    async def _whole(self, client: httpx.AsyncClient, number: int, manner: str, outcome: Outcome) -> None:
        body = self._body(number)
        if manner == "wrong":
            body["messages"][0]["content"].append(
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
            )
        elif manner == "json":
            body |= {"response_format": _JSON, "n": 2, "max_tokens": 30}
        while (response := await client.post(f"{self._base}{CHAT}", json=body)).status_code == 429:
            outcome.retried += 1
            await asyncio.sleep(0.2)
        if manner == "wrong":
            is_right = response.status_code == 400
        else:
            choices = response.json().get("choices", [])
            texts = [choice["message"]["content"] for choice in choices]
            wanted = self._texts[number]
            is_right = (
                texts == [wanted] if manner == "whole" else [json.loads(t)["n"] in (1, 2) for t in texts] == [True] * 2
            )
        if not is_right:
            outcome.lost.append(f"{manner}: {response.status_code} {response.text[:200]}")

    async def _stream(self, client: httpx.AsyncClient, number: int, manner: str, outcome: Outcome) -> None:
        text, body = "", self._body(number, stream=True)
        while True:
            async with client.stream("POST", f"{self._base}{CHAT}", json=body) as response:
                if response.status_code == 429:
                    outcome.retried += 1
                    await asyncio.sleep(0.2)
                    continue
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        piece = json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
                        text += piece
                        if piece and manner == "leave a stream":
                            return
                break
        if manner == "stream" and text != self._texts[number]:
            outcome.lost.append(f"{manner}: {response.status_code} {text!r}")

    async def _hang_up(self, client: httpx.AsyncClient, number: int, draw: random.Random) -> None:
        posted = asyncio.ensure_future(client.post(f"{self._base}{CHAT}", json=self._body(number)))
        await asyncio.sleep(draw.random() * 0.2)
        posted.cancel()
        await asyncio.gather(posted, return_exceptions=True)

    async def _half_a_body(self, draw: random.Random) -> None:
        address = httpx.URL(self._base)
        _, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST /v1{CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += "Content-Length: 999\r\n\r\n"
        writer.write((head + '{"model": "' + "x" * draw.randrange(300)).encode())
        await writer.drain()
        await asyncio.sleep(draw.random() * 0.05)
        writer.close()
