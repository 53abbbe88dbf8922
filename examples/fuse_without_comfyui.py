"""The story in one file: two LoRAs of one net, what each is used on, one set of weights for both, and a report.

    python examples/fuse_without_comfyui.py

Needs torch alone. The net is one cross-attention, and two people trained a LoRA each for its keys and values. Added up
they spoil one another, since each also acts on the other's texts. Fusion asks for one change that answers each person's
texts as that person's own LoRA did (docs/maths.md, section 2).
"""

import sys
from pathlib import Path
from types import ModuleType

import torch

# The pack is a folder, not an installed package, and its root must not stand on sys.path: ComfyUI has a `nodes` too.
# So the root gets a name of its own here, below which every import works.
pack = sys.modules.setdefault("mixofshow_pack", ModuleType("mixofshow_pack"))
pack.__path__ = [str(Path(__file__).resolve().parent.parent)]

from mixofshow_pack.mixofshow_core.delta import LowRank  # noqa: E402
from mixofshow_pack.mixofshow_core.families.layers import ROLE_CROSS_KV, LayerGroup  # noqa: E402
from mixofshow_pack.mixofshow_core.fusion.capture import Capture  # noqa: E402
from mixofshow_pack.mixofshow_core.fusion.fuse import Source, fuse  # noqa: E402
from mixofshow_pack.mixofshow_core.fusion.report import format_report  # noqa: E402
from mixofshow_pack.mixofshow_core.fusion.settings import FusionSettings, per_role  # noqa: E402
from mixofshow_pack.mixofshow_core.fusion.statistics import Statistics  # noqa: E402

WIDTH, TEXT = 16, 32
GROUP = LayerGroup("attn.kv", ROLE_CROSS_KV, ("attn.k", "attn.v"))  # both read the same text: one Gram, one solve


class CrossAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.k, self.v = torch.nn.Linear(TEXT, WIDTH), torch.nn.Linear(TEXT, WIDTH)

    def forward(self, x, text):
        return torch.nn.functional.scaled_dot_product_attention(x, self.k(text), self.v(text))


def trained(seed: int) -> dict[str, LowRank]:
    """What a LoRA file holds: a change of rank 2 for each layer."""
    rng = torch.Generator().manual_seed(seed)
    up, down = (WIDTH, 2), (2, TEXT)
    return {n: LowRank(torch.randn(up, generator=rng), torch.randn(down, generator=rng)) for n in GROUP.members}


def texts(seed: int) -> torch.Tensor:
    """[prompts, words, TEXT]: encoded prompts, each of two words that everybody uses and six of this person's own."""
    rng = torch.Generator().manual_seed(100 + seed)
    common = torch.randn(2, TEXT, generator=torch.Generator().manual_seed(0))
    vocabulary = torch.cat([common, torch.randn(6, TEXT, generator=rng)])
    return vocabulary + 0.1 * torch.randn(4, len(vocabulary), TEXT, generator=rng)


def collect(net: CrossAttention, prompts: torch.Tensor) -> Statistics:
    """The mean of x x^T over the inputs that the group reads: all that fusion keeps of a run."""
    capture = Capture([GROUP.name])
    capture.weights = torch.ones(len(prompts))
    with capture.watching({GROUP.name: net.k}), torch.no_grad():
        net(torch.zeros(len(prompts), 4, WIDTH), prompts)
    return Statistics(capture.finish())


def main() -> dict[str, dict]:
    net = CrossAttention()
    people = [Source(name, name, trained(n), collect(net, texts(n))) for n, name in enumerate(("mara", "finn"))]
    settings, summaries = FusionSettings(ridge=per_role(1e-3), prior=per_role(0.0), size="exact"), {}
    for method in ("sum", "exact"):
        fusion = fuse(people, [GROUP], (), settings, method=method)
        summaries[method] = fusion.report.summary()
        sys.stdout.write(format_report(summaries[method]) + "\n\n")
    for name, delta in fusion.deltas.items():  # an ordinary LoRA of rank 4; folded in, the net needs nothing of ours
        net.get_submodule(name.removeprefix("attn.")).weight.data += delta.dense()
    return summaries


if __name__ == "__main__":
    main()
