"""What smaller Custom Diffusion files cost (a script, run from the repository root).

    python benchmarks/cost/custom_diffusion_sizes.py [STEPS]

Trains the preset Custom Diffusion (full keys and values, without prior pictures) on the small base, cuts the change to
the shares of the paper's steps (75 -> 15 -> 5 -> 1 MB on SD1.5), and prints for each the error of the weights and the
share of the change's effect on the UNet's prediction that is lost (8 noises). Needs the test host.
"""

import sys
from pathlib import Path

SHARES = (15 / 75, 5 / 75, 1 / 75)
TIMES = (200.0, 500.0, 800.0)


def train(steps):
    """A Concept with full-rank changes of keys and values, and the base it was made on."""
    from dataclasses import replace

    from mos_pack.mixofshow_core.training.settings import PRESETS
    from mos_pack.nodes.bridge.demo.small_base import load_small_base
    from mos_pack.nodes.bridge.training import data as training_data
    from mos_pack.nodes.bridge.training import run as training_run

    model, clip, vae = load_small_base()
    data, _ = training_data.build("mara", "person", "character", "demo:mara", "auto")
    settings = replace(PRESETS["Custom Diffusion"], prior_weight=0.0, lr_unet=1e-4, preview_every=0)
    request, _ = training_run.prepare(model, clip, vae, data, settings, "standard", steps, 0, "sizes")
    return training_run.run_training(request).concept, model, clip


def main(steps: int) -> None:
    import torch
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.mixofshow_core.delta import megabytes
    from mos_pack.mixofshow_core.formats.compress import compress_by_share, compress_to_size
    from mos_pack.nodes.bridge.demo.small_base import LATENT_CHANNELS
    from mos_pack.nodes.bridge.host.model import apply_deltas
    from mos_pack.nodes.bridge.host.text import register_concepts
    from stock_loader import predict

    concept, model, clip = train(steps)
    whole = {name: d for name, d in concept.deltas.items() if name.endswith((".attn2.to_k", ".attn2.to_v"))}
    knowing = register_concepts(clip, [ConceptUse(concept)])
    context = knowing.encode_from_tokens(knowing.tokenize(f"a photo of {concept.entries[0].name}"))
    noise = torch.randn(8, LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))

    def pictures(deltas):
        patched, _ = apply_deltas(model, None, deltas)
        return [predict(patched, context, noise, time) for time in TIMES]

    bare, full = pictures({}), pictures(whole)
    effect = [(a - b).norm() for a, b in zip(full, bare, strict=True)]
    print(f"{len(whole)} layers, {megabytes(whole):.2f} MB as fp32, {steps} steps")
    cuts = {f"share {share:.1%}": cut(whole, share, compress_to_size) for share in SHARES}
    cuts["0.6 of the sum of singular values (default)"] = compress_by_share(whole)
    for title, small in cuts.items():
        lost = [float((a - b).norm() / e) for a, b, e in zip(pictures(small.deltas), full, effect, strict=True)]
        ranks = sorted({delta.rank for delta in small.deltas.values()})
        print(
            f"{title}: rank {ranks[0]} to {ranks[-1]}, {small.megabytes:.3f} MB, weights {small.error:.0%}, "
            f"effect lost {', '.join(f'{v:.0%}' for v in lost)} at t = {', '.join(f'{t:g}' for t in TIMES)}"
        )


def cut(deltas, share, compress_to_size):
    """All layers at the rank that takes `share` of their own size (at least 1)."""
    from mos_pack.mixofshow_core.delta import megabytes, norm
    from mos_pack.mixofshow_core.formats.compress import Compressed

    made, lost, total = {}, 0.0, 0.0
    for name, delta in deltas.items():
        rank = max(1, round(share * delta.shape[0] * delta.shape[1] / sum(delta.shape[:2])))
        small = compress_to_size({name: delta}, str(rank), low_rank_only=True)
        made |= small.deltas
        lost, total = lost + (small.error * norm(delta)) ** 2, total + norm(delta) ** 2
    return Compressed(made, (lost / total) ** 0.5, megabytes(made))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from stock_loader import prepare

    prepare()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
