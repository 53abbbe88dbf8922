"""PEFT's alpha, ranks and patterns, in files that PEFT itself wrote and says the changes of."""

import peft
import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.formats.foreign import read_with_host
from torch import nn

LAYERS = {"attn2.to_k": "attn2.to_k", "attn1.to_q": "attn1.to_q", "ff.net.2": "ff.net.2", "conv1": "in_layers.2"}


class Block(nn.Module):
    """Layers under the names that diffusers gives those of SD1.5's middle, much smaller."""

    def __init__(self):
        super().__init__()
        block = nn.ModuleDict({"attn1": nn.ModuleDict({"to_q": nn.Linear(48, 48)})})
        block["attn2"] = nn.ModuleDict({"to_k": nn.Linear(24, 48)})
        block["ff"] = nn.ModuleDict({"net": nn.ModuleList([nn.Identity(), nn.Identity(), nn.Linear(96, 48)])})
        attention = nn.ModuleDict({"transformer_blocks": nn.ModuleList([block])})
        resnet = nn.ModuleDict({"conv1": nn.Conv2d(48, 48, 3, padding=1)})
        parts = {"attentions": nn.ModuleList([attention]), "resnets": nn.ModuleList([resnet])}
        self.mid_block = nn.ModuleDict(parts)


def written(config, folder):
    """(the file, {our layer's ending: PEFT's own change})"""
    torch.manual_seed(5)
    model = peft.get_peft_model(Block(), config)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 if parameter.requires_grad else parameter.data
    model.save_pretrained(folder)
    modules = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    changes = {
        ours: next(module for name, module in modules.items() if name.endswith(theirs)).get_delta_weight("default")
        for theirs, ours in LAYERS.items()
    }
    return folder / "adapter_model.safetensors", changes


PATTERNS = {"alpha_pattern": {r".*attn2\.to_k": 2, "^mid_block.resnets.*conv1": 3}, "rank_pattern": {"to_q": 2}}


@pytest.mark.parametrize("pattern", [{}, PATTERNS, {"alpha_pattern": {"(attn2.to_k|ff.net.2)": 6}}], ids=str)
@pytest.mark.parametrize(
    "kind",
    [
        lambda **more: peft.LoraConfig(r=4, lora_alpha=8, **more),
        lambda **more: peft.LoraConfig(r=4, lora_alpha=8, use_rslora=True, **more),
        lambda **more: peft.LoHaConfig(r=4, alpha=8, **more),
        lambda **more: peft.LoHaConfig(r=4, alpha=8, use_effective_conv2d=True, **more),
        lambda **more: peft.LoKrConfig(r=4, alpha=8, **more),
        lambda **more: peft.LoKrConfig(r=4, alpha=8, decompose_both=True, use_effective_conv2d=True, **more),
        lambda **more: peft.LoKrConfig(r=400, alpha=8, **more),  # of whole matrices, which the rank scales all the same
    ],
    ids=["lora", "rslora", "loha", "loha-tucker", "lokr", "lokr-both", "lokr-whole"],
)
def test_changes_are_pefts(kind, pattern, tmp_path):
    path, changes = written(kind(target_modules=list(LAYERS), **pattern), tmp_path)
    found = read_with_host(path)
    assert not found.skipped and not found.warning()
    for ending, wanted in changes.items():
        ours = next(delta for name, delta in found.concept.deltas.items() if name.endswith(ending))
        assert torch.allclose(ours.dense().reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-6), ending


def test_an_expression_that_is_not_read_is_named(tmp_path):
    path, _ = written(peft.LoraConfig(r=4, lora_alpha=8, target_modules=["to_k", *list(LAYERS)]), tmp_path)
    config = tmp_path / "adapter_config.json"
    for odd in ("(a+)+b", "(to_k", r"(.)\1", "a*b*c*d*e*f"):
        config.write_text(f'{{"lora_alpha": 8, "alpha_pattern": {{"{odd}": 2}}}}'.replace("\\1", "\\\\1"))
        with pytest.raises(MixOfShowError, match="is not read here"):
            read_with_host(path)


def test_whole_factors_without_a_configuration_say_what_is_not_known(tmp_path):
    path, _ = written(peft.LoKrConfig(r=400, alpha=8, target_modules=list(LAYERS)), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    assert "alpha is taken to be the rank" in read_with_host(path).warning()
