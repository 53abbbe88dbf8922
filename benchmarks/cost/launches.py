"""What regions and routing cost in launches: operations that Python sends per UNet call, against the plain call.

    python -m benchmarks.cost.launches            SD1.5 and SDXL, half a minute

On a fast GPU a step is bound by these, not by arithmetic. They are counted with a dispatch mode on tiny random nets of
the real structure (the count does not depend on widths), CFG batch of two, 77 tokens, rank 16 on attention and where it
says so on the feed-forward layers, in the third step of a sampling, when what is constant over it has been made, with
attention as one operation as on GPUs. What launches nothing (views; reshape, to and dropout that do nothing; whatever
makes a tensor without a number, from which CUDA's functions return at once) is counted apart. No GPU and no clock is
needed: the ratios are held by tests/host/placing/test_launches.py.
"""

import argparse
from collections import Counter
from contextlib import contextmanager

from .regional import Scene
from .start import start

CHANNELS, LATENT = 32, 32  # eight columns are whole tokens at every level but SD1.5's deepest
VARIANTS = {
    "regions 1": (1, {}),
    "regions 2": (2, {}),
    "regions 8": (8, {}),
    "layered regions 2": (2, {"layered": True}),
    "routed 2": (2, {"routed": True}),
    "routed 4": (4, {"routed": True}),
    "routed 2, feed-forward": (2, {"routed": True, "feed_forward": True}),
    "routed 4, feed-forward": (4, {"routed": True, "feed_forward": True}),
}
BY_WORDS = {"by words 2": 2, "by words 4": 4}


@contextmanager
def counting(net, found: list):
    """While open, every call of `net` appends (operations by name, number of those that launch nothing)."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    def storages(values) -> set[int]:
        return {leaf.untyped_storage()._cdata for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}

    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: Counter = Counter()
            self.views = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            name = function._schema.name.removeprefix("aten::")
            writes = name.endswith("_") or "out" in (kwargs or {})
            leaves = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
            empty = bool(leaves) and not any(leaf.numel() for leaf in leaves)
            if empty or (not writes and leaves and storages(made) <= storages((args, kwargs))):
                self.views += 1
            else:
                self.seen[name] += 1
            return made

    open_modes = []

    def before(*_):
        open_modes.append(Count())
        open_modes[-1].__enter__()

    def after(*_):
        mode = open_modes.pop()
        mode.__exit__(None, None, None)
        found.append((mode.seen, mode.views))

    handles = net.register_forward_pre_hook(before), net.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def launches(scene: Scene, variant) -> tuple[Counter, int]:
    """Operations by name and number of views of the third UNet call: by words, the second opens the first places."""
    found: list = []
    with counting(scene.model.model.diffusion_model, found):
        scene.step(*variant, 3)
    return found[2]


def as_one_operation(function, *args, **kwargs):
    """The attention that the host takes on GPUs; on a CPU it writes attention out."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


def measure(family: str, only=()) -> dict[str, tuple[Counter, int]]:
    """Per variant, "plain" first."""
    scene = Scene(family, CHANNELS, LATENT)
    scene.negative = scene.text()
    for model in (scene.model, scene.patched):
        model.model_options["transformer_options"]["optimized_attention_override"] = as_one_operation
    variants = {
        name: scene.regions(count, **facts) for name, (count, facts) in VARIANTS.items() if not only or name in only
    }
    variants |= {name: scene.by_words(count) for name, count in BY_WORDS.items() if not only or name in only}
    return {name: launches(scene, variant) for name, variant in {"plain": scene.plain(), **variants}.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="launches")
    parser.add_argument("--names", action="store_true", help="also which operations are more than in the plain call")
    options = parser.parse_args()
    start()
    print("| net | variant | operations | against plain | launch nothing |\n|---|---|---|---|---|")
    for family in ("sd15", "sdxl"):
        found = measure(family)
        plain = found["plain"][0]
        for name, (seen, views) in found.items():
            print(f"| {family} | {name} | {seen.total():,} | {seen.total() / plain.total():.2f} | {views:,} |")
            if options.names:
                more = Counter({key: number - plain[key] for key, number in seen.items()})
                print("    " + ", ".join(f"{key} {number:+}" for key, number in more.most_common(12) if number))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
