"""What a fusion leaves on disk: equal fusions are equal bytes, and what a run cost stands in its report only."""

import json

import torch
from mos_tests.host.builders import make_concept, tiny_plan


def fuse(base, uses, folder, **settings):
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.nodes.bridge.fusing.fusion import fuse_uses

    chosen = FusionSettings(size="exact", **settings)
    with torch.inference_mode():
        return fuse_uses(base.model, base.clip, uses, "exact", tiny_plan(steps=1, prior_pictures=0), chosen, folder)


def test_equal_fusions_save_equal_bytes(tiny_sd15, tmp_path):
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.mixofshow_core.formats.native import METADATA_KEY, load_safetensors, write_concept
    from mos_pack.mixofshow_core.fusion.report import format_report

    uses = tuple(ConceptUse(make_concept(tiny_sd15, f"person{n}", n + 1)) for n in range(2))
    first = fuse(tiny_sd15, uses, tmp_path / "a")
    kept = [
        first,
        fuse(tiny_sd15, uses, tmp_path / "a"),
        fuse(tiny_sd15, uses[::-1], tmp_path / "b"),
        fuse(tiny_sd15, uses, tmp_path / "c", memory_gb=2e-3),  # block by block: more passes, the same answer
    ]
    for number, result in enumerate(kept):
        write_concept(tmp_path / f"{number}.safetensors", result.concept)
    assert len({(tmp_path / f"{number}.safetensors").read_bytes() for number in range(len(kept))}) == 1
    stored = json.loads(load_safetensors(tmp_path / "0.safetensors")[1][METADATA_KEY])["training"]["fusion"]
    assert not {"seconds", "peak_memory_mb", "store_bytes", "notes"} & set(stored)
    assert first.summary["seconds"]["calibration"] > 0 and "largest memory" in format_report(first.summary, first.notes)
    assert "Loaded" in format_report(kept[1].summary, kept[1].notes)
    told = {key: first.summary[key] for key in kept[1].summary}  # without what the run itself cost
    assert format_report(kept[1].summary) == format_report(told)  # also the order of its parts


def test_a_patch_with_another_value_is_another_fusion(tiny_sd15, tmp_path):
    from dataclasses import replace

    from comfy_extras.nodes_model_advanced import RescaleCFG
    from mos_pack.mixofshow_core.concept import ConceptUse

    uses = tuple(ConceptUse(make_concept(tiny_sd15, f"person{n}", n + 1)) for n in range(2))
    for value in (0.7, 0.5):
        fuse(replace(tiny_sd15, model=RescaleCFG().patch(tiny_sd15.model, value)[0]), uses, tmp_path)
    assert len(list((tmp_path / "fusions").glob("*.safetensors"))) == 2
    assert len(list((tmp_path / "statistics").glob("*.safetensors"))) == 6  # the prior and two concepts, each twice
