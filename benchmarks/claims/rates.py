"""Which learning rates a small base's concepts are best trained with: some trained at every setting of a grid.

    python -m benchmarks.claims.rates [--preset ED-LoRA] [--kind object] [--concepts 4] [--steps 240]
                               [--grid 5e-3,2e-4,1.5e-3 ...]

A setting is embedding rate, text rate, UNet rate and, if wanted, steps; 0 is what `auto` would choose. All settings
train two concepts; after each round the better half goes on to as many again, until there are --concepts. Scored are
pictures of prompts that training never saw, from the same noise: share whose nearest identity is right (of ten
of the kind and their look-alikes), mean similarity to the right one, share with the background that was asked for (what
an over-trained concept loses first), and drift of the bare class noun (1 - cosine of features). Every training and
its scores are kept in .cache/rates, so that a run can be cut off and goes on. About 45 s a training on an idle core.
"""

import argparse
import hashlib
import json
import logging
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from world.host import weights_of

from ..cost.start import start
from .plan import an, class_of

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "rates"
WEIGHTS = weights_of("A")
# Those whom the table of methods is about come last: rates are chosen on others.
NAMES = {
    "character": ("tariq", "wilma", "boris", "zelda", "pavel", "nadia", "yuki", "omara", "mara", "finn"),
    "object": ("mola", "tobi", "nido", "pharo", "arma", "graba", "lumo", "vela", "olmo", "husk"),
}
# Characters: pairs of clothes and background that are in no training caption together. Objects have a background alone.
PROMPTS = {
    "character": (
        ("a photo of {}, green background", "green"),
        ("{} wearing a white shirt, yellow background", "yellow"),
        ("{}, smiling, blue background", "blue"),
    ),
    "object": (
        ("a photo of {}, green background", "green"),
        ("a picture of {}, yellow background", "yellow"),
        ("an image of {}, blue background", "blue"),
    ),
}
COUNT, SEED, VERSION = 4, 100, 1
GRIDS = {
    "ED-LoRA": (
        "5e-3,2e-4,1.5e-3",
        "1e-2,2e-4,1.5e-3",
        "2.5e-3,2e-4,1.5e-3",
        "5e-3,2e-4,3e-3",
        "5e-3,2e-4,7.5e-4",
        "5e-3,6e-4,1.5e-3",
        "1e-2,6e-4,3e-3",
        "5e-3,6e-4,3e-3",
    ),
    "LoRA": ("0,2e-4,1.5e-3", "0,6e-4,1.5e-3", "0,2e-4,3e-3", "0,6e-4,3e-3"),
    "Custom Diffusion": ("5e-3,0,1e-3", "5e-3,0,3e-4", "5e-3,0,3e-3", "1e-2,0,1e-3"),
    "DreamBooth": ("0,0,1e-4", "0,0,3e-5", "0,0,3e-4"),
    "Textual Inversion": ("5e-3,0,0", "2e-2,0,0", "5e-2,0,0"),
    "P+": ("5e-3,0,0", "2e-2,0,0", "5e-2,0,0"),
}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Setting:
    """One point of the grid; 0 leaves a value to `auto`."""

    embedding: float
    text: float
    unet: float
    steps: int = 0

    @classmethod
    def read(cls, written: str) -> "Setting":
        parts = written.split(",")
        return cls(*(float(part) for part in parts[:3]), *(int(part) for part in parts[3:]))


@dataclass(frozen=True)
class Score:
    """Means over a concept's pictures; ``seconds`` is processor time of its training."""

    nearest: float
    similarity: float
    background: float
    drift: float
    seconds: float
    steps: int

    @property
    def total(self) -> float:
        """What settings are ranked by: likeness, as long as prompts are still followed."""
        return self.similarity + 0.1 * self.background + 0.1 * self.nearest - 0.1 * self.drift


class Tuner:
    """The small base in this process, with the judge and the cache."""

    def __init__(self, preset: str, kind: str):
        from mos_pack.nodes.bridge.demo import small_base
        from mos_world.judges import evaluator, evaluator_kinds

        self.preset, self.kind, self.prompts, self.evaluator = preset, kind, PROMPTS[kind], evaluator
        self.net = evaluator.load_evaluator()
        self.identity = evaluator.load_identity()
        rows = evaluator_kinds.load_features(kind, "soft", self.net)
        alike = {name: found[: len(found) // 2] for name, found in rows["alike"].items()}
        self.gallery = self.identity.Gallery(rows["train"] | alike)
        tables = {name: self.identity.similarities(found, self.gallery) for name, found in rows["test"].items()}
        columns = {name: self.gallery.names.index(name) for name in tables}
        self.ceiling = (
            float(np.mean([float((t.argmax(1) == columns[name]).float().mean()) for name, t in tables.items()])),
            float(np.mean([float(t[:, columns[name]].mean()) for name, t in tables.items()])),
        )
        self.base = small_base.load_small_base()
        self.stamp = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16]
        self._plain = {}

    def score(self, setting: Setting, name: str) -> Score:
        """From the cache, or by training."""
        facts = [VERSION, self.stamp, self.preset, asdict(setting), name, self.prompts, COUNT, SEED]
        path = CACHE / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]}.json"
        if not path.exists():
            found = self.measure(setting, name)
            CACHE.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(found)))
        return Score(**json.loads(path.read_text()))

    def measure(self, setting: Setting, name: str) -> Score:
        from mos_pack.mixofshow_core.training.settings import PRESETS
        from mos_pack.nodes.bridge.host import model as bridge_model
        from mos_pack.nodes.bridge.training import data as training_data
        from mos_pack.nodes.bridge.training import run as training_run

        folder, noun = str(ROOT / "world" / "data" / "concepts" / self.kind / name / "train"), class_of(name)
        data, _ = training_data.build(name, noun, self.kind, folder, "auto")
        chosen = replace(
            PRESETS[self.preset],
            lr_embedding=setting.embedding,
            lr_text=setting.text,
            lr_unet=setting.unet,
            preview_every=0,
        )
        request, _ = training_run.prepare(*self.base, data, chosen, "standard", setting.steps, 0, f"rates-{name}")
        begin = time.process_time()
        result = training_run.run_training(request)
        seconds = time.process_time() - begin
        result.path.unlink()
        (use,) = training_run.used_concepts(result)
        model, clip = bridge_model.apply_deltas(*self.base[:2], use.concept.deltas)
        similar, nearest, background = [], [], []
        column = self.gallery.names.index(name)
        for prompt, colour in self.prompts:
            pictures = self.paint(model, clip, prompt.format(name), use)
            table = self.identity.similarities(self.features(pictures), self.gallery)
            similar += table[:, column].tolist()
            nearest += (table.argmax(1) == column).float().tolist()
            background += self.has_background(pictures, colour)
        bare = f"a photo of {an(noun)}"
        if bare not in self._plain:
            self._plain[bare] = self.features(self.paint(*self.base[:2], bare, None))
        found = self.features(self.paint(model, clip, bare, use))
        drift = 1 - torch.nn.functional.cosine_similarity(found, self._plain[bare]).mean()
        return Score(
            float(np.mean(nearest)),
            float(np.mean(similar)),
            float(np.mean(background)),
            float(drift),
            seconds,
            request.settings.steps,
        )

    def paint(self, model, clip, prompt: str, use) -> np.ndarray:
        """uint8 [COUNT, S, S, 3] from the same noise every time."""
        from mos_pack.nodes.bridge.training import samples as training_samples

        latents = training_samples.sample_latents(model, clip, prompt, SEED, COUNT, use)
        return (self.base[2].decode(latents).float().cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8)

    def features(self, pictures: np.ndarray):
        return self.evaluator.features(self.net, [Image.fromarray(picture) for picture in pictures]).clone()

    @staticmethod
    def has_background(pictures: np.ndarray, colour: str) -> list[float]:
        """1 where the upper corners are nearest to the named colour."""
        from mos_world.drawing.captions import BACKGROUNDS

        corners = np.concatenate([pictures[:, :8, :6], pictures[:, :8, -6:]], 2).reshape(len(pictures), -1, 3)
        away = np.median(corners, 1)[:, None] - np.array(list(BACKGROUNDS.values()))
        return (np.square(away).sum(-1).argmin(1) == list(BACKGROUNDS).index(colour)).astype(float).tolist()


def tune(tuner: Tuner, settings: list[Setting], concepts: int, deadline: float) -> dict[Setting, dict[str, Score]]:
    """Rounds of twice as many concepts and half as many settings; stops at the deadline with what there is."""
    found: dict[Setting, dict[str, Score]] = {setting: {} for setting in settings}
    count = min(2, concepts)
    while True:
        for name in NAMES[tuner.kind][:count]:
            for setting in settings:
                if name in found[setting] or time.monotonic() > deadline:
                    continue
                found[setting][name] = score = tuner.score(setting, name)
                say(
                    f"  {name}, {setting}: nearest {score.nearest:.0%}, similarity {score.similarity:.3f}, "
                    f"{score.seconds:.0f} s"
                )
        if count >= concepts or time.monotonic() > deadline:
            return found
        count = min(2 * count, concepts)
        settings = sorted(settings, key=lambda s: -np.mean([x.total for x in found[s].values()]))
        settings = settings[: max(2, (len(settings) + 1) // 2)]


def table(tuner: Tuner, found: dict[Setting, dict[str, Score]]) -> list[str]:
    """Markdown, best first among those with as many concepts; intervals by bootstrap over concepts."""
    right, similar = tuner.ceiling
    lines = [
        f"{tuner.preset}, {tuner.kind}s, small base A ({tuner.stamp}), ten pictures; {COUNT} painted of each of "
        f"{len(tuner.prompts)} unseen prompts. Real held-out pictures: nearest right {right:.0%}, similarity "
        f"{similar:.2f}; chance {1 / len(tuner.gallery.names):.0%}.",
        "",
        "| embedding, text, UNet rate | steps | concepts | nearest is right | similarity | background | class drift | "
        "seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(
        (s for s in found if found[s]), key=lambda s: (-len(found[s]), -np.mean([x.total for x in found[s].values()]))
    )
    for setting in order:
        rows = list(found[setting].values())

        def cell(field: str, rows=rows) -> tuple[float, float, float]:
            return tuner.identity.bootstrap_interval([float(getattr(row, field)) for row in rows])

        near, close = cell("nearest"), cell("similarity")
        lines.append(
            f"| {setting.embedding:g}, {setting.text:g}, {setting.unet:g} | {rows[0].steps} | {len(rows)} | "
            f"{near[0]:.0%} [{near[1]:.0%}, {near[2]:.0%}] | {close[0]:.3f} [{close[1]:.3f}, {close[2]:.3f}] | "
            f"{np.mean([row.background for row in rows]):.0%} | {np.mean([row.drift for row in rows]):.2f} | "
            f"{np.mean([row.seconds for row in rows]):.0f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="ED-LoRA", choices=tuple(GRIDS))
    parser.add_argument("--kind", default="character", choices=tuple(NAMES))
    parser.add_argument("--concepts", type=int, default=4)
    parser.add_argument("--grid", nargs="*", default=())
    parser.add_argument("--steps", type=int, default=0, help="of settings that do not say; 0: what `auto` would choose")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no training after this")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    deadline = time.monotonic() + 60 * asked.minutes
    start()
    logging.getLogger("mixofshow").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    with torch.inference_mode():
        tuner = Tuner(asked.preset, asked.kind)
        settings = [Setting.read(written) for written in asked.grid or GRIDS[asked.preset]]
        settings = [setting if setting.steps else replace(setting, steps=asked.steps) for setting in settings]
        lines = table(tuner, tune(tuner, settings, asked.concepts, deadline))
    say("\n".join(lines))
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
