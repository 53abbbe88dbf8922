"""What a small base paints, by probes fitted on real pictures: `python -m world.judges.scores --base A`.

Single things and people on named backgrounds, then two subjects side by side without regions. Everything runs in the
host with the sampler settings below. Intervals are 95 % bootstraps over pictures (over halves for two subjects).
"real" is the same question asked of real composites seen through the base's autoencoder: the ceiling.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ..drawing import build
from ..drawing.captions import BACKGROUNDS, EMOJI, Scene, Subject
from ..drawing.people import GLASSES, HAIR_COLOURS, Person
from ..host import MODULES, ROOT, small_base
from . import bridge_score, composites, evaluator, probes

STEPS, GUIDANCE, SAMPLER, SCHEDULER = 20, 5.0, "dpmpp_2m", "normal"
BATCH = 24
HAIR = ("long {} hair", "short {} hair", "curly {} hair", "a {} bob")


@dataclass(frozen=True)
class Case:
    """A prompt, and what each 64 pixel field should show: question -> answer."""

    prompt: str
    fields: tuple[dict[str, str], ...]
    scene: Scene | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table; shares with (mean, low, high)."""

    title: str
    base: tuple[float, float, float]
    real: tuple[float, float, float] | None
    chance: float | None
    count: int


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plan_things(count: int) -> list[Case]:
    """Every class `count` times, on changing backgrounds."""
    colours = list(BACKGROUNDS)
    return [
        Case(
            f"{article(word)}, {colours[(i + 3 * k) % 10]} background",
            ({"class": word, "background": colours[(i + 3 * k) % 10]},),
        )
        for k in range(count)
        for i, word in enumerate(EMOJI)
    ]


def plan_people(count: int) -> list[Case]:
    """Every hair colour without glasses, with glasses and with sunglasses, `count` times."""
    colours, out = list(BACKGROUNDS), []
    for k in range(count):
        for i, hair in enumerate(HAIR_COLOURS):
            for j, glasses in enumerate(("", *GLASSES)):
                background = colours[(i + 3 * j + 5 * k) % 10]
                words = HAIR[(i + j + k) % len(HAIR)].format(hair) + (f" and {glasses}" if glasses else "")
                out.append(
                    Case(
                        f"a person with {words}, {background} background",
                        (
                            {
                                "class": "person",
                                "hair": hair,
                                "glasses": glasses or "no glasses",
                                "background": background,
                            },
                        ),
                    )
                )
    return out


def plan_doubles(count: int) -> list[Case]:
    """Two subjects that differ: half of the cases two people, a quarter a thing and a person, a quarter two things."""
    if not build._people:
        build.load_sprites()
    rng, out = random.Random(5), []
    crowd = [
        p
        for i, p in enumerate(build._people)
        if i % 6 == 5 and composites.label_subject(p)["hair"] and "dreadlocks" not in p.what.hair
    ]
    kinds = (("person", "person"), ("thing", "person"), ("person", "person"), ("thing", "thing"))
    while len(out) < count:
        pair = [rng.choice(crowd if kind == "person" else build._emoji) for kind in kinds[len(out) % 4]]
        labels = [composites.label_subject(subject) for subject in pair]
        if labels[0]["class"] == labels[1]["class"] and labels[0]["hair"] == labels[1]["hair"]:
            continue
        if rng.random() < 0.5:
            pair.reverse()
            labels.reverse()
        background = rng.choice(list(BACKGROUNDS))
        names = [name_half(subject) for subject in pair]
        prompt = f"{names[0]} on the left and {names[1]} on the right, {background} background"
        fields = tuple({k: v for k, v in label.items() if v and k != "glasses"} for label in labels)
        out.append(Case(prompt, fields, Scene(tuple(pair), background, prompt)))
    return out


def name_half(subject: Subject) -> str:
    if not isinstance(subject.what, Person):
        return article(subject.what)
    style, colour = subject.what.hair, subject.what.hair_colour
    first, _, noun = style.partition(" ")
    return f"a person with a {colour} {noun}" if first in ("a", "an") else f"a person with {first} {colour} {noun}"


def load_base(which: str, weights: Path | None = None) -> tuple:
    """MODEL, CLIP and VAE of the shipped file or of ``weights``, in the host."""
    import importlib

    small_base()
    module = importlib.import_module(f"mos_pack.nodes.bridge.demo.{MODULES[which]}")
    return getattr(module, f"load_{MODULES[which]}")(weights or module.WEIGHTS)


@torch.inference_mode()
def paint(base: tuple, prompts: list[str], width: int, seed: int, height: int = 64) -> list[Image.Image]:
    """One picture per prompt, by the host's own sampling, in batches of different prompts."""
    import comfy.sample
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    model, clip, vae = base
    known: dict[str, tuple] = {}

    def encode(texts: list[str]) -> list:
        for text in set(texts) - set(known):
            context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
            known[text] = (context, pooled)
        extras = [known[text][1] for text in texts]
        extra = {} if extras[0] is None else {"pooled_output": torch.cat(extras)}
        return [[torch.cat([known[text][0] for text in texts]), extra]]

    out: list[Image.Image] = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        latent = torch.zeros(len(part), vae.latent_channels, height // 8, width // 8)
        latent = comfy.sample.fix_empty_latent_channels(model, latent)  # of films, with frames
        noise = comfy.sample.prepare_noise(latent, seed + start)
        latent = comfy.sample.sample(
            model,
            noise,
            STEPS,
            GUIDANCE,
            SAMPLER,
            SCHEDULER,
            encode(part),
            encode([""]),
            latent,
            disable_pbar=True,
            seed=seed + start,
        )
        pictures = vae.decode(latent).flatten(0, -4)  # of films, their frames
        pictures = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        out += [Image.fromarray(picture) for picture in pictures]
    return out


def cut(pictures: list[Image.Image]) -> list[Image.Image]:
    """Fields of 64 pixels, left to right, picture after picture."""
    return [p.crop((x, 0, x + 64, 64)) for p in pictures for x in range(0, p.width, 64)]


def judge_half(said: dict[str, str], own: dict[str, str], other: dict[str, str]) -> str:
    """ "right", "swapped" (what the other side should be) or "mixed". A person is right with the named hair colour."""
    for word, wanted in (("right", own), ("swapped", other)):
        if all(said[question] == answer for question, answer in wanted.items()):
            return word
    return "mixed"


def score_singles(fitted: dict, sets: dict, net: torch.nn.Module, things: list, people: list) -> tuple[list[Row], dict]:
    """Rows for single prompts; each list holds (case, picture)."""
    interval = evaluator.load_identity().bootstrap_interval
    real = {row["question"]: row["test_soft"] for row in probes.report(fitted, sets)}
    said, rows = probes.answer_all(fitted, net, [picture for _, picture in things + people])
    wanted = [case.fields[0] for case, _ in things + people]
    out = []
    for title, question, part in (
        ("single things: named class", "class", range(len(things))),
        ("people: a person at all", "class", range(len(things), len(said))),
        ("background colour", "background", range(len(said))),
        ("people: hair colour", "hair", range(len(things), len(said))),
        ("people: none, glasses or sunglasses", "glasses", range(len(things), len(said))),
    ):
        hits = [float(said[i][question] == wanted[i][question]) for i in part]
        out.append(Row(title, interval(hits), real[question], 1 / len(fitted[question].answers), len(hits)))
    wrong: dict[str, list[str]] = {}
    for i in range(len(things)):
        if said[i]["class"] != wanted[i]["class"]:
            wrong.setdefault(wanted[i]["class"], []).append(said[i]["class"])
    prompts = [case.prompt for case, _ in things + people]
    bridge = bridge_score.load_bridge(sets)
    scores = bridge.scores(rows, bridge_score.text_features(prompts))
    own = scores.diagonal()[:, None]
    different = torch.tensor([[a != b for b in prompts] for a in prompts])
    beats = ((scores < own) & different).sum(1) / different.sum(1)
    ceiling = bridge_score.report(bridge, sets["test_soft"])["beats"]
    out.append(Row("text match: own prompt beats another (bridge score)", interval(beats), ceiling, 0.5, len(beats)))
    return out, {"wrong_classes": wrong}


def score_doubles(fitted: dict, net: torch.nn.Module, cases: list[Case], pictures: list[Image.Image]) -> list[Row]:
    """Rows for two subjects without regions; "real" draws the same scenes from real pictures."""
    interval = evaluator.load_identity().bootstrap_interval
    rng = random.Random(6)
    drawn = evaluator.see_through_base([Image.fromarray(build.draw(case.scene, rng)) for case in cases])
    verdicts = []
    for shown in (pictures, drawn):
        said = probes.answer_all(fitted, net, cut(shown))[0]
        verdicts.append(
            [
                judge_half(said[2 * i + side], case.fields[side], case.fields[1 - side])
                for i, case in enumerate(cases)
                for side in (0, 1)
            ]
        )
    people = [all(field["class"] == "person" for field in case.fields) for case in cases for _ in (0, 1)]

    def row(title: str, good: tuple[str, ...], only: list[bool]) -> Row:
        base, real = (interval([float(v in good) for v, kept in zip(vs, only, strict=True) if kept]) for vs in verdicts)
        return Row(title, base, real, None, sum(only))

    every = [True] * len(people)
    return [
        row("two subjects, no regions: confusion (half wrong or mixed)", ("swapped", "mixed"), every),
        row("- of these: the other side's subject", ("swapped",), every),
        row("- two people: confusion", ("swapped", "mixed"), people),
        row("- with a thing: confusion", ("swapped", "mixed"), [not p for p in people]),
    ]


def show(row: Row) -> str:
    def share(values: tuple[float, float, float] | None) -> str:
        return "" if values is None else f"{values[0]:.0%} [{values[1]:.0%}, {values[2]:.0%}]"

    chance = "" if row.chance is None else f"{row.chance:.0%}"
    return f"| {row.title} | {share(row.base)} | {share(row.real)} | {chance} | {row.count} |"


def save_sheet(pictures: list[Image.Image], path: Path, columns: int = 21) -> None:
    width = pictures[0].width
    columns = columns * 64 // width
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * 64), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * 64))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", choices=sorted(MODULES), default="A")
    parser.add_argument("--weights", type=Path, help="another file of that base, on trial")
    parser.add_argument("--count", type=int, default=3, help="pictures per class and per hair colour with glasses")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file; the table goes beside it as .md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    base = load_base(options.base, options.weights)
    sets, net = composites.load_composites(), evaluator.load_evaluator()
    fitted = probes.load_probes(sets)
    things, people, doubles = plan_things(options.count), plan_people(options.count), plan_doubles(16 * options.count)
    painted = [
        paint(base, [case.prompt for case in cases], width, options.seed + 1000 * i)
        for i, (cases, width) in enumerate(((things, 64), (people, 64), (doubles, 128)))
    ]
    print(f"painted in {time.time() - start:.0f} s", flush=True)
    singles, record = score_singles(
        fitted, sets, net, list(zip(things, painted[0], strict=True)), list(zip(people, painted[1], strict=True))
    )
    rows = singles + score_doubles(fitted, net, doubles, painted[2])
    out = options.out or ROOT / "docs" / "evidence" / f"scores-{options.base}.json"
    seconds = round(time.time() - start)
    out.write_text(
        json.dumps(
            {
                "base": options.base,
                "count": options.count,
                "seed": options.seed,
                "seconds": seconds,
                "rows": [vars(row) for row in rows],
                **record,
            },
            indent=1,
        )
        + "\n"
    )
    table = "\n".join(
        (
            f"| base {options.base} | painted | real, through the autoencoder | chance | n |",
            "|---|---|---|---|---|",
            *map(show, rows),
        )
    )
    out.with_suffix(".md").write_text(table + "\n")
    print(table)
    for i, pictures in enumerate(painted):
        save_sheet(pictures, evaluator.CACHE / f"scores-{options.base}-{('things', 'people', 'doubles')[i]}.png")
    print(f"{seconds} s; {out}")


if __name__ == "__main__":
    main()
