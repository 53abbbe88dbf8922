"""The wires of our own, and the menu category. Everything else on a wire is the host's own type."""

from comfy_api.latest import io

CATEGORY = "Mix-of-Show"

CONCEPTS = io.Custom("MIXOFSHOW_CONCEPTS")  # tuple of ConceptUse, in the order of the chain
DATASET = io.Custom("MIXOFSHOW_DATASET")
SETTINGS = io.Custom("MIXOFSHOW_SETTINGS")
REGIONS = io.Custom("MIXOFSHOW_REGIONS")  # validated regions with the canvas size
