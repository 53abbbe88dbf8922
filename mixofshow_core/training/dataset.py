"""Pictures with captions and masks, read and checked before any long work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..bounds import meaning
from ..concept import KINDS
from ..errors import MixOfShowError
from ..names import fold, is_name, normal
from .captions import STYLES, as_tags, check_names, looks_like_tags, with_name

MIN_SIDE = 64
INVERTED_RIM, INVERTED_MIDDLE = 0.75, 0.35  # shares of white beyond which a mask looks inverted
DARK = 128  # a mask that is nowhere brighter shows no object


@dataclass(frozen=True, eq=False)
class Picture:
    """``pixels`` [H, W, 3] uint8, ``mask`` [H, W] uint8 (255 = object) or None, ``caption`` with the name in it."""

    source: str
    pixels: np.ndarray
    caption: str
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        height, width = self.pixels.shape[:2]
        if self.pixels.dtype != np.uint8 or self.pixels.shape[2:] != (3,):
            raise MixOfShowError(f"{self.source}: pixels must be [H, W, 3] uint8, not {self.pixels.shape}.")
        if min(height, width) < MIN_SIDE:
            raise MixOfShowError(
                f"{self.source} is {width}x{height}; pictures need at least {MIN_SIDE} pixels on each side."
            )
        if self.mask is not None and self.mask.shape != (height, width):
            raise MixOfShowError(
                f"{self.source}: the mask is {self.mask.shape[1]}x{self.mask.shape[0]}, the picture {width}x{height}. "
                f"Give a mask of the picture's size."
            )

    def digest(self) -> str:
        content = hashlib.sha256(repr((self.pixels.shape, self.caption)).encode())
        content.update(np.ascontiguousarray(self.pixels).tobytes())
        if self.mask is not None:
            content.update(np.ascontiguousarray(self.mask).tobytes())
        return content.hexdigest()


@dataclass(frozen=True, eq=False)
class ConceptPictures:
    """The pictures of one concept; ``style`` is how their captions are written."""

    name: str
    class_word: str
    kind: str
    pictures: tuple[Picture, ...]
    style: str = "sentences"

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", normal(self.name))
        if not is_name(self.name):
            raise MixOfShowError(
                f"name is {self.name!r}; use letters, digits, - or _ (of any script) and start with a letter, for "
                f"instance mara."
            )
        if self.kind not in KINDS:
            raise MixOfShowError(f"kind is {self.kind!r}; choose one of {', '.join(KINDS)}.")
        if self.style not in STYLES:
            raise MixOfShowError(f"Caption style is {self.style!r}; choose one of {', '.join(STYLES)}.")
        check_names(self.name, self.class_word)
        if not self.pictures:
            raise MixOfShowError(f"Concept {self.name!r} has no pictures.")


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """One or several concepts that are trained together."""

    concepts: tuple[ConceptPictures, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for concept in self.concepts:
            if fold(concept.name) in seen:
                raise MixOfShowError(
                    f"Two chained datasets are both named {concept.name!r}; change the name of one of them."
                )
            seen.add(fold(concept.name))

    @property
    def pictures(self) -> int:
        return sum(len(concept.pictures) for concept in self.concepts)

    @property
    def content_hash(self) -> str:
        content = hashlib.sha256()
        for concept in self.concepts:
            content.update(repr((concept.name, concept.class_word, concept.kind, concept.style)).encode())
            for picture in concept.pictures:
                content.update(picture.digest().encode())
        return content.hexdigest()

    def joined(self, other: TrainingSet) -> TrainingSet:
        return TrainingSet(self.concepts + other.concepts)


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as EXIF says; 16-bit grey is scaled to 8 bits, where Pillow would clip it to white."""
    image = ImageOps.exif_transpose(image)
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def flatten_alpha(image: Image.Image) -> Image.Image:
    """RGB with transparent parts composited on white."""
    if has_alpha(image):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def read_image(path: Path) -> np.ndarray:
    """[H, W, 3] uint8, turned as EXIF says. Raises MixOfShowError naming the file."""
    try:
        with Image.open(path) as image:
            image.load()
            return np.asarray(flatten_alpha(upright(image))).copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MixOfShowError(
            f"{path.name} cannot be read as a picture ({error}). Open and save it again as PNG, or take it out."
        ) from error


def notes_on_file(path: Path) -> list[str]:
    """What of a picture file is not trained as it is."""
    with Image.open(path) as image:
        notes = [f"{path.name} moves: only its first frame is used"] if getattr(image, "n_frames", 1) > 1 else []
        if has_alpha(image) and image.convert("RGBA").getextrema()[3][0] < 255:
            notes.append(f"{path.name} is transparent in places: they are trained as white")
    return notes


def read_mask(path: Path) -> np.ndarray:
    """[H, W] uint8: how bright it is, and nothing where it is transparent."""
    try:
        with Image.open(path) as image:
            found = upright(image)
            if has_alpha(found):
                rgba = found.convert("RGBA")
                found = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
            return np.asarray(found.convert("L")).copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MixOfShowError(f"Mask {path.name} cannot be read ({error}). Save it again as a PNG.") from error


def caption_style(pictures: Sequence[Picture], mode: str) -> str:
    """``mode`` where it names a style, else what most captions look like."""
    if mode in STYLES:
        return mode
    tags = mode != "templates" and looks_like_tags([picture.caption for picture in pictures])
    return "booru tags" if tags else "sentences"


def in_style(pictures: Sequence[Picture], name: str, style: str) -> tuple[Picture, ...]:
    """The pictures with captions written in one style; only tags are rewritten."""
    if meaning("Caption style", style, {"sentences": True, "booru tags": False}):
        return tuple(pictures)
    return tuple(replace(picture, caption=with_name(as_tags(picture.caption), name)) for picture in pictures)


def from_batches(batches: Iterable[np.ndarray], name: str) -> tuple[Picture, ...]:
    """Pictures of IMAGE batches [N, H, W, 3 or 4] of floats in 0..1; their caption is the name."""
    pictures = []
    for number, image in enumerate(image for batch in batches for image in batch):
        colour = image[..., :3]
        if image.shape[-1] == 4:
            colour = colour * image[..., 3:] + (1.0 - image[..., 3:])
        pixels = np.round(np.clip(colour, 0.0, 1.0) * 255.0).astype(np.uint8)
        pictures.append(Picture(f"image {number + 1}", pixels, name))
    return tuple(pictures)


def with_masks(pictures: Sequence[Picture], masks: Sequence[np.ndarray]) -> tuple[Picture, ...]:
    """Attach masks [H, W] in 0..1: one for all, or one for each picture."""
    if len(masks) not in (1, len(pictures)):
        raise MixOfShowError(f"{len(masks)} masks for {len(pictures)} pictures; give one, or one for each picture.")
    converted = [np.round(np.clip(mask, 0.0, 1.0) * 255.0).astype(np.uint8) for mask in masks]
    return tuple(
        replace(picture, mask=converted[0 if len(masks) == 1 else number]) for number, picture in enumerate(pictures)
    )


def looks_inverted(mask: np.ndarray) -> bool:
    """Whether a mask [H, W] is white at the rim and black in the middle, as the alpha of a cut-out arrives by wire."""
    height, width = mask.shape
    rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    middle = mask[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return bool(rim.mean() > INVERTED_RIM * 255 and middle.mean() < INVERTED_MIDDLE * 255)


def inverted_note(pictures: Sequence[Picture]) -> tuple[str, ...]:
    """A line where most masks look inverted."""
    masks = [picture.mask for picture in pictures if picture.mask is not None]
    wrong = sum(map(looks_inverted, masks))
    if 2 * wrong <= len(masks):
        return ()
    return (
        f"{wrong} of {len(masks)} masks look inverted: they are white at the rim and black in the middle, and white is "
        f"the object. Load Image gives the alpha of a cut-out that way: put Invert Mask between",
    )


def dark_note(pictures: Sequence[Picture]) -> tuple[str, ...]:
    """A line where masks show no object: 0 and 1 of a labelling program, or nothing at all."""
    dark = [p.source for p in pictures if p.mask is not None and p.mask.max() < DARK]
    if not dark:
        return ()
    listed = ", ".join(dark[:3]) + (", ..." if len(dark) > 3 else "")
    return (
        f"{len(dark)} masks show no object, nothing in them is brighter than {DARK} of 255 ({listed}): white is it",
    )
