"""Layered texts without regions: training's own samples are what Place would paint."""

import pytest
import torch

STEPS, SEED = 3, 5


@pytest.mark.parametrize("family", ["sd15", "cosmos"])
def test_samples_of_training_are_what_place_paints(request, family):
    import comfy.sample
    from mos_pack.mixofshow_core.concept import BaseInfo, Concept, ConceptEntry, ConceptUse, LayeredEmbedding, Word
    from mos_pack.nodes.bridge.host.layered import with_layers
    from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
    from mos_pack.nodes.bridge.placing.place import place

    base, generator = request.getfixturevalue(f"tiny_{family}"), torch.Generator().manual_seed(0)
    where, count, width = ("clip_l", 16, 64) if family == "sd15" else ("context", 3, 64)
    words = LayeredEmbedding({where: torch.randn(count, width, generator=generator)}, tuple(range(count)))
    entry = ConceptEntry("mara", "mara", "person", "character", (Word("<mara-1>"),), (words,))
    use = ConceptUse(Concept((entry,), {}, BaseInfo("unknown")))
    clip = register_concepts(base.clip, (use,))
    positive, negative = encode_layered(clip, "a photo of mara", count), encode_layered(clip, "", count)
    assert positive.layers is not None

    def sample(model, first, second):
        latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(2, 4, 8, 8))
        noise = comfy.sample.prepare_noise(latent, SEED)
        return comfy.sample.sample(
            model, noise, STEPS, 5.0, "euler", "normal", first, second, latent, seed=SEED, disable_pbar=True
        )

    plain = [[[text.context, dict(text.extras)]] for text in (positive, negative)]
    ours = sample(with_layers(base.model, positive.layers), *plain)
    placed = place(base.model, base.clip, "a photo of mara", "", None, (use,))
    assert torch.equal(ours, sample(*placed))
    assert not torch.equal(ours, sample(base.model, *plain)), "the layers matter"
    assert with_layers(base.model, None) is base.model
