"""What the front end may ask the server: which names a concept file brings, before anything has run."""

from __future__ import annotations

import asyncio

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.formats.community import thumbnail_bytes, thumbnail_of
from ....mixofshow_core.formats.native import read_metadata
from ....mixofshow_core.formats.peek import names_in_file
from ....mixofshow_core.formats.side_files import picture_of, side_facts
from .files import list_concept_files, resolve_concept_file
from .show import host_server

NAMES, FACTS, FILES, PICTURE = (f"/mixofshow/{what}" for what in ("names", "facts", "files", "picture"))


def add_routes() -> None:
    """Adds our addresses to the running server; does nothing in a host without one (tests, the command line)."""
    server = host_server()
    if server is not None and not any(getattr(route, "path", "") == NAMES for route in server.routes):
        for address, answer in (
            (NAMES, answer_names),
            (FACTS, answer_facts),
            (FILES, answer_files),
            (PICTURE, answer_picture),
        ):
            server.routes.get(address)(answer)


async def answer_names(request):
    """{"names": [...]} of the file in `?file=`, spelt as in Load Concept's list; null where only a run can tell."""
    from aiohttp import web  # the host's own

    try:
        path = resolve_concept_file(request.query.get("file", ""))
    except MixOfShowError as error:
        return web.json_response({"names": None, "why": str(error)})
    names = await asyncio.to_thread(names_in_file, path)
    return web.json_response({"names": None if names is None else list(names)})


async def answer_facts(request):
    """What Cast shows of the file in `?file=`: names, what calls it, suggestions, whether a picture lies beside it."""
    from aiohttp import web

    try:
        path = resolve_concept_file(request.query.get("file", ""))
    except MixOfShowError:
        return web.json_response(
            {"names": None, "trigger": "", "source": "", "suggestions": [], "picture": False, "missing": True}
        )

    def look() -> dict:
        metadata = read_metadata(path)
        names, facts = names_in_file(path), side_facts(path, metadata)
        return {
            "names": None if names is None else list(names),
            "trigger": facts.trigger,
            "source": facts.source,
            "suggestions": list(facts.suggestions),
            "picture": facts.picture is not None or bool(thumbnail_of(metadata)),
            "missing": False,
        }

    return web.json_response(await asyncio.to_thread(look))


async def answer_files(_):
    """All files that Load Concept lists."""
    from aiohttp import web

    return web.json_response(await asyncio.to_thread(list_concept_files))


async def answer_picture(request):
    """The preview beside the file in `?file=`, or the one in its header; nothing else is ever sent."""
    from aiohttp import web

    try:
        path = resolve_concept_file(request.query.get("file", ""))
    except MixOfShowError:
        return web.Response(status=404)
    if (beside := picture_of(path)) is not None:
        return web.FileResponse(beside)
    metadata = await asyncio.to_thread(read_metadata, path)
    kind = thumbnail_of(metadata).partition(";")[0].removeprefix("data:")
    data = thumbnail_bytes(metadata)
    return web.Response(body=data, content_type=kind) if data else web.Response(status=404)
