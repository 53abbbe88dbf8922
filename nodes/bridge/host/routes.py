"""What the front end may ask the server: which names a concept file brings, before anything has run."""

from __future__ import annotations

import asyncio
import sys

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.formats.peek import names_in_file
from .files import resolve_concept_file

NAMES = "/mixofshow/names"


def add_routes() -> None:
    """Adds our addresses to the running server; does nothing in a host without one (tests, the command line)."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and not any(getattr(route, "path", "") == NAMES for route in server.routes):
        server.routes.get(NAMES)(answer_names)


async def answer_names(request):
    """{"names": [...]} of the file in `?file=`, spelt as in Load Concept's list; null where only a run can tell."""
    from aiohttp import web  # the host's own

    try:
        path = resolve_concept_file(request.query.get("file", ""))
    except MixOfShowError as error:
        return web.json_response({"names": None, "why": str(error)})
    names = await asyncio.to_thread(names_in_file, path)
    return web.json_response({"names": None if names is None else list(names)})
