"""A reading of places learned on a base: pictures of plain things in drawn regions, where the truth is known.

Two or three things stand in columns whose order has nothing to do with the order of the words, so that what is fitted
reads places and not grammar. No concept takes part: the reading is one of the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import comfy.sample
import torch
from torch import Tensor

from ....mixofshow_core.atomic import replacing
from ....mixofshow_core.families.family import CELL
from ....mixofshow_core.families.nets import cross_attention_layers
from ....mixofshow_core.regional.finding import Fit, Reading, picker, resized
from ....mixofshow_core.regional.raster import RegionMap, make_map
from ....mixofshow_core.regional.schema import Rectangle, Region, RegionSet
from ..host.model import describe_base, native_size, net_of
from ..host.progress import Progress
from ..host.text import encode_layered
from .finding import Search
from .payload import Payload
from .readings import kept_path, write_reading
from .routing import Routes
from .words import NOBODY, tokens_of
from .wrappers import patch_model, with_payload

THINGS = ("a person", "a cat", "a dog", "a car", "a house", "a tree", "a robot", "a bear")
SENTENCES = {
    2: (
        "{} and {}",
        "{} on the left and {} on the right",
        "{} on the right and {} on the left",
    ),
    3: (
        "{}, {} and {}",
        "{} on the left, {} in the middle and {} on the right",
        "{} on the right, {} in the middle and {} on the left",
    ),
}
ENDINGS = ("", ", green background", ", white background", ", blue background")
STEPS, CFG, PICTURES, SEED = 12, 4.0, 2, 5


@dataclass(frozen=True)
class Scene:
    """Things in the order of the sentence, the column of each, and the share of the columns that stays free."""

    things: tuple[str, ...]
    columns: tuple[int, ...]
    prompt: str
    margin: float

    def placed(self, side: int) -> RegionMap:
        """Every thing's column, in the order of the sentence."""
        count = len(self.things)
        width = (1 - self.margin) / count
        regions = tuple(
            Region(f"r{n}", Rectangle(column / count + self.margin / count / 2, 0.0, width, 1.0), prompt=thing)
            for n, (thing, column) in enumerate(zip(self.things, self.columns, strict=True))
        )
        return make_map(RegionSet(side * count, side, regions))


def scenes(count: int, seed: int, things: Sequence[str] = THINGS, ordered: bool = False) -> Iterator[Scene]:
    """Of two and three things by turns; drawn by a generator of its own.

    ordered: columns in the order of the words, for a base that paints in that order whatever the words say.
    """
    draw = torch.Generator().manual_seed(seed)

    def shuffled(number: int) -> list[int]:
        return torch.randperm(number, generator=draw).tolist()

    for number in range(count):
        size = 2 + number % 2
        chosen = tuple(things[n] for n in shuffled(len(things))[:size])
        sentences = [text for text in SENTENCES[size] if not (ordered and text.index("{}") < text.find("right") < 12)]
        sentence = sentences[shuffled(len(sentences))[0]] + ENDINGS[shuffled(len(ENDINGS))[0]]
        columns = tuple(range(size)) if ordered else tuple(shuffled(size))
        yield Scene(chosen, columns, sentence.format(*chosen), 0.15 * (number % 3))


@dataclass(eq=False)
class Recording:
    """Stands in for a reading and keeps the features of the last call by layer. ``weights``: layer -> heads."""

    weights: dict[int, int]
    offset: float = 1.0
    seen: dict[int, Tensor] = field(default_factory=dict)

    def kernel(self, layer: int, people: int) -> Tensor:
        return torch.tensor([layer, people])

    def maps(self, kernel: Tensor, features: Tensor, grid: tuple[int, int]) -> Tensor:
        layer, people = kernel.tolist()
        parted = features.unflatten(3, (people, -1)).permute(0, 1, 4, 3, 2)
        self.seen[layer] = parted.unflatten(4, grid)  # [B, H, WORDS, K, h, w]
        return features.new_zeros(features.shape[0], people + 1, *grid)

    def features(self, size: tuple[int, int]) -> Tensor:
        """[B, P, K, heads of all layers x WORDS] at one size."""
        parts = []
        for layer in self.weights:
            maps = self.seen[layer]
            large = resized(maps.flatten(1, 3), size).unflatten(1, maps.shape[1:4])
            parts.append(large.flatten(4).permute(0, 4, 3, 1, 2).flatten(3))
        return torch.cat(parts, 3)


def owners_of_things(clip, scene: Scene) -> Tensor:
    """[T]: the number of the thing that each token belongs to."""
    tokens, content = tokens_of(clip, scene.prompt)
    owners = [NOBODY] * len(tokens)
    for number, thing in enumerate(scene.things):
        own, places = tokens_of(clip, thing.split()[-1])
        phrase = [own[place] for place in places]
        for start in range(len(content) - len(phrase) + 1):
            here = content[start : start + len(phrase)]
            if [tokens[place] for place in here] == phrase:
                for place in here:
                    owners[place] = number
    return torch.tensor(owners)


def learn_reading(
    model, clip, count: int, seed: int, ordered: bool = False, tick: Callable[[], None] = lambda: None
) -> Reading:
    """The reading of this base from `count` scenes, `PICTURES` of each. The host's interrupt passes through."""
    heads = {layer.index: layer.heads for layer in cross_attention_layers(net_of(model))}
    fit = Fit(heads)
    for number, scene in enumerate(scenes(count, seed, ordered=ordered)):
        for features, truth in watch(model, clip, heads, scene, seed + number):
            for picture in features:
                fit.add(picture, truth)
        tick()
    return fit.solve()


def watch(model, clip, heads: dict[int, int], scene: Scene, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(features [B, P, K, F], truth [P, K]) at every second step of a sampling with the scene's regions drawn."""
    layers, side = len(heads), native_size(model)
    placed, numbers = scene.placed(side), tuple(range(len(scene.things)))
    recording = Recording(dict(heads))
    routes = Routes({}, (None,) * len(numbers), None, len(numbers), search=Search(numbers, (), recording))
    base, negative = (encode_layered(clip, text, layers) for text in (scene.prompt, ""))
    texts = tuple(encode_layered(clip, thing, layers).context for thing in scene.things)
    chosen = picker(owners_of_things(clip, scene).tolist(), numbers)
    payload = Payload(base.context.shape[1], None, texts, placed, routes, chosen=chosen)
    silent = Payload(negative.context.shape[1], None, (negative.context,) * len(texts), placed, routes)
    patched = patch_model(model)
    latent = torch.zeros(PICTURES, 4, placed.regions.height // CELL, placed.regions.width // CELL)
    latent = comfy.sample.fix_empty_latent_channels(patched, latent)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    size = tuple(latent.shape[-2:])
    truth = resized(placed.masks[None].float() / 255, size)[0].flatten(1).T
    found: list[tuple[Tensor, Tensor]] = []

    def keep(step: int, *_: object) -> None:
        if step % 2:
            found.append((recording.features(size), truth))

    comfy.sample.sample(
        patched,
        noise,
        STEPS,
        CFG,
        "euler",
        "normal",
        with_payload(base.context, dict(base.extras), payload),
        with_payload(negative.context, dict(negative.extras), silent),
        latent,
        callback=keep,
        disable_pbar=True,
        seed=seed,
    )
    return found


def learn_and_keep(model, clip, count: int) -> str:
    """Learn a reading on MODEL's base and keep it for every Place with this base; what became of it, in a line."""
    base, progress, seen = describe_base(model), Progress(count), iter(range(1, count + 1))

    def tick() -> None:
        number = next(seen)
        progress.step(number, words=f"scene {number} of {count}")

    reading, path = learn_reading(model, clip, count, SEED, tick=tick), kept_path(base)
    with replacing(path) as part:
        part.write_text(write_reading(reading, base, {"learned": f"{count} scenes"}), encoding="utf-8")
    return f"learned from {count} scenes and kept as {path.name}: Place uses it for this base from now on"
