"""What the stock LoRA loader loses of a concept (a script, run from the repository root).

    python benchmarks/cost/stock_loader.py CONCEPT.safetensors

Loads the small base and a concept made on it, and compares the UNet's predictions (8 noises, the prompt "a photo of
NAME") with the concept's whole effect: layers plus one embedding row per cross-attention layer. Needs the test host.
"""

import importlib.util
import sys
from pathlib import Path

TIMES = (200.0, 500.0, 800.0)


def prepare() -> None:
    """Names of the packages as in tests, and the host's modules."""
    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).parents[2] / "tests" / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    from mos_tests.host.runtime import find_host, start_host_in_process

    start_host_in_process(find_host())


def predict(model, context, noise, time, layered=None):
    """UNet prediction [B, C, h, w]; `layered` [L, T, C] gives every cross-attention layer its own context."""
    import comfy.model_management
    import torch
    from mos_pack.mixofshow_core.families.nets import cross_attention_layers

    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    unet, hooks = model.model.diffusion_model, []
    for layer in cross_attention_layers(unet) if layered is not None else ():

        def own_row(module, arguments, named, row=layered[layer.index][None]):
            return arguments, named | {"context": row.expand(noise.shape[0], -1, -1)}

        hooks.append(layer.module.register_forward_pre_hook(own_row, with_kwargs=True))
    with torch.no_grad():
        steps = torch.full((noise.shape[0],), time)
        prediction = unet(noise, timesteps=steps, context=context.expand(noise.shape[0], -1, -1))
    for hook in hooks:
        hook.remove()
    return prediction


def main(path: str) -> None:
    import torch
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.mixofshow_core.formats import read_any
    from mos_pack.nodes.bridge.demo.small_base import LATENT_CHANNELS, load_small_base
    from mos_pack.nodes.bridge.host.model import apply_deltas
    from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts

    concept, (model, clip, _) = read_any(path).concept, load_small_base()
    patched, patched_clip = apply_deltas(model, clip, concept.deltas)
    knowing = register_concepts(patched_clip, [ConceptUse(concept)])
    entry = concept.entries[0]
    prompt, plain = f"a photo of {entry.name}", f"a photo of {entry.class_word or 'person'}"
    layered = encode_layered(knowing, prompt, concept.base.layers).layers
    noise = torch.randn(8, LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
    print(f"{Path(path).name}: base {concept.base}")
    for time in TIMES:
        bare = predict(model, clip.encode_from_tokens(clip.tokenize(plain)), noise, time)
        mean_context = knowing.encode_from_tokens(knowing.tokenize(prompt))
        whole = predict(patched, mean_context, noise, time, layered)
        mean = predict(patched, mean_context, noise, time)
        none = predict(patched, patched_clip.encode_from_tokens(patched_clip.tokenize(plain)), noise, time)
        effect = (whole - bare).norm()
        print(
            f"t={time:g}: lost with mean rows {float((mean - whole).norm() / effect):.0%}, "
            f"lost without words {float((none - whole).norm() / effect):.0%}"
        )


if __name__ == "__main__":
    prepare()
    main(sys.argv[1])
