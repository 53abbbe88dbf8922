"""What a base in 8 bits loses: the small base with fp8 weights, a LoRA patched by the host or routed by Place.

    python -m benchmarks.cost.eight_bits        under a minute

Relative differences |a - b| / |b| of the latents after 12 steps, the mean of four seeds. "The same values in fp32" is
the net with the rounded weights in fp32 and the LoRA patched in: what is lost against it, the LoRA alone loses.
"""

import statistics

from .start import ROOT, start

STEPS, SEEDS = 12, range(4)
PROMPT = "a photo of a moon person"
ROWS = (
    ("what the LoRA does, fp32", "fp32 patched", "fp32"),
    ("rounding the base to fp8, no LoRA", "eight", "fp32"),
    ("LoRA patched by the host on fp8, against the same values in fp32", "eight patched", "same patched"),
    ("LoRA routed by Place on fp8, against the same values in fp32", "eight routed", "same patched"),
    ("routed in fp32, against patched in fp32", "fp32 routed", "fp32 patched"),
)


def paint(model, clip, prompt: str, seed: int, concepts=None):
    import comfy.sample
    import torch
    from mos_pack.nodes.bridge.placing.place import place

    model, positive, negative = place(model, clip, prompt, "", None, concepts)
    empty = torch.zeros(1, model.model.latent_format.latent_channels, 8, 8)
    noise = torch.randn(empty.shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        args = STEPS, 3.0, "euler", "normal", positive, negative, empty
        return comfy.sample.sample(model, noise, *args, seed=seed, disable_pbar=True)


def main() -> int:
    start()
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.nodes.bridge.demo.small_base import load_small_base
    from mos_pack.nodes.bridge.formats.foreign import read_with_host
    from mos_pack.nodes.bridge.formats.live import base_weights
    from mos_pack.nodes.bridge.host.model import apply_deltas
    from mos_tests.host.tiny import in_eight_bits

    path = ROOT / "assets" / "demo" / "loras" / "anna.safetensors"
    (whole, clip, _), (eight, _, _), (same, _, _) = (load_small_base() for _ in range(3))
    read = read_with_host(path, "anna", base_weights(whole, clip))
    use = ConceptUse(read.concept, 1.0, "concept", "moon person", str(path))
    in_eight_bits(eight)
    values = eight.model.diffusion_model.state_dict()
    for name, weight in same.model.diffusion_model.state_dict().items():
        weight.copy_(values[name])
    painted: dict[str, list] = {}
    for seed in SEEDS:
        for name, model in {"fp32": whole, "eight": eight, "same": same}.items():
            patched, with_text = apply_deltas(model, clip, use.concept.deltas)
            painted.setdefault(name, []).append(paint(model, clip, PROMPT, seed))
            painted.setdefault(f"{name} patched", []).append(paint(patched, with_text, PROMPT, seed))
            painted.setdefault(f"{name} routed", []).append(paint(model, clip, PROMPT, seed, [use]))
    print("| | relative difference |\n|---|---|")
    for what, found, wanted in ROWS:
        gaps = [float((a - b).norm() / b.norm()) for a, b in zip(painted[found], painted[wanted], strict=True)]
        print(f"| {what} | {statistics.mean(gaps):.1e} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
