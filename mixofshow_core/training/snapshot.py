"""The state of a running training on disk, so that a killed run ends in the same bytes as an uninterrupted one.

Random numbers need no storing: every step seeds its own generators (loop.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import replacing
from ..errors import MixOfShowError

log = logging.getLogger("mixofshow")

PARAMETER, MOMENT = "parameter.", "optimizer."
FULL_SCALE = 65536.0


@dataclass
class RunState:
    """How far a run is: ``step`` steps are done, ``losses`` holds one value for each, ``frozen`` stopped concepts.

    ``loss_scale`` is what a loss in fp16 is multiplied with; ``scale_age`` counts the steps since it last changed.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    frozen: set[str] = field(default_factory=set)
    loss_scale: float = FULL_SCALE
    scale_age: int = 0


def write_snapshot(
    path: Path,
    request: str,
    state: RunState,
    named: Sequence[tuple[str, torch.nn.Parameter]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write parameters, the optimiser's moments and progress in one atomic file. ``request`` identifies the inputs."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in named:
        tensors[PARAMETER + name] = parameter.detach().cpu().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is None or isinstance(value, str):
                continue
            tensors[f"{MOMENT}{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    losses = torch.tensor(state.losses, dtype=torch.float64)
    if losses.numel():
        tensors["losses"] = losses
    # Prodigy keeps its step size in the groups; the others keep nothing there that changes.
    groups = [{k: v for k, v in group.items() if type(v) in (int, float)} for group in optimizer.param_groups]
    info = {
        "request": request,
        "step": state.step,
        "frozen": sorted(state.frozen),
        "groups": groups,
        "loss_scale": state.loss_scale,
        "scale_age": state.scale_age,
    }
    try:
        with replacing(path) as part:
            save_file(tensors, part, metadata={"mixofshow.run": json.dumps(info)})
    except (OSError, SafetensorError) as error:
        raise MixOfShowError(f"Could not write the training snapshot {path}: {error}. Free some space.") from error


def read_snapshot(
    path: Path,
    request: str,
    named: Sequence[tuple[str, torch.nn.Parameter]],
    optimizer: torch.optim.Optimizer,
) -> RunState | None:
    """Fill parameters and optimiser from a snapshot; None when there is none, it is damaged, or of other inputs."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            info = json.loads((file.metadata() or {}).get("mixofshow.run", "{}"))
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError):
        return None
    if info.get("request") != request:
        return None
    for name, parameter in named:
        found = stored.get(PARAMETER + name)
        if found is None or found.shape != parameter.shape or not bool(found.isfinite().all()):
            return None
    with torch.no_grad():
        for name, parameter in named:
            parameter.copy_(stored[PARAMETER + name])
            moments = {}
            for key, value in stored.items():
                if key.startswith(MOMENT) and key.endswith("." + name):
                    kind = key[len(MOMENT) : -len(name) - 1]
                    moments[kind] = value if kind == "step" else value.to(parameter.device)
            if moments:
                optimizer.state[parameter] = moments
    for group, kept in zip(optimizer.param_groups, info.get("groups", ()), strict=False):
        group.update(kept)
    losses = stored.get("losses", torch.zeros(0)).tolist()
    return RunState(
        int(info["step"]),
        [float(loss) for loss in losses],
        set(info["frozen"]),
        float(info.get("loss_scale", FULL_SCALE)),
        int(info.get("scale_age", 0)),
    )


@dataclass(frozen=True)
class Snapshots:
    """The last ``keep`` snapshots of the run that ``request`` identifies, one file each in ``folder``."""

    folder: Path
    request: str
    keep: int

    def path(self, step: int) -> Path:
        return self.folder / f"{self.request[:24]}-{step:07d}.safetensors"

    def files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob(f"{self.request[:24]}-*.safetensors"), reverse=True)

    def write(
        self, state: RunState, named: Sequence[tuple[str, torch.nn.Parameter]], optimizer: torch.optim.Optimizer
    ) -> None:
        """Add one; the oldest go only when the new one is whole."""
        path = self.path(state.step)
        write_snapshot(path, self.request, state, named, optimizer)
        earlier = [file for file in self.files() if file < path]
        for old in earlier[self.keep - 1 :]:
            old.unlink(missing_ok=True)

    def resume(
        self, named: Sequence[tuple[str, torch.nn.Parameter]], optimizer: torch.optim.Optimizer
    ) -> RunState | None:
        """Fill parameters and optimiser from the newest one that can be read; None when there is none.

        A damaged one is deleted: the run will write that step again.
        """
        for path in self.files():
            state = read_snapshot(path, self.request, named, optimizer)
            if state is not None:
                return state
            log.warning("The training snapshot %s is damaged; the one before it is used, if there is one.", path)
            path.unlink(missing_ok=True)
        return None

    def remove(self) -> None:
        for path in self.files():
            path.unlink(missing_ok=True)
