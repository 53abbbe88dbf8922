"""What regions cost: time and memory of a sampling step with regions, against the unpatched step of the same run.

    python benchmarks/regional.py --quick          lean SD1.5 and SDXL shapes, at most three minutes on two CPU cores
    python benchmarks/regional.py --channels 320   real shapes (SD1.5: 860 million random weights)

Random weights, CFG (two rows per step), regions that tile the canvas in columns. Every round runs all variants in turn;
a ratio is the median over rounds of (variant / unpatched step in that round). `routed` gives every region a concept of
its own, rank 16 on all attention linears. `couple` is attention couple (peers.py), `passes` is the host way: one masked
conditioning, hence one model pass, per region. Times are processor seconds of this process, so that other work on the
machine disturbs them little; the row `unpatched again` shows how much.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 77
RANK = 16


def start() -> None:
    """Make the pack and the host importable, as the tests do."""
    spec = importlib.util.spec_from_file_location("mos_conftest", ROOT / "tests" / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    from mos_tests.host.runtime import find_host, start_host_in_process

    host = find_host()
    if host is None:
        sys.exit("no ComfyUI found: run `python dev.py test` once, or set COMFYUI_PATH to a ComfyUI folder")
    start_host_in_process(host)


def build_model(family: str, channels: int):
    """A random UNet with the family's layers and context width; 320 channels is the real thing."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    import torch
    from mos_tests.host.tiny import unet_config

    config = unet_config(family, real_width=True) | {"model_channels": channels}
    config |= {"num_heads": 8} if family == "sd15" else {"num_head_channels": min(64, channels // 2)}
    known = comfy.supported_models.SDXL(config) if family == "sdxl" else comfy.supported_models.SD15(config)
    known.set_inference_dtype(torch.float32, None)
    made = (comfy.model_base.SDXL if family == "sdxl" else comfy.model_base.BaseModel)(known, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.diffusion_model.parameters():
            parameter.normal_(0, 0.02, generator=generator) if parameter.dim() > 1 else parameter.fill_(0.5)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(made, load_device=device, offload_device=device)


class Scene:
    """One model with random texts, and the conditionings of every variant."""

    def __init__(self, family: str, channels: int, latent: int):
        import torch
        from mos_pack.nodes.bridge.regions import patch_model

        self.latent = latent
        self.model = build_model(family, channels)
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
        return make_map(
            parse_regions(json.dumps({"version": 1, "regions": regions}), 8 * self.latent, 8 * self.latent)
        )

    def plain(self):
        return self.model, [[self.text(), dict(self.extras)]]

    def regions(self, count: int, layered: bool = False, routed: bool = False):
        from mos_pack.nodes.bridge.region_attention import Payload
        from mos_pack.nodes.bridge.regions import with_payload

        texts = tuple(self.text(self.layers if layered else 1) for _ in range(count))
        routes = self.routes(count) if routed else None
        payload = Payload(TOKENS, self.text(self.layers) if layered else None, texts, self.map(count), routes)
        return self.patched, with_payload(self.text(), self.extras, payload)

    def routes(self, count: int):
        """Random factors of ``count`` concepts on every attention linear."""
        import torch
        from mos_pack.mixofshow_core.concept import LowRank
        from mos_pack.mixofshow_core.regional.gating import stack_factors
        from mos_pack.nodes.bridge.routing import Routes

        shapes = {
            path: module.weight.shape
            for path, module in self.model.model.diffusion_model.named_modules()
            if ".transformer_blocks." in path and (".attn1." in path or ".attn2." in path) and hasattr(module, "weight")
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
        return Routes(stack_factors(concepts), tuple(range(count)), None, count)

    def couple(self, count: int):
        from peers import attention_couple

        masks = self.map(count).masks.float() / 255
        model = attention_couple(self.model, masks, [self.text() for _ in range(count - 1)])
        return model, [[self.text(), dict(self.extras)]]

    def passes(self, count: int):
        masks = self.map(count).masks.float() / 255
        entries = [[self.text(), {**self.extras, "mask": mask[None], "strength": 1.0}] for mask in masks]
        return self.model, entries

    def step(self, model, positive, steps: int) -> tuple[float, float]:
        """Seconds per step after the first one, and the first step's, which also projects the region texts."""
        import comfy.sample
        import torch

        noise = torch.randn(1, 4, self.latent, self.latent, generator=torch.Generator().manual_seed(2))
        times = [time.process_time()]
        with torch.inference_mode():
            comfy.sample.sample(
                model, noise, steps, 5.0, "euler", "normal", positive, [[self.negative, dict(self.extras)]],
                torch.zeros_like(noise), seed=2, disable_pbar=True,
                callback=lambda *_: times.append(time.process_time()),
            )  # fmt: skip
        spans = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        return statistics.median(spans[1:]), spans[0]


def reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure(family: str, channels: int, latent: int, rounds: int, steps: int) -> None:
    scene = Scene(family, channels, latent)
    scene.negative = scene.text()
    variants = {"unpatched": scene.plain()}
    for count in (1, 2, 4, 8):
        variants[f"regions {count}"] = scene.regions(count)
    variants["layered regions 2"] = scene.regions(2, layered=True)
    for count in (1, 2, 4):
        variants[f"routed {count}"] = scene.regions(count, routed=True)
    for count in (2, 4):
        variants[f"couple {count}"] = scene.couple(count)
    for count in (2, 4):
        variants[f"passes {count}"] = scene.passes(count)
    variants["unpatched again"] = variants["unpatched"]  # how far this row is from 1 is the noise of the run
    scene.step(*variants["unpatched"], 2)
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, float] = {}
    base = 0.0
    for _ in range(rounds):
        for name, (model, positive) in variants.items():
            tracked = reset_peak()
            seconds, _ = scene.step(model, positive, steps)
            if tracked:
                peaks[name] = peak_megabytes()
            base = seconds if name == "unpatched" else base
            ratios[name].append(seconds / base)
    weights = sum(p.numel() for p in scene.model.model.diffusion_model.parameters()) / 1e6
    print(f"\n{family}, {channels} channels ({weights:.0f} M random weights), latent {latent} x {latent}, CFG batch 2,")
    print(f"{rounds} rounds of {steps} steps; unpatched step {base:.3f} s")
    print(f"{'variant':<20}{'step / unpatched':>18}{'peak MB':>10}")
    for name, found in ratios.items():
        peak = f"{peaks[name]:.0f}" if name in peaks else "-"
        print(f"{name:<20}{statistics.median(found):>18.3f}{peak:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="lean shapes and few rounds")
    parser.add_argument("--family", choices=("sd15", "sdxl"), help="only this one")
    parser.add_argument("--channels", type=int, default=None, help="width of the UNet; 320 is the real one")
    parser.add_argument("--latent", type=int, default=None, help="side of the latent")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    start()
    for family in (arguments.family,) if arguments.family else ("sd15", "sdxl"):
        channels = arguments.channels or (32 if arguments.quick else 160)
        latent = arguments.latent or (32 if arguments.quick else 64)
        measure(family, channels, latent, arguments.rounds or (3 if arguments.quick else 5), arguments.steps)


if __name__ == "__main__":
    main()
