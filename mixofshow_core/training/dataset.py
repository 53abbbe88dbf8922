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
from .captions import MODES, STYLES, as_tags, check_names, looks_like_tags, with_name

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CAPTION_ENDINGS = (".txt", ".caption")
FOREIGN = (".heic", ".heif", ".avif", ".tif", ".tiff", ".gif")
MIN_SIDE = 64


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


def flatten_alpha(image: Image.Image) -> Image.Image:
    """RGB with transparent parts composited on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
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


def read_mask(path: Path) -> np.ndarray:
    """[H, W] uint8."""
    try:
        with Image.open(path) as image:
            return np.asarray(upright(image).convert("L")).copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MixOfShowError(f"Mask {path.name} cannot be read ({error}). Save it again as a PNG.") from error


def picture_files(folder: Path) -> list[Path]:
    """The folder's pictures in name order; masks (``x.mask.png``) are not pictures."""
    if not folder.is_dir():
        raise MixOfShowError(
            f"The picture folder {str(folder)!r} does not exist. Give a full path, a folder inside ComfyUI's input "
            f"folder, or demo:<name> for the pictures that come with this pack."
        )
    # Hidden files are the system's: macOS leaves `._x.png` beside x.png, which is no picture.
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    foreign = [path.name for path in files if path.suffix.lower() in FOREIGN]
    if foreign:
        raise MixOfShowError(
            f"{folder.name} holds {', '.join(foreign[:3])}: save HEIC, AVIF, TIFF and GIF files as PNG or JPEG first."
        )
    found = [path for path in files if path.suffix.lower() in EXTENSIONS and not path.stem.lower().endswith(".mask")]
    if not found:
        raise MixOfShowError(
            f"The picture folder {str(folder)!r} holds no pictures. Put {', '.join(EXTENSIONS)} files into it."
        )
    return found


def folder_fingerprint(folder: Path) -> str:
    """Changes whenever a file in the folder does (names, sizes, times): cheap enough to ask at every queue."""
    if not folder.is_dir():
        return "missing"
    listed = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
    return hashlib.sha256(repr(listed).encode()).hexdigest()


def caption_files(folder: Path) -> dict[str, Path]:
    """The caption file by the stem of its picture: x.txt, else kohya's x.caption, in any case of the ending."""
    found = {(path.stem, path.suffix.lower()): path for path in folder.iterdir() if path.is_file()}
    return {stem: found[stem, ending] for ending in reversed(CAPTION_ENDINGS) for stem, own in found if own == ending}


def read_caption(path: Path, text_file: Path | None, name: str, mode: str) -> tuple[str, str]:
    """(caption with the name in it, note). The note says what was done to it, or is empty."""
    if mode != "templates" and text_file is not None:
        try:
            lines = text_file.read_text(encoding="utf-8-sig").strip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MixOfShowError(f"Caption {text_file.name} cannot be read ({error}). Save it as UTF-8.") from error
        written = lines[0].strip() if lines else ""
        caption = with_name(written, name)
        changed = written and caption != " ".join(written.split())
        notes = ["name put in front"] if changed else []
        if sum(bool(line.strip()) for line in lines) > 1:
            notes.append(f"only the first line of {text_file.name} is used")
        return caption, f"{path.name}: {', '.join(notes)}" if notes else ""
    if mode == "files":
        raise MixOfShowError(f"{path.name} has no caption file {path.stem}.txt. Write one, or set captions to auto.")
    return name, ""


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


def read_class_folder(folder: Path, prompt: str) -> tuple[Picture, ...]:
    """Pictures of a class for prior preservation, with their own captions, or ``prompt`` where there is none."""
    pictures: list[Picture] = []
    files, captions = picture_files(folder), caption_files(folder)
    for path in files:
        text = captions.get(path.stem)
        written = text.read_text(encoding="utf-8-sig", errors="replace").strip() if text is not None else ""
        pictures.append(Picture(path.name, read_image(path), written.splitlines()[0] if written else prompt))
    return tuple(pictures)


def read_folder(folder: Path, name: str, captions: str = "auto") -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """All pictures of a folder and notes worth showing. Raises MixOfShowError for anything unusable."""
    if captions not in MODES:
        raise MixOfShowError(f"captions is {captions!r}; choose one of {', '.join(MODES)}.")
    pictures, notes = [], []
    seen: dict[bytes, str] = {}
    files, texts = picture_files(folder), caption_files(folder)
    for path in files:
        caption, note = read_caption(path, texts.get(path.stem), name, captions)
        mask_file = path.with_name(f"{path.stem}.mask.png")
        mask = read_mask(mask_file) if mask_file.is_file() else None
        picture = Picture(path.name, read_image(path), caption, mask)
        content = hashlib.sha256(picture.pixels.tobytes()).digest()
        if content in seen:
            notes.append(f"{path.name} is the same picture as {seen[content]}: it counts twice")
        seen.setdefault(content, path.name)
        notes.extend([note] if note else [])
        pictures.append(picture)
    return tuple(pictures), tuple(notes)


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
