"""What an autoencoder keeps of real pictures: `python -m world.judges.autoencoder [--page]`.

Held-out pictures raw against encoded and decoded. Who it is: the nearest of 28 identities, once with references as
drawn and once with references that went the same way, and similarity to the very picture. What is read: hair, glasses,
eyes, mouth and expression, by a reader that was fitted on drawn pictures only (`face_reader.py`). What is left of eyes
and mouth without any reader: everybody is drawn twice, with and without them; the share of that difference that comes
through, 100 % being all of it. Edges: F-score of Canny's lines within one pixel. Every autoencoder also with noise on
its latents, because what a base paints is never quite on the spot.

`--page` writes the tables and the pictures of docs/evidence/autoencoder.md.
"""

from __future__ import annotations

import argparse
import importlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from .. import autoencoders
from ..autoencoders import to_float
from ..drawing import build
from ..drawing.captions import Scene
from ..drawing.people import HELD_OUT, NEIGHBOURS, dress
from . import evaluator, evaluator_kinds, face_reader
from .composites import FACE
from .face_reader import ABSENT, MOOD_OF, Drawing, choose_place, pixels_of

PAGE = evaluator.ROOT / "docs" / "evidence" / "autoencoder.md"
PICTURE = PAGE.with_name("images") / "autoencoder.jpg"
BEGIN, END = "<!-- begin: python -m world.judges.autoencoder --page -->\n", "<!-- end -->"
PER_IDENTITY, NOISE, SEED = 12, 0.2, 5
RAW = "as drawn"
View = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Portraits:
    """Held-out people [N, 3, 64, 64] in -1..1, and the same without eyes and without a mouth."""

    drawings: tuple[Drawing, ...]
    names: tuple[str, ...]
    whole: torch.Tensor
    blind: torch.Tensor
    mute: torch.Tensor


def draw_portraits() -> Portraits:
    """Every held-out identity in other clothes and moods than anywhere else, each at one place of its own."""
    rng = random.Random(SEED)
    people = [
        (name, dress(person, rng)) for name, person in {**HELD_OUT, **NEIGHBOURS}.items() for _ in range(PER_IDENTITY)
    ]
    drawings = [Drawing(person) for _, person in people]
    versions = (drawings, [Drawing(p, eyes=False) for _, p in people], [Drawing(p, mouth=False) for _, p in people])
    sprites = face_reader.render([d for version in versions for d in version], "portraits")
    places = [choose_place(rng) for _ in people]
    pixels = to_float(pixels_of([place.paste(sprite) for place, sprite in zip(places * 3, sprites, strict=True)]))
    return Portraits(tuple(drawings), tuple(name for name, _ in people), *pixels.split(len(people)))


def shown(pixels: torch.Tensor) -> torch.Tensor:
    """Rounded to what a picture can show."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def through(net: nn.Module, noise: float = 0.0, deviation: torch.Tensor | None = None) -> View:
    """Encoded, disturbed by ``noise`` times each channel's ``deviation`` [C], decoded; seeded."""

    @torch.inference_mode()
    def view(pixels: torch.Tensor) -> torch.Tensor:
        generator, out = torch.Generator().manual_seed(SEED), []
        for part in pixels.split(64):
            z = net.encode(part)
            if noise:
                z = z + noise * deviation.view(1, -1, 1, 1) * torch.randn(z.shape, generator=generator)
            out.append(shown(net.decode(z)))
        return torch.cat(out)

    return view


def kept(with_it: torch.Tensor, without: torch.Tensor, view: View) -> torch.Tensor:
    """[M] share of the difference between two drawings that comes through, of the pairs that differ at all.

    The projection of what is left on what was there: 1 is all of it, 0 a patch that no longer tells the two apart.
    """
    drawn = (with_it - without).flatten(1)
    visible = drawn.abs().amax(1) > 0.2
    left = (view(with_it[visible]) - view(without[visible])).flatten(1)
    drawn = drawn[visible]
    return (left * drawn).sum(1) / drawn.pow(2).sum(1)


def load_lines() -> Callable[[torch.Tensor], torch.Tensor]:
    """The pack's own line drawing, imported without the host."""
    package = evaluator.load_metrics("identity").__name__.split(".")[0]
    return importlib.import_module(f"{package}.mixofshow_core.regional.lines").draw_lines


def edge_scores(pixels: torch.Tensor, wanted: torch.Tensor, box: Sequence[int] = (0, 0, 64, 64)) -> torch.Tensor:
    """[N] F-scores of the lines of pictures against those of the raw ones, within one pixel; ``box`` as PIL has it."""
    draw_lines = load_lines()
    left, top, right, bottom = box
    lines = [draw_lines((p + 1) / 2)[..., top:bottom, left:right] for p in (pixels, wanted)]
    wide = [F.max_pool2d(part, 3, 1, 1) for part in lines]
    precision = (lines[0] * wide[1]).sum((1, 2, 3)) / lines[0].sum((1, 2, 3)).clamp(min=1)
    recall = (lines[1] * wide[0]).sum((1, 2, 3)) / lines[1].sum((1, 2, 3)).clamp(min=1)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-6)


def psnr(pixels: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """[N] dB."""
    return -10 * ((pixels - wanted).pow(2).mean((1, 2, 3)) / 4).clamp(min=1e-6).log10()


def read_files(paths: Sequence[Path]) -> torch.Tensor:
    """[N, 3, 64, 64] in -1..1."""
    return to_float(pixels_of([Image.open(p).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS) for p in paths]))


def features(net: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return evaluator.features(net, evaluator.to_pictures(pixels))


@dataclass(frozen=True)
class Identities:
    """The 28 of `world.judges.evaluator_kinds`: reference and test pictures [N, 3, 64, 64], and whose they are."""

    references: torch.Tensor
    owners: tuple[str, ...]
    tests: torch.Tensor
    names: tuple[str, ...]


def load_identities() -> Identities:
    files = evaluator_kinds.list_files("character")
    references = files["train"] | {name: paths[: len(paths) // 2] for name, paths in files["alike"].items()}
    parts = []
    for table in (references, files["test"]):
        parts += [
            read_files([p for paths in table.values() for p in paths]),
            tuple(name for name, paths in table.items() for _ in paths),
        ]
    return Identities(*parts)


def nearest(references: torch.Tensor, owners: Sequence[str], tests: torch.Tensor, names: Sequence[str]) -> list[float]:
    """1 where the nearest identity is the right one."""
    identity = evaluator.load_identity()
    rows = {name: references[[i for i, o in enumerate(owners) if o == name]] for name in dict.fromkeys(owners)}
    found = identity.nearest_identity(tests, identity.Gallery(rows))
    return [float(match.nearest == name) for match, name in zip(found, names, strict=True)]


def draw_things() -> torch.Tensor:
    """Every trained thing in every style, once: things have no held-out drawings, only new places and colours."""
    build.load_sprites()
    rng = random.Random(SEED)
    backgrounds = list(build.BACKGROUNDS)
    return to_float(
        torch.stack(
            [torch.from_numpy(build.draw(Scene((s,), rng.choice(backgrounds), ""), rng).copy()) for s in build._emoji]
        )
    )


def read_answers(reader: face_reader.Reader, portraits: Portraits, view: View) -> dict[str, list[float]]:
    """Measure -> 1 where what is read is right, 0 where not."""
    found = reader.answer(view(portraits.whole))
    labels = [d.labels() for d in portraits.drawings]
    known = {q: [i for i, row in enumerate(labels) if row[q]] for q in found}
    out = {q: [float(found[q][i] == labels[i][q]) for i in known[q]] for q in ("hair", "glasses")}
    for q in ("eyes", "mouth"):
        out[f"{q} there"] = [float(found[q][i] != ABSENT) for i in known[q]]
    out["which eyes"] = [float(found["eyes"][i] == labels[i]["eyes"]) for i in known["eyes"]]
    out["expression"] = [float(MOOD_OF.get(found["mouth"][i]) == MOOD_OF[labels[i]["mouth"]]) for i in known["mouth"]]
    # A reader that always says "there" would be useless: what it says of people drawn without.
    for q, pixels in (("eyes", portraits.blind), ("mouth", portraits.mute)):
        said = reader.answer(view(pixels))[q]
        out[f"no {q} seen where none are drawn"] = [float(said[i] == ABSENT) for i in known[q]]
    return out


def judge(view: View, base: dict) -> dict[str, Sequence[float] | torch.Tensor]:
    """Measure -> a value per picture."""
    portraits, identities, net = base["portraits"], base["identities"], base["net"]
    tests = features(net, view(identities.tests))
    rows: dict[str, Sequence[float] | torch.Tensor] = {
        "nearest of 28, references as drawn": nearest(base["references"], identities.owners, tests, identities.names),
        "nearest of 28, references likewise": nearest(
            features(net, view(identities.references)), identities.owners, tests, identities.names
        ),
        "similarity to oneself": F.cosine_similarity(tests, base["tests"]),
    }
    rows |= read_answers(base["reader"], portraits, view)
    rows["eyes: share that comes through"] = kept(portraits.whole, portraits.blind, view)
    rows["mouth: share that comes through"] = kept(portraits.whole, portraits.mute, view)
    coded = view(portraits.whole)
    rows["edges of people"] = edge_scores(coded, portraits.whole)
    rows["edges of faces"] = edge_scores(coded, portraits.whole, FACE)
    rows["PSNR of people (dB)"] = psnr(coded, portraits.whole)
    left, top, right, bottom = FACE
    faces = [p[..., top:bottom, left:right] for p in (coded, portraits.whole)]
    rows["PSNR of faces (dB)"] = psnr(*faces)
    for name, pixels in base["others"].items():
        out = view(pixels)
        rows[f"{name}: PSNR (dB)"] = psnr(out, pixels)
        rows[f"{name}: edges"] = edge_scores(out, pixels)
        rows[f"{name}: similarity to oneself"] = F.cosine_similarity(features(net, out), base["features"][name])
    return rows


def gather() -> dict:
    """Everything that does not depend on the autoencoder."""
    net, identities = evaluator.load_evaluator(), load_identities()
    others = {"things": draw_things()}
    for kind in ("object", "scene", "style"):
        files = evaluator_kinds.list_files(kind)["test"]
        others[f"{kind}s"] = read_files([p for paths in files.values() for p in paths])
    return {
        "net": net,
        "identities": identities,
        "references": features(net, identities.references),
        "tests": features(net, identities.tests),
        "reader": face_reader.load(),
        "portraits": draw_portraits(),
        "others": others,
        "features": {name: features(net, pixels) for name, pixels in others.items()},
    }


@torch.inference_mode()
def milliseconds(net: nn.Module, channels: int) -> float:
    """Median time to decode one picture of 64 pixels on one thread."""
    z, times = torch.randn(1, channels, 8, 8), []
    for _ in range(60):
        start = time.perf_counter()
        net.decode(z)
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def cell(name: str, values: Sequence[float] | torch.Tensor) -> str:
    """Shares as per cent with a 95 % interval over pictures; dB and similarities as they are."""
    mean, low, high = evaluator.load_identity().bootstrap_interval(values)
    if "dB" in name:
        return "-" if mean > 59 else f"{mean:.1f}"
    if "similarity" in name or "edges" in name:
        return f"{mean:.3f}"
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]"


def build_table(nets: dict[str, nn.Module]) -> list[str]:
    """Lines of the table: measures down, as drawn and every autoencoder across."""
    base = gather()
    columns, found = {RAW: shown}, {}
    for name, net in nets.items():
        with torch.inference_mode():
            deviation = net.encode(base["portraits"].whole).std((0, 2, 3))
        columns |= {name: through(net), f"{name}, noise {NOISE}": through(net, NOISE, deviation)}
    for name, view in columns.items():
        print(f"  {name} ...", flush=True)
        found[name] = judge(view, base)
    lines = [f"| Measure | {' | '.join(columns)} | Pictures |", "|---" * (len(columns) + 2) + "|"]
    for measure, values in found[RAW].items():
        cells = [cell(measure, rows[measure]) for rows in found.values()]
        lines.append(f"| {measure} | {' | '.join(cells)} | {len(values)} |")
    times = [f"{milliseconds(net, net.channels):.1f} | " for net in nets.values()]
    sizes = [
        f"{net.channels} x 8 x 8; {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M | " for net in nets.values()
    ]
    lines.append(f"| ms to decode one, one core | - | {'| '.join(times)}| |")
    lines.append(f"| latent of 64 x 64; parameters | - | {'| '.join(sizes)}| |")
    return lines


def draw_comparison(nets: dict[str, nn.Module], path: Path) -> None:
    """One row of held-out people as drawn and one per autoencoder, twice as large."""
    portraits = draw_portraits()
    rows = portraits.whole[::PER_IDENTITY][:12]
    sheet = torch.cat([torch.cat(list(view(rows)), 2) for view in (shown, *(through(n) for n in nets.values()))], 1)
    picture = evaluator.to_pictures(sheet[None])[0]
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(path, quality=92)


def load_nets(extra: Sequence[Path]) -> dict[str, nn.Module]:
    """The shipped base's autoencoder first, then snapshots."""
    return {"shipped": evaluator.load_autoencoder()[0]} | {path.stem: autoencoders.load(path) for path in extra}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshots", nargs="*", type=Path, help="more snapshots of world.training.autoencoder")
    parser.add_argument("--page", action="store_true", help="write the table and the picture of the page")
    parser.add_argument("--picture", type=Path, help="only paint the comparison into this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    nets = load_nets(options.snapshots)
    if options.picture:
        return draw_comparison(nets, options.picture)
    table = "\n".join(build_table(nets))
    print(table)
    if options.page:
        text = PAGE.read_text(encoding="utf-8")
        if BEGIN not in text:
            raise SystemExit(f"{PAGE.name} lacks the line {BEGIN.strip()!r} under which the table belongs.")
        before, rest = text.split(BEGIN, 1)
        PAGE.write_text(before + BEGIN + "\n" + table + "\n\n" + END + rest.split(END, 1)[1], encoding="utf-8")
        draw_comparison(nets, PICTURE)
    return None


if __name__ == "__main__":
    main()
