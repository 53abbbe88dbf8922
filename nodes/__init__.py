"""The ComfyUI side: one file per topic, thin (schema, tooltips, call the core, show the result).

Holds no maths. Only `bridge/` may touch the host's modules; files here may import `comfy_api.latest` for schemas.
"""

from comfy_api.latest import ComfyExtension


class MixOfShowExtension(ComfyExtension):
    async def get_node_list(self) -> list[type]:
        """Every node that works, in the order of the journeys: train, load, fuse, place. Imports them only now."""
        from . import (
            cast,
            concepts,
            control,
            dataset,
            demo_model,
            evaluate,
            export,
            fuse,
            inspection,
            place,
            region_tools,
            regions,
            train,
        )

        topics = (
            demo_model,
            dataset,
            train,
            cast,
            concepts,
            fuse,
            regions,
            place,
            region_tools,
            control,
            evaluate,
            export,
            inspection,
        )
        return [node for topic in topics for node in topic.NODES]


async def comfy_entrypoint() -> ComfyExtension:
    from .bridge.host.routes import add_routes

    add_routes()
    return MixOfShowExtension()
