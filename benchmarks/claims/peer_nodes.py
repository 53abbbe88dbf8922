"""Nodes of the bench's own host, never of the pack: a peer's method, concepts cut to rank 1, memory counted anew.

The bench links this one file into its host's custom_nodes; the host runs it by path.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import time
from dataclasses import replace
from pathlib import Path

import torch


def load_peers():
    """benchmarks/cost/peers.py, wherever this file is linked from."""
    path = Path(__file__).resolve().parents[1] / "cost" / "peers.py"
    spec = importlib.util.spec_from_file_location("claims_peers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class AttentionCouple:
    """Two or three texts under masks, by attention couple: the first text is what is sampled."""

    RETURN_TYPES = ("MODEL", "CONDITIONING")
    FUNCTION = "couple"
    CATEGORY = "claims"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  the host's name
        pair = {f"text{n}": ("CONDITIONING",) for n in (1, 2, 3)} | {f"mask{n}": ("MASK",) for n in (1, 2, 3)}
        return {
            "required": {"model": ("MODEL",), "text1": pair["text1"], "mask1": pair["mask1"]},
            "optional": {key: pair[key] for key in ("text2", "mask2", "text3", "mask3")},
        }

    def couple(self, model, text1, mask1, **others):
        numbers = [n for n in (2, 3) if f"text{n}" in others]
        masks = torch.cat([mask1, *(others[f"mask{n}"] for n in numbers)])
        texts = [others[f"text{n}"][0][0] for n in numbers]
        return load_peers().attention_couple(model, masks, texts), text1


class RankOne:
    """Every concept with each of its low-rank changes cut to the best one of rank 1."""

    RETURN_TYPES = ("MIXOFSHOW_CONCEPTS",)
    FUNCTION = "cut"
    CATEGORY = "claims"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802
        return {"required": {"concepts": ("MIXOFSHOW_CONCEPTS",)}}

    def cut(self, concepts):
        return (
            tuple(
                replace(
                    use,
                    concept=replace(
                        use.concept,
                        deltas={
                            name: cut_to_rank_one(delta) if hasattr(delta, "down") else delta
                            for name, delta in use.concept.deltas.items()
                        },
                    ),
                )
                for use in concepts
            ),
        )


def cut_to_rank_one(delta):
    """The best rank-1 approximation of a LoRA's product, in the same type and at the same scale."""
    left, small = torch.linalg.qr(delta.up.double())
    u, s, v = torch.linalg.svd(small @ delta.down.double(), full_matrices=False)
    up, down = (left @ u[:, :1]) * s[0] * delta.scale, v[:1]
    return type(delta)(up.to(delta.up.dtype), down.to(delta.down.dtype), None)


class FreshMemory:
    """Gives freed memory back to the system and starts the process's peak anew (Linux)."""

    RETURN_TYPES = ()
    FUNCTION = "freshen"
    CATEGORY = "claims"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls) -> float:  # noqa: N802
        return time.time()

    def freshen(self):
        gc.collect()
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass
        return ()


NODE_CLASS_MAPPINGS = {
    "ClaimsAttentionCouple": AttentionCouple,
    "ClaimsFreshMemory": FreshMemory,
    "ClaimsRankOne": RankOne,
}
