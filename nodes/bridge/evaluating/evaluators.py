"""Evaluators by wire or by path: pictures and texts to feature vectors. No file that can run code is opened.

* CLIP_VISION: whatever the host's loader reads (CLIP L, H, G; SigLIP; DINOv2).
* A folder as Hugging Face publishes them (config.json, *.safetensors) with a CLIP, or with any picture model that has a
  class token (DINO, DINOv2, ViT).
* An .onnx file that takes [N, 3, H, W] and gives [N, D], such as ArcFace, if onnxruntime is installed.
* Without any: a statistic of colours and edges, which recognises nobody.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from safetensors import SafetensorError
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.metrics.alignment import plain_features
from ..host.progress import Progress

BATCH = 8
FACE_SIDE = 112  # ArcFace's input where the file leaves it open
CODE = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".torchscript", ".pt2", ".py")
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True, eq=False)
class Evaluator:
    """title: for people and tables. see: IMAGE [N, H, W, 3] -> [N, D]; read: texts -> [N, D], or None."""

    title: str
    see: Callable[[Tensor], Tensor]
    read: Callable[[Sequence[str]], Tensor] | None = None

    def features(self, pictures: Tensor, progress: Progress, done: int) -> Tensor:
        """Features [N, D] of pictures, in batches that can be cancelled; ``done``: units finished before."""
        found = []
        for part in pictures.split(BATCH):
            found.append(self.see(part).detach().float().cpu())
            done += len(part)
            progress.step(done, words=f"looking at pictures: {done} of {progress.total}")
        return torch.cat(found)


def built_in() -> Evaluator:
    return Evaluator("built-in colours and edges (no network: it recognises nobody)", plain_features)


def from_clip_vision(clip_vision, crop: bool) -> Evaluator:
    kind = type(clip_vision.model).__name__
    title = f"CLIP_VISION ({kind}, {clip_vision.image_size} pixels)"

    def see(pictures: Tensor) -> Tensor:
        embeds = clip_vision.encode_image(pictures, crop=crop)["image_embeds"]
        return embeds if embeds.ndim == 2 else embeds.mean(1)  # SigLIP gives one vector per patch

    return Evaluator(title, see)


def from_path(name: str, crop: bool) -> Evaluator:
    """``name``: a folder or .onnx file below ComfyUI's models folder, or an absolute path into it."""
    root = Path(folder_paths.models_dir).resolve()
    path = (root / name.strip()).resolve()
    if not path.is_relative_to(root):
        raise MixOfShowError(f"`evaluator` is {name!r}, which lies outside {root}; put it into a folder below that.")
    if path.suffix.lower() in CODE:
        raise MixOfShowError(
            f"`evaluator` is {name!r}: files of this kind can run code when they are opened, so they are refused. Use "
            "a folder with config.json and .safetensors, an .onnx file, or connect CLIP_VISION."
        )
    if path.is_dir():
        return _from_folder(path, name, crop)
    if not path.is_file():
        raise MixOfShowError(f"`evaluator` is {name!r}, but there is no such folder or file in {root}.")
    if path.suffix.lower() == ".onnx":
        return _from_onnx(path, name, crop)
    raise MixOfShowError(
        f"`evaluator` is {name!r}; a single .safetensors does not say what it is. Load it with Load CLIP Vision and "
        "connect that, or give a folder with its config.json."
    )


def _from_folder(path: Path, name: str, crop: bool) -> Evaluator:
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise MixOfShowError(f"`evaluator` {name!r} needs config.json and a .safetensors file in it.")
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        kind = transformers.CLIPModel if config.model_type == "clip" else transformers.AutoModel
        net = kind.from_pretrained(path, local_files_only=True, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise MixOfShowError(f"`evaluator` {name!r} cannot be loaded: {error}") from error
    patcher = comfy.model_patcher.ModelPatcher(  # boxed, because the host wants to set `device` on what it holds
        torch.nn.ModuleList([net.eval().requires_grad_(False)]),
        comfy.model_management.text_encoder_device(),
        comfy.model_management.text_encoder_offload_device(),
    )
    prepared = _preparation(path, getattr(config, "vision_config", config))

    def ready():
        comfy.model_management.load_model_gpu(patcher)
        return patcher.model[0], patcher.load_device

    def see(pictures: Tensor) -> Tensor:
        model, device = ready()
        pixels = comfy.clip_vision.clip_preprocess(pictures.to(device), crop=crop, **prepared).float()
        if config.model_type == "clip":
            return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        hidden = model(pixel_values=pixels).last_hidden_state
        if hidden.ndim != 3:
            raise MixOfShowError(f"`evaluator` {name!r} ({config.model_type}) has no class token; use DINO or CLIP.")
        return hidden[:, 0]

    def read(texts: Sequence[str]) -> Tensor:
        model, device = ready()
        tokenizer = transformers.CLIPTokenizer.from_pretrained(path, local_files_only=True)
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(device)
        pooled = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return model.text_projection(pooled).float().cpu()

    return Evaluator(f"{path.name} ({config.model_type})", see, read if config.model_type == "clip" else None)


def _preparation(path: Path, config) -> dict:
    """size, mean and std for the host's preprocessing, as the folder's preprocessor_config.json says."""
    file = path / "preprocessor_config.json"
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    size = facts.get("crop_size") or facts.get("size") or config.image_size
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return {"size": int(size), "mean": facts.get("image_mean", CLIP_MEAN), "std": facts.get("image_std", CLIP_STD)}


def _from_onnx(path: Path, name: str, crop: bool) -> Evaluator:
    try:
        import onnxruntime
    except ImportError as error:
        raise MixOfShowError(f"`evaluator` {name!r} is an ONNX file: pip install onnxruntime") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    place = session.get_inputs()[0]
    side = place.shape[-1] if isinstance(place.shape[-1], int) else FACE_SIDE

    def see(pictures: Tensor) -> Tensor:
        # RGB in -1..1, as ArcFace wants it; nothing is detected or aligned.
        pixels = comfy.clip_vision.clip_preprocess(pictures.cpu(), side, [0.5] * 3, [0.5] * 3, crop).float()
        rows = [session.run(None, {place.name: picture[None].numpy()})[0] for picture in pixels]
        return torch.cat([torch.from_numpy(row).reshape(1, -1) for row in rows])

    return Evaluator(f"{path.name} (ONNX, {side} pixels; faces are not detected or aligned)", see)
