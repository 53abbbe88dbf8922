"""What a front end hears while a graph runs: words on nodes and our own events, by the host's socket."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp

TEXT_EVENT = 3  # the host's BinaryEventTypes.TEXT


@dataclass
class Heard:
    """lines: (node id, words) of the host's progress texts; events: (type, data) of its JSON messages, in order."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    events: list[tuple[str, dict]] = field(default_factory=list)

    def words(self, node: str) -> list[str]:
        return [text for key, text in self.lines if key == node]

    def said(self, node: str) -> list[dict]:
        return [data for kind, data in self.events if kind == "mixofshow_said" and data["node"] == node]

    def take(self, message: aiohttp.WSMessage) -> None:
        if message.type is aiohttp.WSMsgType.TEXT:
            found = json.loads(message.data)
            self.events.append((found["type"], found.get("data", {})))
        elif message.type is aiohttp.WSMsgType.BINARY:
            event, length = struct.unpack(">II", message.data[:8])
            if event == TEXT_EVENT:
                self.lines.append((message.data[8 : 8 + length].decode(), message.data[8 + length :].decode()))


@contextmanager
def listening(server) -> Iterator[Heard]:
    """Listen as the client whose graphs `server` queues."""
    heard, ready, ended = Heard(), threading.Event(), threading.Event()

    async def listen() -> None:
        url = f"{server.url.replace('http', 'ws')}/ws?clientId={server.client_id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            ready.set()
            while not ended.is_set():
                try:
                    heard.take(await socket.receive(timeout=0.1))
                except (asyncio.TimeoutError, TimeoutError):
                    continue

    thread = threading.Thread(target=lambda: asyncio.run(listen()), daemon=True)
    thread.start()
    assert ready.wait(20), "the server's socket does not open"
    try:
        yield heard
    finally:
        threading.Event().wait(0.5)  # what was sent last is still on its way
        ended.set()
        thread.join(10)
