"""A control image that counts differently in each region.

The host's control objects are used as they are: ours holds a copy of one, lets it compute its residuals and multiplies
them by a weight map. Nothing of the host's is changed, so further controls can be chained before and after it.
"""

from __future__ import annotations

from comfy.controlnet import ControlBase
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.regional.control import control_weights, uniform_weight
from ....mixofshow_core.regional.raster import RegionMap

STAGES = ("input", "middle", "output")


class RegionControl(ControlBase):
    """A ControlNet or T2I-Adapter under a weight map.

    ``inner`` is a copy that already has its image, strength and schedule, and no control before it; what comes before
    is ``previous_controlnet`` of this object, so that the map does not weigh it.
    """

    def __init__(self, inner: ControlBase, placed: RegionMap, outside: float):
        super().__init__()
        self.inner, self.placed, self.outside = inner, placed, outside
        self.maps: dict[tuple, Tensor] = {}
        inner.copy_to(self)  # what other nodes may ask a control about

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        uniform = uniform_weight(self.placed, self.outside)
        if uniform == 0:
            return before
        own = self.inner.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if own is None:  # outside its part of the schedule
            return before
        if uniform != 1:
            done: dict[int, Tensor] = {}
            own = {stage: [self._weigh(part, done) for part in parts] for stage, parts in own.items()}
        return own if before is None else _add(before, own)

    def _weigh(self, residual: Tensor | None, done: dict[int, Tensor]) -> Tensor | None:
        """The residual [B, C, h, w] times the map at its size; T2I-Adapters list one tensor several times."""
        if residual is None:
            return None
        if id(residual) not in done:
            size = tuple(residual.shape[-2:])
            key = (size, residual.device, residual.dtype)
            if key not in self.maps:
                self.maps[key] = control_weights(self.placed, size, self.outside).to(residual)
            done[id(residual)] = residual * self.maps[key]
        return done[id(residual)]

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.inner.pre_run(model, percent_to_timestep_function)

    def cleanup(self):
        super().cleanup()
        self.inner.cleanup()
        self.maps.clear()

    def get_models(self):
        return super().get_models() + self.inner.get_models()

    def inference_memory_requirements(self, dtype):
        return super().inference_memory_requirements(dtype) + self.inner.inference_memory_requirements(dtype)

    def set_extra_arg(self, argument, value=None):
        self.inner.set_extra_arg(argument, value)

    def copy(self):
        return RegionControl(self.inner.copy(), self.placed, self.outside)

    def deepclone_multigpu(self, load_device, autoregister=False):
        """Hosts from 0.23 on ask for this with several GPUs."""
        made = RegionControl(self.inner.deepclone_multigpu(load_device), self.placed, self.outside)
        if autoregister:
            self.multigpu_clones[load_device] = made
        return made


def _add(before: dict, own: dict) -> dict:
    """Both residuals together, place by place, as the host's own chain does."""
    merged = {}
    for stage in STAGES:
        first, second = before.get(stage, []), own.get(stage, [])
        parts = []
        for index in range(max(len(first), len(second))):
            a = first[index] if index < len(first) else None
            b = second[index] if index < len(second) else None
            parts.append(a + b if a is not None and b is not None else (b if a is None else a))
        merged[stage] = parts
    return merged


def control_regions(
    positive,
    negative,
    control_net,
    image: Tensor,
    placed: RegionMap,
    strength: float,
    outside: float,
    start: float,
    end: float,
):
    """(positive, negative) with a regional control; both get the same objects, or the host would run them apart."""
    if control_net is None:
        raise MixOfShowError("Region Control: CONTROL_NET is empty; the loader found no control model in its file.")
    _check_image(image)
    if start >= end:
        raise MixOfShowError(f"Region Control: start is {start:g} and end is {end:g}; start must come first.")
    if strength == 0:
        return positive, negative
    hint, made = image.movedim(-1, 1), {}

    def extend(entry):
        options = dict(entry[1])
        before = options.get("control")
        if id(before) not in made:
            inner = control_net.copy().set_cond_hint(hint, strength, (start, end))
            made[id(before)] = RegionControl(inner, placed, outside).set_previous_controlnet(before)
        return [entry[0], {**options, "control": made[id(before)], "control_apply_to_uncond": False}]

    return [extend(entry) for entry in positive], [extend(entry) for entry in negative]


def _check_image(image: Tensor | None) -> None:
    if image is None or image.dim() != 4 or 0 in image.shape:
        shape = "nothing" if image is None else tuple(image.shape)
        raise MixOfShowError(f"Region Control: image is {shape}; connect a picture [batch, height, width, 3].")
    if not image.isfinite().all():
        raise MixOfShowError("Region Control: image holds NaN or infinite values; check the node that makes it.")
