"""LoRAs of others through Cast and Place: names from files, triggers, roles by what calls them, two strengths."""

import json

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.peek import names_in_file
from mos_pack.nodes.bridge.host.model import named_linears
from mos_pack.nodes.bridge.host.text import encode_layered
from mos_pack.nodes.bridge.placing.payload import KEY
from mos_pack.nodes.bridge.placing.place import place
from mos_pack.nodes.region_tools import MixOfShowPickRegion
from mos_tests.host.placing.test_routing import box, gap, regions, sample
from safetensors.torch import save_file


def write(base, path, seed, metadata=None):
    """A file of others: kohya's names for the text encoder, the host's generic ones for the UNet."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for layer, module in named_linears(base.model, base.clip).items():
        if ".attn" in layer or ".self_attn." in layer:
            out, width = module.weight.shape[:2]
            name = layer
            if layer.startswith("text_encoders."):
                name = "lora_te_" + layer.split(".transformer.")[1].replace(".", "_")
            tensors[f"{name}.lora_up.weight"] = torch.randn(out, 2, generator=generator) * 0.3
            tensors[f"{name}.lora_down.weight"] = torch.randn(2, width, generator=generator) / width**0.5
    save_file(tensors, str(path), metadata)


@pytest.fixture
def two(tiny_sd15, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    write(tiny_sd15, tmp_path / "Alice (v1).safetensors", 1)
    write(tiny_sd15, tmp_path / "bob.safetensors", 2)
    (tmp_path / "Alice (v1).civitai.info").write_text(json.dumps({"trainedWords": ["blue haired girl"]}))
    return tmp_path


def run(base, *rows, **more):
    from mos_pack.nodes.cast import MixOfShowCast

    return MixOfShowCast.execute(
        json.dumps({"version": 1, "rows": list(rows)}), model=base.model, clip=base.clip, **more
    ).result


ALICE, BOB = {"file": "Alice (v1).safetensors"}, {"file": "bob.safetensors"}


def test_files_alone_are_enough(two, tiny_sd15):
    """Names from the files, the trigger from beside it; in a region each is routed, named nowhere it is an add-on."""
    base = tiny_sd15
    uses, card = run(base, ALICE, BOB)
    assert [use.label for use in uses] == ["Alice_v1", "bob"]
    assert [names_in_file(two / row["file"]) for row in (ALICE, BOB)] == [("Alice_v1",), ("bob",)], "before any run"
    assert "'blue haired girl' (trigger, from Alice (v1).civitai.info)" in card
    placed = regions({"prompt": "alice_v1 smiling", "shape": box(0, 0.5)}, {"prompt": "bob", "shape": box(0.5, 1)})
    notes = []
    model, positive, _ = place(base.model, base.clip, "a park", "", placed, uses, notes)
    found = positive[0][1]["model_conds"][KEY].cond
    assert found.routes is not None and found.routes.owners == (0, 1) and found.routes.background is None
    assert any("Alice_v1 ('blue haired girl') at 1: region" in note for note in notes), notes
    assert not any("WARNING" in note for note in notes), notes


@pytest.mark.parametrize("how", ["picked", "switched off"])
def test_who_stands_in_a_region_that_is_left_out_acts_nowhere(how, two, tiny_sd15):
    """She was taken for a LoRA that nothing calls, so for one of the whole picture: in his face, in a detail pass."""
    base = tiny_sd15
    uses, _ = run(base, ALICE, BOB)
    hers, his = {"prompt": "alice_v1", "shape": box(0, 0.5)}, {"prompt": "bob", "shape": box(0.5, 1), "name": "him"}
    if how == "picked":
        placed = MixOfShowPickRegion.execute(regions(hers, his), "him")[0]
    else:
        placed = regions(hers | {"enabled": False}, his)
    notes = []
    found = place(base.model, base.clip, "a park", "", placed, uses, notes)
    assert "Alice_v1: the region that names it is not here, so it is not used" in notes
    assert not any("WARNING" in note or ("Alice" in note and "whole picture" in note) for note in notes), notes
    wanted = place(base.model, base.clip, "a park", "", placed, uses[1:])
    assert gap(sample(found, steps=1), sample(wanted, steps=1)) < 1e-5


def test_the_name_stands_for_the_trigger_and_the_trigger_calls(two, tiny_sd15):
    base = tiny_sd15
    uses, _ = run(base, ALICE)
    for prompt in ("alice_v1 in a park", "BLUE HAIRED GIRL in a park"):
        placed = regions({"prompt": prompt, "shape": box(0, 0.5)})
        notes = []
        _, positive, _ = place(base.model, base.clip, "a park", "", placed, uses, notes)
        payload = positive[0][1]["model_conds"][KEY].cond
        assert payload.routes.owners == (0,), prompt
        plain = encode_layered(payload_clip(base, uses), "blue haired girl in a park", 16)
        assert torch.equal(payload.texts[0], plain.context)


def payload_clip(base, uses):
    """The text encoder of a region that belongs to the first use."""
    from mos_pack.nodes.bridge.host.model import apply_deltas

    texts = {name: delta for name, delta in uses[0].concept.deltas.items() if name.startswith("text_encoders.")}
    return apply_deltas(None, base.clip, texts)[1]


def test_what_nothing_calls_acts_everywhere_and_says_so(two, tiny_sd15):
    base = tiny_sd15
    uses, _ = run(base, ALICE, BOB)
    placed = regions({"prompt": "bob", "shape": box(0, 0.5)})
    notes = []
    place(base.model, base.clip, "a park", "", placed, uses, notes)
    told = next(note for note in notes if "Alice_v1" in note)
    assert "WARNING" in told and "whole picture" in told and "write Alice_v1 (or 'blue haired girl')" in told
    # the remedy, taken
    notes = []
    placed = regions({"prompt": "bob", "shape": box(0, 0.5)}, {"prompt": "Alice_v1", "shape": box(0.5, 1)})
    place(base.model, base.clip, "a park", "", placed, uses, notes)
    assert not any("WARNING" in note for note in notes)
    notes = []
    uses, _ = run(base, {**ALICE, "role": "add-on"}, BOB)
    place(base.model, base.clip, "a park", "", regions({"prompt": "bob", "shape": box(0, 0.5)}), uses, notes)
    assert not any("WARNING" in note for note in notes) and any("Alice_v1 at 1: the whole picture" in n for n in notes)


def test_named_in_the_prompt_only_it_is_the_backgrounds(two, tiny_sd15):
    base = tiny_sd15
    uses, _ = run(base, ALICE, BOB)
    _, positive, _ = place(base.model, base.clip, "alice_v1 waits", "", regions({"prompt": "bob"}), uses, [])
    assert positive[0][1]["model_conds"][KEY].cond.routes.background == 0
    _, positive, _ = place(base.model, base.clip, "alice_v1 and bob", "", regions({"prompt": "a dog"}), uses, [])
    routes = positive[0][1]["model_conds"][KEY].cond.routes
    assert routes.background is None and routes.search.concepts == (0, 1), "both are found by their words"


def test_strengths_apart_and_zero_is_the_base(two, tiny_sd15):
    """Strength 0 is the base to the bit; strength for the text encoder alone changes the text, not the net."""
    base, everywhere = tiny_sd15, regions({"prompt": "bob"})
    nothing, _ = run(base, {**BOB, "strength": 0.0})
    plain = sample(place(base.model, base.clip, "bob", "", regions({"prompt": "bob"})))
    assert torch.equal(sample(place(base.model, base.clip, "bob", "", everywhere, nothing)), plain)
    text_only, _ = run(base, {**BOB, "strength": 0.0, "text_strength": 1.0})
    unet_only, _ = run(base, {**BOB, "strength": 1.0, "text_strength": 0.0})
    both, _ = run(base, BOB)
    casts = (text_only, unet_only, both)
    pictures = [sample(place(base.model, base.clip, "bob", "", everywhere, uses)) for uses in casts]
    assert all(gap(picture, plain) > 1e-3 for picture in pictures)
    assert gap(pictures[0], pictures[1]) > 1e-3 and gap(pictures[1], pictures[2]) > 1e-4
    _, one, _ = place(base.model, base.clip, "bob", "", everywhere, unet_only)
    _, other, _ = place(base.model, base.clip, "bob", "", everywhere, nothing)
    first, second = (c[0][1]["model_conds"][KEY].cond.texts[0] for c in (one, other))
    assert torch.equal(first, second), "text strength 0 leaves the text as it is"


def test_wrong_rows_are_named_before_a_run(two):
    from mos_pack.nodes.cast import MixOfShowCast

    def check(*rows):
        return MixOfShowCast.validate_inputs(json.dumps({"version": 1, "rows": list(rows)}))

    assert check(ALICE, BOB) is True
    answer = check(ALICE, {"file": "nobody.safetensors"}, {"file": "../secret.safetensors"})
    assert "row 2" in answer and "nobody" in answer and "row 3" in answer
    assert check({"file": "nobody.safetensors", "on": False}) is True
    assert "no JSON" in MixOfShowCast.validate_inputs("{")


def test_same_triggers_are_told_by_row(two, tiny_sd15):
    with pytest.raises(MixOfShowError, match=r"Alice \(v1\).* and bob.* both have the trigger '[gG]irl'"):
        run(tiny_sd15, {**ALICE, "trigger": "girl"}, {**BOB, "trigger": "Girl"})
    uses, _ = run(tiny_sd15, {**ALICE, "trigger": "girl"}, {**BOB, "trigger": ""})  # the remedy
    assert len(uses) == 2


def test_a_trigger_that_contains_anothers_name_calls_its_own_file(two, tiny_sd15):
    base = tiny_sd15
    uses, _ = run(base, {**ALICE, "trigger": "bob haired girl"}, BOB)
    placed = regions(
        {"prompt": "bob haired girl smiling", "shape": box(0, 0.5)}, {"prompt": "bob", "shape": box(0.5, 1)}
    )
    _, positive, _ = place(base.model, base.clip, "a park", "", placed, uses, [])
    assert positive[0][1]["model_conds"][KEY].cond.routes.owners == (0, 1), "the longest match wins"


def test_a_name_that_is_an_everyday_word_gets_a_note(two, tiny_sd15):
    note = "`girl` is an everyday word as well"
    assert note in run(tiny_sd15, {**BOB, "name": "girl"})[1]
    assert note.replace("girl", "zorbo") not in run(tiny_sd15, {**BOB, "name": "zorbo"})[1]


def test_a_saved_fusion_keeps_what_calls_each(two, tiny_sd15, tmp_path):
    from dataclasses import replace

    from mos_pack.mixofshow_core.formats.native import read_concept, write_concept

    (use,), _ = run(tiny_sd15, ALICE)
    write_concept(tmp_path / "kept.safetensors", replace(use.concept, training={}))
    assert read_concept(tmp_path / "kept.safetensors").entries[0].trigger == "blue haired girl"


def test_lora_tags_of_connected_files_are_read(two, tiny_sd15):
    """As people paste them: by file or by name, with or without a strength; unknown ones are told."""
    base = tiny_sd15
    uses, _ = run(base, ALICE, BOB)
    placed = regions(
        {"prompt": "blue haired girl smiling <lora:Alice (v1):0.5>", "shape": box(0, 0.5)},
        {"prompt": "<lora:bob:0.2:0.7> running", "shape": box(0.5, 1)},
    )
    notes = []
    _, positive, _ = place(base.model, base.clip, "a park", "", placed, uses, notes)
    payload = positive[0][1]["model_conds"][KEY].cond
    assert payload.routes.owners == (0, 1) and not any("means nothing" in note for note in notes)
    assert any("Alice_v1" in note and " at 0.5:" in note for note in notes), notes
    assert any("bob at 0.7 (text 0.2):" in note for note in notes), notes
    (typed, _), _ = run(base, {**ALICE, "strength": 0.5}, BOB)
    plain = regions({"prompt": "blue haired girl smiling", "shape": box(0, 0.5)})
    _, wanted, _ = place(base.model, base.clip, "a park", "", plain, (typed,), [])
    text = wanted[0][1]["model_conds"][KEY].cond.texts[0]
    assert torch.allclose(text, payload.texts[0]), "the trigger is not doubled"


def test_lora_tags_that_cannot_be_followed_are_told(two, tiny_sd15):
    base = tiny_sd15
    uses, _ = run(base, ALICE, BOB)
    notes = []
    place(base.model, base.clip, "a park", "", regions({"prompt": "bob <lora:zoe:1>"}), uses, notes)
    assert any("<lora:zoe:1>" in note and "Cast or Load Concept" in note for note in notes)
    for text in ("<lora:bob:x>", "<lora:bob:nan>", "<lora:bob:99>"):
        with pytest.raises(MixOfShowError, match="must be a number from -10 to 10"):
            place(base.model, base.clip, "a park", "", regions({"prompt": text}), uses, [])
    with pytest.raises(MixOfShowError, match="another strength"):
        place(base.model, base.clip, "<lora:bob:1>", "", regions({"prompt": "<lora:bob:0.5>"}), uses, [])
