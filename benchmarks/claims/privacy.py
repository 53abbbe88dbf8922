"""What statistics give away, tried: docs/privacy.md.

    python -m benchmarks.claims.privacy               ten characters of the small world; an hour of one core
    python -m benchmarks.claims.privacy --people 4 --steps 60

An attacker has the base, the plan of the calibration (both are public) and what a client published, and asks
1. who it is: the published Grams of spatial layers against those of held-out pictures of every candidate, put through
   the base with noise (no concept file is needed); 2. what was trained on: the same with the pictures that were trained
   on against held-out ones of the same person; 3. which words the prompts had, and where: every (word, place) by how
   well the text encoder's first Gram accounts for it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.cost.start import start
from world.judges.evaluator_kinds import CONCEPTS, picture_files

NOISES = (0.2, 0.4, 0.6, 0.8)  # share of the noise schedule at which pictures are put through the net
PLACES = 20  # of a word in a prompt
RIDGE = 1e-6
RANKS = (64, 16)  # of compressed statistics; layers of the small base are 64 and 128 wide


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def open_session(names: list[str], steps: int):
    from mos_pack.headless.project import parse_project
    from mos_pack.headless.told import Teller
    from mos_pack.headless.work import Session

    folder = CONCEPTS / "character"
    parts = {
        name: {"dataset": {"class_word": "person", "folder": str(folder / name / "train")}, "train": {"seed": n}}
        for n, name in enumerate(names)
    }
    facts = {
        "version": 1,
        "model": {"base": "SD1.5 kind"},
        "train": {"steps": steps},
        "train_settings": {"preview_every": 0},
        "concepts": parts,
        "fuse": {"calibration": "standard"},
    }
    return Session(parse_project(facts, Path("mixofshow.yaml")), Teller(quiet=True)).start()


def publish(session, names: list[str], folder: Path) -> dict[str, dict[str, dict[str, object]]]:
    """kind -> name -> group -> Gram, read back as a stranger reads them."""
    from mos_pack.headless.centre import send
    from mos_pack.mixofshow_core.fusion.store import read_statistics

    kinds = {"statistics": 0, **{f"compressed, {rank}": rank for rank in RANKS}}
    found: dict[str, dict] = {kind: {} for kind in kinds}
    for name in names:
        part = session.parts([name])[0]
        session.train(part)
        for kind, rank in kinds.items():
            sent = send(session, part, folder / kind, name, kind.partition(",")[0], rank)
            found[kind][name] = dict(read_statistics(sent / f"{name}.statistics")[0].grams)
        say(f"  {name} published")
    return found


def grams_of_pictures(session, files: list[Path]) -> dict[str, object]:
    """What the spatial layers of the base read while these pictures, with noise, go through it."""
    import comfy.model_management
    from mos_pack.mixofshow_core.families.layers import ROLE_SPATIAL
    from mos_pack.mixofshow_core.fusion.capture import Capture
    from mos_pack.nodes.bridge.fusing.fusion import attention_groups
    from mos_pack.nodes.bridge.host.model import named_linears

    model, clip, vae = session.base
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in files])
    with torch.inference_mode():
        latents = model.model.process_latent_in(vae.encode(torch.from_numpy(pixels).float() / 255)).float()
        context = clip.encode_from_tokens(clip.tokenize("a photo of a person"), return_pooled=True)[0]
        comfy.model_management.load_models_gpu([model])
        groups = [group for group in attention_groups(model, clip) if group.role == ROLE_SPATIAL]
        capture = Capture([group.name for group in groups])
        capture.weights = torch.ones(len(latents))
        linears = named_linears(model, clip)
        sampling = model.get_model_object("model_sampling")
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        with capture.watching({group.name: linears[group.members[0]] for group in groups}):
            for share in NOISES:
                sigma = sampling.percent_to_sigma(share) * torch.ones(len(latents))
                x = sampling.noise_scaling(sigma.view(-1, 1, 1, 1), noise, latents)
                model.model.apply_model(x, sigma, c_crossattn=context.expand(len(latents), -1, -1))
    return capture.finish()


def as_vector(grams: dict, names: list[str]) -> torch.Tensor:
    """All groups in one vector, each of norm 1: what is alike is told by the angle."""
    return torch.cat([(m := grams[name].matrix.flatten()) / m.norm() for name in names])


def guess(published: dict[str, dict], candidates: dict[str, dict]) -> float:
    """Share of the published that lie nearest to their own candidate; what all have in common is taken away first."""
    groups = sorted(next(iter(candidates.values())))
    left, right = ({name: as_vector(grams, groups) for name, grams in side.items()} for side in (published, candidates))
    middle = [sum(side.values()) / len(side) for side in (left, right)]
    hits = 0
    for name, vector in left.items():
        scores = {
            other: float(torch.cosine_similarity(vector - middle[0], theirs - middle[1], dim=0))
            for other, theirs in right.items()
        }
        hits += max(scores, key=scores.get) == name
    return hits / len(left)


def guess_training(
    published: dict[str, dict], trained: dict[str, dict], held_out: dict[str, dict]
) -> tuple[float, float]:
    """Share of the published that lie nearer to pictures that were trained on than to held-out ones of the same person;
    and the same for all other people's pictures, which this client never saw: what the attack gives for nothing."""
    groups = sorted(next(iter(trained.values())))
    vectors = [{n: as_vector(grams, groups) for n, grams in side.items()} for side in (published, trained, held_out)]
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for name, own in vectors[0].items():
        for other in vectors[1]:
            nearer = float((own - vectors[1][other]).norm()) < float((own - vectors[2][other]).norm())
            hits[name == other].append(nearer)
    return sum(hits[True]) / len(hits[True]), sum(hits[False]) / len(hits[False])


def candidate_words(clip) -> set[int]:
    """Tokens of everything that is written under the small world's pictures and in the plan's own prompts."""
    from mos_pack.mixofshow_core.fusion.plan import GENERIC, TEMPLATES

    texts = {path.read_text() for path in CONCEPTS.glob("*/*/*/*.txt")} | {*GENERIC, *TEMPLATES}
    return {int(token[0]) for text in texts for token in clip.tokenize(text)["l"][0] if isinstance(token[0], int)}


def recovered_words(session, grams: dict) -> float:
    """Share of the prompts' (word, place) pairs among as many of the attacker's best guesses."""
    clip = session.base[1]
    tower = clip.cond_stage_model.clip_l.transformer.text_model
    table, places = tower.embeddings.token_embedding.weight, tower.embeddings.position_embedding.weight
    truth = set()
    for template in session.plan.templates:  # the name stands for two learned words, which no vocabulary has
        one, other = (
            [token[0] for token in clip.tokenize(template.format(f"{word} {word}"))["l"][0]]
            for word in ("man", "woman")
        )
        end = clip.tokenizer.clip_l.end_token
        length = one.index(end, 1) if end in one[1:] else len(one)
        truth |= {(int(one[n]), n) for n in range(1, length) if one[n] == other[n]}
    first = next(group for group in sorted(grams) if "layers.0.self_attn" in group and not group.endswith("out"))
    words = torch.tensor(sorted(candidate_words(clip) | {token for token, _ in truth}))
    with torch.inference_mode():
        rows = tower.encoder.layers[0].layer_norm1((table[words][:, None] + places[None, :PLACES]).float()).double()
        matrix = grams[first].matrix
        matrix = matrix / matrix.trace() + RIDGE * torch.eye(len(matrix), dtype=matrix.dtype)
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(matrix), rows.flatten(0, 1).mT, upper=False)
        score = -half.square().sum(0)  # what was seen often costs little
    best = score.topk(len(truth)).indices.tolist()
    guessed = {(int(words[index // PLACES]), index % PLACES) for index in best}
    return len(guessed & truth) / len(truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--steps", type=int, default=0, help="of training; 0: as Train chooses")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    start()
    folder = CONCEPTS / "character"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())[: options.people]
    session = open_session(names, options.steps)
    with tempfile.TemporaryDirectory() as place:
        published = publish(session, names, Path(place))
        count = min(len(picture_files(folder / name / part)) for name in names for part in ("train", "test"))
        seen, unseen = (
            {name: grams_of_pictures(session, picture_files(folder / name / part)[:count]) for name in names}
            for part in ("train", "test")
        )
        rows = {}
        for kind, grams in published.items():
            words = [recovered_words(session, grams[name]) for name in names]
            trained_on, of_others = guess_training(grams, seen, unseen)
            rows[kind] = {
                "who": guess(grams, unseen),
                "trained_on": trained_on,
                "trained_on_of_others": of_others,
                "words": sum(words) / len(words),
            }
            say(f"{kind}: {json.dumps(rows[kind])}")
    found = {
        "people": len(names),
        "chance": {"who": 1 / len(names), "trained_on": 0.5},
        "pictures": count,
        "kinds": rows,
    }
    say(json.dumps(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
