"""Other people's methods, written again from what their sources do, so that a benchmark can run them beside ours.

attention couple (laksjdjf, cgem156-ComfyUI, scripts/attention_couple; taken further in pamparamm/ComfyUI-ppm): in every
cross-attention layer the rows of the positive prompt are repeated once per region over the whole picture, each copy
reads its region's text, and the outputs are mixed by masks. The negative prompt has no regions.

Where the source is weaker than the method, this version is stronger, so that no bug of theirs makes us look good: sizes
come from the host and round up, masks are shrunk by area, rows may come in any order, masks are prepared once.
"""

import math

import torch
import torch.nn.functional as F

COND = 0  # the host's number for rows of the positive conditioning


def attention_couple(model, masks: torch.Tensor, texts):
    """A clone of MODEL whose positive rows read ``texts`` [1, T, C] under ``masks`` [R, H, W].

    ``masks`` has one entry more than ``texts``: the first belongs to the conditioning that is sampled.
    """
    masks = masks / masks.sum(0, keepdim=True).clamp(min=1e-6)
    shrunk: dict[tuple[int, int], torch.Tensor] = {}

    def repeat(n, context, value, options):
        parts = len(options["cond_or_uncond"])
        length = math.lcm(context.shape[1], *(text.shape[1] for text in texts))
        others = [text.to(context).repeat(1, length // text.shape[1], 1) for text in texts]
        queries, contexts = [], []
        for kind, rows, own in zip(options["cond_or_uncond"], n.chunk(parts), context.chunk(parts), strict=True):
            own = own.repeat(1, length // own.shape[1], 1)
            queries.append(rows.repeat(len(masks), 1, 1) if kind == COND else rows)
            contexts.append(torch.cat([own, *(other.expand_as(own) for other in others)]) if kind == COND else own)
        both = torch.cat(contexts)
        return torch.cat(queries), both, both

    def mix(out, options):
        kinds = options["cond_or_uncond"]
        size = tuple(options["activations_shape"][-2:])
        if size not in shrunk:
            shrunk[size] = F.interpolate(masks[None], size=size, mode="area")[0].flatten(1)[:, None, :, None]
        batch = len(out) // sum(len(masks) if kind == COND else 1 for kind in kinds)
        mixed, start = [], 0
        for kind in kinds:
            count = batch * (len(masks) if kind == COND else 1)
            rows = out[start : start + count]
            if kind == COND:
                rows = (rows.view(len(masks), batch, *out.shape[1:]) * shrunk[size].to(out)).sum(0)
            mixed.append(rows)
            start += count
        return torch.cat(mixed)

    model = model.clone()
    model.set_model_attn2_patch(repeat)
    model.set_model_attn2_output_patch(mix)
    return model
