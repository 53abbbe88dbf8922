"""What prior, ridge, `staged`, `refine` and each method of Fuse are worth, on the small base with trained concepts.

    python -m benchmarks.claims.fusion_gains [--concepts 3] [--calibration standard] [FILE ...]

FILE: concept files of the present small base; without any, the newest that `python -m benchmarks.claims fusing` left.
Nothing is painted and no evaluator is asked. A concept's weights change what the UNet predicts; lost is how much of
that change the fused model misses,

    lost_i = |prediction(fused) - prediction(concept i alone)|^2 / |prediction(words only) - prediction(alone)|^2,

with the same words in all three, on prompts that no calibration plan has, at five noise levels on top of the concept's
test pictures, which nothing has seen. changed is |prediction(fused) - prediction(base)|^2 on generic text, against the
mean of the single concepts' own: what a fusion does to everything else. Statistics are kept in .cache/fusion-gains, so
a second run only solves.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..cost.start import ROOT, start

CACHE = ROOT / ".cache" / "fusion-gains"
PICTURES = ROOT / "world" / "data" / "concepts" / "character"
HELD_OUT = ("{} wearing a hat, yellow background", "{} with glasses, gray background", "{}, sad, purple background")
GENERIC = ("a car, yellow background", "a person with long blonde hair, gray background", "an apple, pink background")
LEVELS = (900, 700, 500, 300, 100)  # of 1000 timesteps
VARIANTS = {
    "exact (default)": ("exact", {}),
    "exact, no prior": ("exact", {"prior": 0.0}),
    "exact, prior 0.01": ("exact", {"prior": 0.01}),
    "exact, prior 1": ("exact", {"prior": 1.0}),
    "exact, ridge 0.01": ("exact", {"ridge": 0.01}),
    "exact, ridge 0.03": ("exact", {"ridge": 0.03}),
    "exact, ridge 0.1": ("exact", {"ridge": 0.1}),
    "exact, ridge 0.3": ("exact", {"ridge": 0.3}),
    "exact, ridge 0.1, prior 1": ("exact", {"ridge": 0.1, "prior": 1.0}),
    "exact, ridge 0.1, no prior": ("exact", {"ridge": 0.1, "prior": 0.0}),
    "exact, staged": ("exact", {"mode": "staged"}),
    "exact, refine 1": ("exact", {"refine": 1}),
    "exact, staged, refine 1": ("exact", {"mode": "staged", "refine": 1}),
    "exact, all ranks": ("exact", {"size": "exact"}),
    "exact, of rank 1": ("exact", {"concept_rank": 1}),
    "gradient": ("gradient", {}),
    "regmean": ("regmean", {}),
    "constrained": ("constrained", {}),
    "sum": ("sum", {}),
    "average": ("average", {}),
    "svd": ("svd", {}),
    "ties": ("ties", {}),
    "dare": ("dare", {}),
}


@dataclass
class Bench:
    """The small base, and predictions of it with this or that on top."""

    model: object
    clip: object
    vae: object
    latents: dict = field(default_factory=dict)

    def predict(self, model, clip, prompts, latents):
        """Predicted noise [P, levels * B, C, h, w] on `latents` [B, C, h, w] with the same noise every time."""
        import comfy.model_management
        import torch
        from mos_pack.mixofshow_core.families.nets import cross_attention_layers
        from mos_pack.nodes.bridge.host.model import net_of
        from mos_pack.nodes.bridge.host.text import encode_layered

        layers = cross_attention_layers(net_of(model))
        index = {layer.address: layer.index for layer in layers}
        sampling = model.model.model_sampling
        sigmas = sampling.sigma(torch.tensor(LEVELS, dtype=torch.float32)).repeat_interleave(len(latents))
        noise = torch.randn((len(sigmas), *latents.shape[1:]), generator=torch.Generator().manual_seed(0))
        noisy = latents.repeat(len(LEVELS), 1, 1, 1) + noise * sigmas.view(-1, 1, 1, 1)
        found = []
        for prompt in prompts:
            text = encode_layered(clip, prompt, len(layers))
            patched = model.clone()
            if text.layers is not None:

                def per_layer(n, context, value, options, rows=text.layers):
                    row = rows[index[(*options["block"], options["block_index"])]].expand(len(context), -1, -1)
                    return n, row, row

                patched.set_model_attn2_patch(per_layer)
            comfy.model_management.load_models_gpu([patched])
            context = text.context.expand(len(noisy), -1, -1)
            clean = patched.model.apply_model(
                noisy, sigmas, c_crossattn=context, transformer_options=patched.model_options["transformer_options"]
            )
            found.append((noisy - clean) / sigmas.view(-1, 1, 1, 1))
        return torch.stack(found)

    def pictures(self, name: str):
        """Test pictures of a character as the model's latents [B, C, h, w]."""
        import numpy as np
        import torch
        from PIL import Image

        if name not in self.latents:
            files = [f for f in sorted((PICTURES / name / "test").glob("*.png")) if not f.stem.endswith("mask")][:6]
            rows = [np.asarray(Image.open(f).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)) for f in files]
            pixels = torch.from_numpy(np.stack(rows)).float() / 255
            self.latents[name] = self.model.model.process_latent_in(self.vae.encode(pixels)).float()
        return self.latents[name]

    def with_concept(self, concept, uses):
        from mos_pack.nodes.bridge.host.model import apply_deltas
        from mos_pack.nodes.bridge.host.text import register_concepts

        return apply_deltas(self.model, register_concepts(self.clip, uses), concept.deltas if concept else {})


def measure(bench: Bench, uses, calibration: str, only: str) -> None:
    from mos_pack.mixofshow_core.fusion.plan import preset
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings, per_role
    from mos_pack.nodes.bridge.fusing.fusion import fuse_uses

    def squared(a, b) -> float:
        return float((a - b).double().square().mean())

    generic = bench.pictures(uses[0].label)
    plain = bench.predict(bench.model, bench.clip, GENERIC, generic)
    alone, words, scale, changes = {}, {}, {}, []
    for use in uses:
        prompts, latents = [text.format(use.label) for text in HELD_OUT], bench.pictures(use.label)
        model, clip = bench.with_concept(use.concept, [use])
        alone[use.label] = bench.predict(model, clip, prompts, latents)
        changes.append(squared(bench.predict(model, clip, GENERIC, generic), plain))
        words[use.label] = bench.predict(*bench.with_concept(None, [use]), prompts, latents)
        scale[use.label] = squared(words[use.label], alone[use.label])
    labels = [use.label for use in uses]
    print(f"| method | {' | '.join(f'{label} lost' for label in labels)} | mean lost | other text changed | seconds |")
    print("|---" * (len(labels) + 4) + "|")
    for title, (method, facts) in VARIANTS.items():
        if not any(part in title for part in only.split(";")):
            continue
        facts = {key: per_role(value) if key in ("ridge", "prior") else value for key, value in facts.items()}
        begun = time.perf_counter()
        result = fuse_uses(bench.model, bench.clip, uses, method, preset(calibration), FusionSettings(**facts), CACHE)
        seconds = time.perf_counter() - begun
        model, clip = bench.with_concept(result.concept, uses)
        lost = [
            squared(
                bench.predict(model, clip, [text.format(label) for text in HELD_OUT], bench.pictures(label)),
                alone[label],
            )
            / scale[label]
            for label in labels
        ]
        changed = squared(bench.predict(model, clip, GENERIC, generic), plain) / (sum(changes) / len(changes))
        print(
            f"| {title} | {' | '.join(f'{value:.3f}' for value in lost)} | {sum(lost) / len(lost):.3f} | "
            f"{changed:.2f} | {seconds:.1f} |",
            flush=True,
        )


def find_files(fingerprint: str, count: int) -> list[Path]:
    """The newest file of each character that was trained on this base."""
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.mixofshow_core.formats.native import read_concept

    chosen: dict[str, Path] = {}
    files = (ROOT / ".cache" / "claims").glob("*/models/loras/mixofshow/*.safetensors")
    finished = (file for file in files if "-step" not in file.stem)
    for path in sorted(finished, key=lambda file: -file.stat().st_mtime):
        try:
            concept = read_concept(path)
        except MixOfShowError:
            continue
        if concept.base.fingerprint == fingerprint and (PICTURES / concept.name / "test").is_dir():
            chosen.setdefault(concept.name, path)
    return [chosen[name] for name in sorted(chosen)][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--concepts", type=int, default=3)
    parser.add_argument("--calibration", default="standard")
    parser.add_argument("--base", type=Path, help="another small base of kind A than the one that ships")
    parser.add_argument("--only", default="", help="only rows whose title has this (or this;or this) in it")
    options = parser.parse_args()
    start()
    import torch
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.mixofshow_core.formats.native import read_concept
    from mos_pack.nodes.bridge.demo.small_base import WEIGHTS, load_small_base
    from mos_pack.nodes.bridge.host.model import describe_base

    bench = Bench(*load_small_base(options.base or WEIGHTS))
    files = options.files or find_files(describe_base(bench.model).fingerprint, options.concepts)
    if len(files) < 2:
        sys.exit("Fewer than two concepts of this base: run `python -m benchmarks.claims fusing`, or name files.")
    uses = tuple(ConceptUse(read_concept(path)) for path in files)
    ranks = sum(max((getattr(d, "rank", 0) for d in use.concept.deltas.values()), default=0) for use in uses)
    print(
        f"{', '.join(path.stem for path in files)} on small base A, calibration {options.calibration}, "
        f"sum of ranks {ranks}\n",
        flush=True,
    )
    with torch.inference_mode():
        measure(bench, uses, options.calibration, options.only)


if __name__ == "__main__":
    main()
