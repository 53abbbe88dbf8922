"""Regional and layered text inside the host's sampling: how payloads travel.

A CONDITIONING carries a Payload in its ``model_conds``; a patched MODEL acts on it. Per step a CALC_COND_BATCH wrapper
turns payloads into one latent-shaped map (channel 0 says which payload a row belongs to, the others are the region
masks), which the host crops, tiles and batches like the latent itself. A DIFFUSION_MODEL wrapper reads the map back
for texts.py, blend.py and routing.py, which act inside the UNet.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import comfy.conds
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.known import plain_name
from ....mixofshow_core.families.nets import cross_attention_layers, kind_of
from ....mixofshow_core.fitting import title_of
from ..host.model import family, net_of, options_in, text_dtype, with_options
from ..host.show import running_node, show_on_node
from .arrivals import arriving, note_tiles
from .attention import Batch, Sampling
from .blend import blended
from .finding import looked_at, remember
from .payload import KEY, Payload, payload_of
from .routing import routed
from .texts import choose_texts

log = logging.getLogger("mixofshow")

COMPILED = "torch.compile"  # the key of the host's wrapper
MAP = f"{KEY}_map"
SAMPLING = f"{KEY}_sampling"
MAX_PAYLOADS = 256  # ids up to here are exact in bfloat16
ASPECT_TOLERANCE = 0.1
KEPT_SHARE, KEPT_LEAST = 0.08, 64 * 2**20  # of a step's memory, bytes
UNPATCHED = (
    "The conditioning comes from Place, MODEL does not: regions, layered embeddings and unfused concepts are not used. "
    "Wire Place's model output to this sampler."
)
UNPLACED = (
    "MODEL comes from Place, the conditioning does not: its regions, layered embeddings and unfused concepts are not "
    "used. Wire Place's positive and negative to this sampler."
)


class PayloadCond(comfy.conds.CONDRegular):
    """Lets a Payload travel through the host's conditioning code untouched.

    A patched MODEL takes it out before the host looks at it, so where the host does, MODEL is another one. ``memory``:
    what was said and sampled, by the node that ran; nothing of it changes a picture.
    """

    def __init__(self, cond):
        super().__init__(cond)
        self.memory: dict = {}

    def process_cond(self, batch_size, **kwargs):
        context = running_node()
        if self.memory.get("unpatched", ()) != context:
            self.memory["unpatched"] = context
            log.warning(UNPATCHED)
            show_on_node([UNPATCHED])
        return self

    def can_concat(self, other):
        return True

    def concat(self, others):
        return self.cond

    def size(self):
        return [1]


def with_payload(context: Tensor, extras: dict, payload: Payload | None) -> list:
    """A CONDITIONING of one entry; without a payload it is exactly what a stock text node returns."""
    extras = dict(extras)
    if payload is not None:
        payload = replace(payload, text=context.detach().clone())  # a copy that no other node can change
        extras["model_conds"] = {**extras.get("model_conds", {}), KEY: PayloadCond(payload)}
    return [[context, extras]]


def patch_model(model):
    """A clone of MODEL that acts on payloads, and is the stock model without them; patched once is enough."""
    if KEY in model.attachments:
        return model
    model = model.clone()
    model.set_attachments(KEY, True)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, open_sampling)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, attach_maps)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, read_maps)
    if all(layer.address for layer in cross_attention_layers(net_of(model))):
        model.set_model_attn2_patch(choose_texts)
    return model


def open_sampling(executor, noise, latent_image=None, *args, **kwargs):
    """OUTER_SAMPLE: a fresh Sampling for this run."""
    guider = executor.class_obj
    entries = [cond for conds in guider.conds.values() for cond in conds or ()]
    carriers = [cond["model_conds"][KEY] for cond in entries if payload_of(cond) is not None]
    if not carriers:
        log.warning(UNPLACED)
        show_on_node([UNPLACED])
        return executor(noise, latent_image, *args, **kwargs)
    for carrier in carriers:
        check_made_for(guider.model_patcher, carrier.cond)
    hooked = any(cond.get("hooks") is not None for cond in entries)
    options = guider.model_options.setdefault("transformer_options", {})
    room = 0 if hooked else room_for_projections(guider.model_patcher, noise.shape)
    nodes = {payload.node: None for payload in map(payload_of, entries) if payload is not None and payload.node}
    sampling = Sampling(room, tuple(nodes))
    options[SAMPLING] = sampling
    note_tiles(sampling, [(one.cond, one.memory) for one in carriers], latent_image, running_node())
    try:
        with uncompiled(guider.model_patcher, sampling):
            samples = executor(noise, latent_image, *args, **kwargs)
    finally:
        options.pop(SAMPLING, None)
    for places, routes in sampling.places.values():
        for text in places.describe():
            sampling.warn(text)
        for carrier in (one for one in carriers if one.cond.routes is routes):
            remember(places, carrier.memory, samples)
    return samples


def check_made_for(model, payload: Payload) -> None:
    """Refuse a conditioning of a Place on another kind of MODEL: its layers and widths are not these."""
    here = plain_name(family(model)), len(cross_attention_layers(net_of(model)))
    if payload.made_for not in (None, here):
        (theirs, layers), (mine, count) = payload.made_for, here
        raise MixOfShowError(
            f"This conditioning comes from a Place whose MODEL is {title_of(theirs)} ({layers} cross-attention "
            f"layers); the MODEL here is {title_of(mine)} ({count}). Wire that Place's own model output to this "
            "sampler."
        )


def uncompiled(patcher, sampling: Sampling) -> AbstractContextManager:
    """Inside, a net under torch.compile runs as it is written: hooks on its layers would have it compiled again and
    again until it gives up, for minutes."""
    wrapped = COMPILED in patcher.wrappers.get(WrappersMP.APPLY_MODEL, {})
    if not wrapped and not any(hasattr(module, "_orig_mod") for module in patcher.model.diffusion_model.modules()):
        return nullcontext()
    sampling.warn(
        "MODEL is compiled; with regions or unfused concepts it runs uncompiled. Fuse concepts to compile it."
    )
    return torch.compiler.set_stance("force_eager")


def room_for_projections(model, shape) -> int:
    """Bytes of projected region texts that a sampling of noise [B, C, h, w] may keep.

    Some megabytes a region, whatever the picture's size, that the host does not know of when it makes room for a step:
    so at most a share of its own estimate, or little. 0 where weights can change between two steps.
    """
    if getattr(model, "weight_wrapper_patches", None):
        return 0
    with_negative = [2 * shape[0], *shape[1:]]
    return max(KEPT_LEAST, int(KEPT_SHARE * model.model.memory_required(with_negative)))


def attach_maps(executor, model, conds, x_in, timestep, model_options, *args, **kwargs):
    """CALC_COND_BATCH: replace payloads by maps of one shape, so that positive and negative still run together."""
    options = dict(model_options.get("transformer_options", {}))
    sampling = options.get(SAMPLING)
    if not isinstance(sampling, Sampling):
        sampling = Sampling()
    carried = any(payload_of(cond) is not None for group in conds for cond in group or ())
    if not carried and not sampling.routed:
        return executor(model, conds, x_in, timestep, model_options, *args, **kwargs)
    like = torch.empty(0, dtype=text_dtype(model), device=x_in.device)
    conds = [_with_texts_read(sampling, group, model.diffusion_model, like) for group in conds]
    payloads = arriving(sampling, conds)
    table = list({id(payload): payload for group in payloads for payload in group if payload is not None}.values())
    if len(table) > MAX_PAYLOADS:
        raise MixOfShowError(f"{len(table)} regional conditionings meet in one sampling; at most {MAX_PAYLOADS} can.")
    slots = max((len(payload.texts) + _looked_for(payload) for payload in table), default=0)
    sampling.latent = len(x_in), *x_in.shape[-2:]
    maps = {id(p): _make_map(n, p, slots, x_in, timestep, model, sampling) for n, p in enumerate(table, 1)}
    maps[id(None)] = torch.zeros(1, 1 + slots, *x_in.shape[2:], device=x_in.device)
    options[KEY] = sampling, tuple(table)
    mapped = [
        None if group is None else [_with_map(cond, maps[id(p)]) for cond, p in zip(group, own, strict=True)]
        for group, own in zip(conds, payloads, strict=True)
    ]
    options = {**model_options, "transformer_options": options}
    predicted = executor(model, mapped, x_in, timestep, options, *args, **kwargs)
    for places, _ in sampling.places.values():
        places.advance(tuple(x_in.shape[-2:]))
    return predicted


def _looked_for(payload: Payload) -> int:
    """Of how many concepts the places are looked for."""
    search = None if payload.routes is None else payload.routes.search
    return 0 if search is None else len(search.concepts)


def _with_texts_read(sampling: Sampling, group: list[dict] | None, net, like: Tensor) -> list[dict] | None:
    """The conditionings with payloads whose texts the net has worked on, where it does."""
    read = []
    for cond in group or ():
        payload = payload_of(cond)
        if payload is not None and payload.extras:
            made = PayloadCond(sampling.read(payload, net, like))
            cond = {**cond, "model_conds": {**cond["model_conds"], KEY: made}}
        read.append(cond)
    return read if group else group


def _with_map(cond: dict, chosen: Tensor) -> dict:
    model_conds = {key: value for key, value in cond.get("model_conds", {}).items() if key != KEY}
    return {**cond, "model_conds": {**model_conds, MAP: comfy.conds.CONDNoiseShape(chosen)}}


def _make_map(number: int, payload: Payload, slots: int, x_in: Tensor, timestep, model, sampling: Sampling) -> Tensor:
    height, width = x_in.shape[-2:]
    if x_in.dim() > 4 and x_in.shape[2] > 1:
        raise MixOfShowError(f"Regions and unfused concepts are for pictures; this latent has {x_in.shape[2]} frames.")
    made = torch.zeros(1, 1 + slots, *x_in.shape[2:], device=x_in.device)
    made[:, 0] = number
    if (count := _looked_for(payload)) > 0:
        gates = sampling.places_of(payload.routes).open(len(x_in), (height, width), x_in.device)
        made = made.repeat(len(gates), 1, 1, 1)
        made[:, 1 + len(payload.texts) :][:, :count] = gates
    if payload.placed is None:
        return made
    spec = payload.placed.regions
    other_shape = abs(width * spec.height / (height * spec.width) - 1) > ASPECT_TOLERANCE
    spread = payload.placed.masks.flatten(1).aminmax(dim=1)
    if other_shape and bool((spread.min != spread.max).any()):  # what covers all, or nothing, fits every picture
        sampling.warn(
            f"The latent is {width} x {height}, the regions were drawn for {spec.width} x {spec.height} pixels; "
            f"they are squeezed to fit. Wire width and height of Regions to the latent; for a crop take Pick Region."
        )
    key = (id(payload.placed), height, width, x_in.device)
    if key not in sampling.masks:
        masks = payload.placed.masks[None].to(x_in.device, torch.float32) / 255
        sampling.masks[key] = F.interpolate(masks, size=(height, width), mode="area")
    made[:, 1 : 1 + len(spec.regions)] = sampling.masks[key].view(1, -1, *x_in.shape[2:])
    for index, region in enumerate(spec.regions, 1):
        if not _is_active(region.start, region.end, timestep, model):
            made[:, index] = 0
    return made


def _is_active(start: float, end: float, timestep: Tensor, model) -> bool:
    """Whether the current sigma lies in the region's part of the schedule."""
    if start <= 0 and end >= 1:
        return True
    sigma = float(timestep.flatten()[0])
    sampling = model.model_sampling
    return float(sampling.percent_to_sigma(end)) < sigma <= float(sampling.percent_to_sigma(start))


def read_maps(executor, x, *args, **kwargs):
    """DIFFUSION_MODEL: take the map out of the arguments and tell the attention patches about this call."""
    maps, options = kwargs.pop(MAP, None), options_in(args, kwargs)
    if maps is None or KEY not in options:
        return executor(x, *args, **kwargs)
    net, (sampling, payloads) = executor.class_obj, options[KEY]
    maps = maps.flatten(2, 3) if maps.dim() > 4 else maps  # the only frame goes
    patches, replaced = options.get("patches", {}), options.get("patches_replace", {}).get("attn2", {})
    others = [patch for patch in patches.get("attn2_patch", ()) if patch is not choose_texts]
    ids = [int(number) for number in maps[:, 0].flatten(1)[:, 0].float().round().tolist()]
    layers = sampling.layers_of(net)
    masks = maps[:, 1:].float()
    batch = Batch(sampling, payloads, ids, masks, layers, bool(others), frozenset(replaced))
    batch.kept = sampling.call(payloads, ids, masks)
    batch.here = kind_of(net).everywhere(net, x)
    args, kwargs = with_options(args, kwargs, {**options, KEY: batch})
    with routed(net, batch), looked_at(batch, tuple(x.shape[-2:])), blended(batch):
        return executor(x, *args, **kwargs)
