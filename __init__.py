"""Mix-of-Show for ComfyUI: train concepts, fuse them, place them by region."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
