"""What regions cost: time and memory of a sampling step with regions, against the unpatched step of the same run.

    python -m benchmarks.cost.regional                  lean SD1.5 and SDXL shapes, about four minutes on a quiet core
    python -m benchmarks.cost.regional --quick          one minute, noisy
    python -m benchmarks.cost.regional --channels 320 --latent 64 --rounds 3    real shapes (SD1.5: 860 million weights)

Random weights, CFG (two rows per step), regions that tile the canvas in columns. Every measurement of a variant has an
unpatched one right before or right after it (the order alternates), and a ratio is the median over these pairs; beside
it the middle half of the pairs. `routed` gives every region a concept of its own, rank 16 on all attention linears;
`by words` looks for the same concepts' places in attention instead in four layers, as on
a base that nobody has fitted.
`couple` is attention couple (peers.py), `passes` is the host way: one masked conditioning, hence one model pass, per
region. Times are processor seconds of this process, so that other work on the machine disturbs them little; `unpatched
again` shows how much. Memory is the highest sum of tensors alive that a run of two steps makes.
"""

import argparse
import json
import math
import statistics
import sys
import time
import weakref
from collections import defaultdict
from dataclasses import dataclass, field

from .start import start

LEAN = {"sd15": 96, "sdxl": 64}  # channels at which a step takes a third of a second on one core
WIDE = 320  # channels of the real nets
TOKENS = 77
RANK = 16


def build_model(family: str, channels: int, dtype=None):
    """A random UNet with the family's layers and context width, fp32 unless asked; 320 channels is the real thing."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import torch
    from mos_tests.host.tiny import unet_config

    config = unet_config(family, real_width=True) | {"model_channels": channels}
    config |= {"num_heads": 8} if family == "sd15" else {"num_head_channels": min(64, channels // 2)}
    known = comfy.supported_models.SDXL(config) if family == "sdxl" else comfy.supported_models.SD15(config)
    known.set_inference_dtype(dtype or torch.float32, None)
    device = comfy.model_management.get_torch_device()
    # Large weights are drawn where it is fast; small ones on the CPU, so that they are the same everywhere.
    drawn = device if channels >= WIDE else torch.device("cpu")
    made = (comfy.model_base.SDXL if family == "sdxl" else comfy.model_base.BaseModel)(known, device=drawn)
    generator = torch.Generator(drawn).manual_seed(0)
    with torch.no_grad():
        for parameter in made.diffusion_model.parameters():
            parameter.normal_(0, 0.02, generator=generator) if parameter.dim() > 1 else parameter.fill_(0.5)
    return comfy.model_patcher.ModelPatcher(made, load_device=device, offload_device=torch.device("cpu"))


class Scene:
    """One model with random texts, and the conditionings of every variant."""

    def __init__(self, family: str, channels: int, latent: int, dtype=None):
        import torch
        from mos_pack.nodes.bridge.placing.wrappers import patch_model

        self.latent = latent
        self.model = build_model(family, channels, dtype)
        self.patched = patch_model(self.model)
        self.width = self.model.model.model_config.unet_config["context_dim"]
        self.generator = torch.Generator().manual_seed(1)
        self.extras = {"pooled_output": torch.randn(1, 1280, generator=self.generator)}
        self.layers = 70 if family == "sdxl" else 16

    def text(self, rows: int = 1):
        import torch

        return torch.randn(rows, TOKENS, self.width, generator=self.generator)

    def map(self, count: int):
        from mos_pack.mixofshow_core.regional.raster import make_map
        from mos_pack.mixofshow_core.regional.schema import parse_regions

        regions = [
            {"id": f"r{n}", "shape": {"type": "rect", "x": n / count, "y": 0, "width": 1 / count, "height": 1}}
            for n in range(count)
        ]
        return make_map(parse_regions(json.dumps({"version": 1, "regions": regions}), 8 * self.latent, 8 * self.latent))

    def plain(self):
        return self.model, [[self.text(), dict(self.extras)]]

    def regions(self, count: int, layered: bool = False, routed: bool = False, feed_forward: bool = False):
        from mos_pack.nodes.bridge.placing.payload import Payload
        from mos_pack.nodes.bridge.placing.wrappers import with_payload

        texts = tuple(self.text(self.layers if layered else 1) for _ in range(count))
        routes = self.routes(count, feed_forward) if routed else None
        payload = Payload(TOKENS, self.text(self.layers) if layered else None, texts, self.map(count), routes)
        return self.patched, with_payload(self.text(), self.extras, payload)

    def routes(self, count: int, feed_forward: bool):
        """Random factors of ``count`` concepts on every attention linear, and those of the feed-forward layers."""
        import torch
        from mos_pack.mixofshow_core.delta import LowRank
        from mos_pack.mixofshow_core.regional.gating import stack_factors
        from mos_pack.nodes.bridge.placing.routing import Routes, share_downs

        parts = (".attn1.", ".attn2.", *((".ff.",) if feed_forward else ()))
        shapes = {
            path: module.weight.shape
            for path, module in self.model.model.diffusion_model.named_modules()
            if ".transformer_blocks." in path and any(part in path for part in parts) and hasattr(module, "weight")
        }
        concepts = [
            {
                path: LowRank(
                    0.01 * torch.randn(rows, RANK, generator=self.generator),
                    0.01 * torch.randn(RANK, columns, generator=self.generator),
                )
                for path, (rows, columns) in shapes.items()
            }
            for _ in range(count)
        ]
        factors, shared = share_downs(stack_factors(concepts))
        return Routes(factors, tuple(range(count)), None, count, shared=shared)

    def by_words(self, count: int):
        """The same concepts without a region: two words each, looked for as on a base that nobody has fitted."""
        from dataclasses import replace

        import torch
        from mos_pack.mixofshow_core.families.nets import cross_attention_layers
        from mos_pack.mixofshow_core.regional.finding import picker, plain_reading
        from mos_pack.nodes.bridge.placing.finding import Search
        from mos_pack.nodes.bridge.placing.payload import Payload
        from mos_pack.nodes.bridge.placing.readings import decoder_heads
        from mos_pack.nodes.bridge.placing.wrappers import with_payload

        layers = cross_attention_layers(self.model.model.diffusion_model)
        heads = {layer.index: layer.heads for layer in layers}
        numbers, owners = tuple(range(count)), [-1] * TOKENS
        for number in numbers:
            owners[2 + 3 * number : 4 + 3 * number] = [number, number]
        search = Search(numbers, tuple(map(str, numbers)), plain_reading(decoder_heads(heads)))
        routes = replace(self.routes(count, False), owners=(), search=search)
        words = torch.tensor(owners)
        found = tuple((self.text(), words) for _ in numbers)
        payload = Payload(TOKENS, None, (), None, routes, words=words, chosen=picker(owners, numbers), found=found)
        return self.patched, with_payload(self.text(), self.extras, payload)

    def couple(self, count: int):
        from .peers import attention_couple

        masks = self.map(count).masks.float() / 255
        model = attention_couple(self.model, masks, [self.text() for _ in range(count - 1)])
        return model, [[self.text(), dict(self.extras)]]

    def passes(self, count: int):
        masks = self.map(count).masks.float() / 255
        entries = [[self.text(), {**self.extras, "mask": mask[None], "strength": 1.0}] for mask in masks]
        return self.model, entries

    def step(self, model, positive, steps: int, clock=time.process_time) -> tuple[float, float]:
        """Seconds per step after the first one, and the first step's, which also projects the region texts."""
        times = [clock()]
        self.sample(model, positive, steps, lambda *_: times.append(clock()))
        spans = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        return statistics.median(spans[1:]), spans[0]

    def sample(self, model, positive, steps: int, callback=None):
        """The latent that comes out."""
        import comfy.sample
        import torch

        noise = torch.randn(1, 4, self.latent, self.latent, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            return comfy.sample.sample(
                model,
                noise,
                steps,
                5.0,
                "euler",
                "normal",
                positive,
                [[self.negative, dict(self.extras)]],
                torch.zeros_like(noise),
                seed=2,
                disable_pbar=True,
                callback=callback,
            )


def peak_memory(scene: Scene, variant) -> float:
    """Megabytes of tensors alive at once, at most, of those that two steps make; weights and texts do not count."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):
        live, peak = 0, 0

        def __init__(self):
            super().__init__()
            self.known = {}

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            for given in tree_leaves((args, kwargs)):
                if isinstance(given, torch.Tensor):  # made before: not ours to count
                    self.known.setdefault(given.untyped_storage()._cdata, None)
            made = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    self.count(tensor.untyped_storage())
            return made

        def count(self, storage):
            key, size = storage._cdata, storage.nbytes()
            if key not in self.known:
                self.live += size
                self.peak = max(self.peak, self.live)
                self.known[key] = weakref.ref(storage, lambda _: self.forget(key, size))

        def forget(self, key, size):
            self.live -= size
            self.known.pop(key, None)

    watch = Watch()
    with watch:
        scene.step(*variant, 2)
    return watch.peak / 2**20


@dataclass
class Pairs:
    """One variant: seconds per step with those of its unpatched neighbour, and its memory over the unpatched step's."""

    memory: float
    seconds: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [own / plain for own, plain in self.seconds]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        if len(self.seconds) < 2:
            return "-"
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return f"{low:.3f} to {high:.3f}"


def build_variants(scene: Scene) -> dict:
    variants = {f"regions {count}": scene.regions(count) for count in (1, 2, 4, 8)}
    variants["layered regions 2"] = scene.regions(2, layered=True)
    variants |= {f"routed {count}": scene.regions(count, routed=True) for count in (2, 4)}
    variants |= {f"by words {count}": scene.by_words(count) for count in (2, 4)}
    variants |= {f"couple {count}": scene.couple(count) for count in (2, 4)}
    return variants | {"passes 4": scene.passes(4), "unpatched again": scene.plain()}


def measure(family: str, channels: int, latent: int, rounds: int, steps: int, only=()) -> dict[str, Pairs]:
    scene = Scene(family, channels, latent)
    scene.negative = scene.text()
    plain = scene.plain()
    variants = build_variants(scene)
    if unknown := set(only) - set(variants):
        sys.exit(f"--only {', '.join(sorted(unknown))}: unknown; known are {', '.join(variants)}")
    variants = {name: variant for name, variant in variants.items() if not only or name in only}
    needed = peak_memory(scene, plain)  # also the warm-up
    found = {name: Pairs(peak_memory(scene, variant) / needed - 1) for name, variant in variants.items()}
    for number in range(rounds):
        for position, (name, variant) in enumerate(variants.items()):
            order = (variant, plain) if (number + position) % 2 else (plain, variant)
            times = {arm is variant: scene.step(*arm, steps)[0] for arm in order}
            found[name].seconds.append((times[True], times[False]))
    weights = sum(p.numel() for p in scene.model.model.diffusion_model.parameters()) / 1e6
    base = statistics.median(plain for pairs in found.values() for _, plain in pairs.seconds)
    print(f"\n{family}, {channels} channels ({weights:.0f} M random weights), latent {latent} x {latent}, CFG batch 2,")
    print(f"{rounds} pairs of {steps - 1} steps; unpatched step {base:.3f} s, {needed:.0f} MB\n")
    print("| variant | step / unpatched | middle half | memory |\n|---|---|---|---|")
    for name, pairs in found.items():
        print(f"| {name} | {pairs.ratio:.3f} | {pairs.spread} | {pairs.memory:+.1%} |")
    return found


def judge(found: dict[str, Pairs]) -> None:
    """The goals of issue 6, one line each, as far as their variants were measured."""
    missing = float("nan")
    ratio = defaultdict(lambda: missing, {name: pairs.ratio for name, pairs in found.items()})
    memory = defaultdict(lambda: missing, {name: pairs.memory for name, pairs in found.items()})
    goals = [
        ("2 regions", ratio["regions 2"], "<=", 1.06),
        ("8 regions", ratio["regions 8"], "<=", 1.10),
        ("1 region over everything", ratio["regions 1"], "<=", 1.08),
        ("routing 2, over 2 regions", ratio["routed 2"] - ratio["regions 2"], "<=", 0.12),
        ("routing 4, over 4 regions", ratio["routed 4"] - ratio["regions 4"], "<=", 0.12),
        ("one pass per region / 4 regions", ratio["passes 4"] / ratio["regions 4"], ">=", 1.8),
        ("couple / regions, 2", ratio["couple 2"] / ratio["regions 2"], ">=", 1.0),
        ("couple / regions, 4", ratio["couple 4"] / ratio["regions 4"], ">=", 1.0),
        ("memory, 8 regions", memory["regions 8"], "<=", 0.10),
        ("by words 2 / routed 2", ratio["by words 2"] / ratio["routed 2"], "<=", 1.05),
        ("by words 4 / routed 4", ratio["by words 4"] / ratio["routed 4"], "<=", 1.05),
        ("memory, 4 routed", memory["routed 4"], "<=", 0.10),
    ]
    print("\n| goal | found | wanted | |\n|---|---|---|---|")
    for name, value, sign, limit in goals:
        if math.isnan(value):
            continue
        met = value <= limit if sign == "<=" else value >= limit
        print(f"| {name} | {value:.3f} | {sign} {limit:g} | {'met' if met else 'missed'} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller shapes and few rounds")
    parser.add_argument("--family", choices=("sd15", "sdxl"), help="only this one")
    parser.add_argument("--channels", type=int, help="width of the UNet; 320 is the real one")
    parser.add_argument("--latent", type=int, help="side of the latent")
    parser.add_argument("--rounds", type=int, help="pairs per variant")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", default=(), help="such as: 'regions 2' 'routed 2'")
    parser.add_argument("--steps", type=int, default=4, help="of each run; the first is not counted")
    options = parser.parse_args()
    start()
    for family in (options.family,) if options.family else ("sd15", "sdxl"):
        channels = options.channels or (32 if options.quick else LEAN[family])
        rounds = options.rounds or (2 if options.quick else 5)
        judge(measure(family, channels, options.latent or 32, rounds, options.steps, options.only))


if __name__ == "__main__":
    main()
