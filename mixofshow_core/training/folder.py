"""What lies in a training folder: every file that looks like a picture, a caption or a mask is used, or is named.

``x.png`` is a picture, ``x.txt`` (else kohya's ``x.caption``) its caption, ``x.mask.png``, ``x_mask.png`` or
``masks/x.png`` its mask. Endings and, where that is no question, names are compared without case.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..bounds import meaning
from ..errors import MixOfShowError
from .captions import with_name
from .dataset import Picture, notes_on_file, read_image, read_mask

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp")
CAPTION_ENDINGS = (".txt", ".caption")
# Pictures that we do not open, and films: they are somebody's training pictures as well.
PICTURES_AND_FILMS = """
    .heic .heif .hif .avif .avifs .tif .tiff .gif .apng .jxl .jp2 .j2k .jpf .tga .psd .psb .xcf .kra .svg .ico .ppm
    .pgm .pnm .exr .hdr .dds .raw .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .mp4 .mov .mkv .webm .avi
"""
FOREIGN = tuple(PICTURES_AND_FILMS.split())
FOREIGN_CAPTIONS = (".json", ".jsonl", ".csv", ".tags", ".cap", ".tag")
MASK_NAME = re.compile(r"(.+)[._-]mask", re.IGNORECASE)
MASK_FOLDERS = ("mask", "masks")
KOHYA_FOLDER = re.compile(r"\d+_.+")  # repeats_name class
SHOWN = 6  # names and problems in one message
READS = {  # captions: whether caption files are read, and whether every picture needs one
    "auto": (True, False),
    "files": (True, True),
    "templates": (False, False),
    "sentences": (True, False),
    "booru tags": (True, False),
}
Result = TypeVar("Result")


@dataclass(frozen=True)
class Listing:
    """The files of one folder by what they are; notes name what is not used."""

    folder: Path
    pictures: tuple[Path, ...]
    captions: Mapping[Path, Path]
    masks: Mapping[Path, Path]
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def fail(folder: Path, problems: Sequence[str]) -> None:
    """Raise all problems of a folder at once; nothing happens without any."""
    if not problems:
        return
    if len(problems) == 1:
        raise MixOfShowError(problems[0])
    more = f" And {len(problems) - SHOWN} more." if len(problems) > SHOWN else ""
    listed = " ".join(f"({number}) {problem}" for number, problem in enumerate(problems[:SHOWN], 1))
    raise MixOfShowError(f"{folder.name} has {len(problems)} problems: {listed}{more}")


def list_folder(folder: Path) -> Listing:
    """Sort a folder's files. MixOfShowError when it does not exist or holds no picture."""
    if not folder.is_dir():
        raise MixOfShowError(
            f"The picture folder {str(folder)!r} does not exist. Give a full path, a folder inside ComfyUI's input "
            f"folder, or demo:<name> for the pictures that come with this pack."
        )
    # Hidden files are the system's: macOS leaves `._x.png` beside x.png, which is no picture.
    files = [path for path in _visible(folder) if path.is_file()]
    inside = [path for path in _visible(folder) if path.is_dir() and path.name.lower() in MASK_FOLDERS]
    in_masks = [path for place in inside for path in _visible(place)]
    foreign = [path.relative_to(folder).as_posix() for path in (*files, *in_masks) if path.suffix.lower() in FOREIGN]
    problems = [f"{some(foreign)}: save such files as PNG or JPEG first, or take them out."] if foreign else []
    lost = [path.name for path in _visible(folder) if path.is_symlink() and not path.exists()]
    problems += (
        [f"{some(lost)}: a link to a file that is not there; copy the file, or take the link out."] if lost else []
    )
    shown = [path for path in files if path.suffix.lower() in EXTENSIONS]
    stems = {_alike(path.stem) for path in shown}
    marked = {path: found[1] for path in shown if (found := MASK_NAME.fullmatch(path.stem))}
    masks = {
        path: stem for path, stem in marked.items() if _alike(stem) in stems or path.stem.lower().endswith(".mask")
    }  # a picture called `face_mask` alone is a picture
    pictures = tuple(path for path in shown if path not in masks)
    if not pictures and not problems:
        raise MixOfShowError(_nothing_in(folder))
    masks |= {path: path.stem for path in in_masks if path.suffix.lower() in EXTENSIONS}
    used = _by_picture(pictures, masks)
    notes = _left("masks without a picture of their name, or a second one", masks, used.values(), folder)
    texts = {path: path.stem for path in files if path.suffix.lower() in CAPTION_ENDINGS}
    ordered = sorted(texts, key=lambda path: (CAPTION_ENDINGS.index(path.suffix.lower()), path.name))
    captions = _by_picture(pictures, {path: texts[path] for path in ordered})
    notes += _left("captions without a picture of their name, or beside a .txt", texts, captions.values(), folder)
    others = [path for path in files if path.suffix.lower() in FOREIGN_CAPTIONS]
    notes += _left("captions of other programs, which are not read (.txt and .caption are)", others, (), folder)
    notes += _deeper(folder)
    return Listing(folder, pictures, captions, used, tuple(notes), tuple(problems))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _by_picture(pictures: Sequence[Path], stems: Mapping[Path, str]) -> dict[Path, Path]:
    """Picture -> the first file of its name; in another spelling (`_alike`) only where no picture has it exactly."""
    exact: dict[str, Path] = {}
    folded: dict[str, Path] = {}
    for path, stem in stems.items():
        exact.setdefault(stem, path)
        folded.setdefault(_alike(stem), path)
    found = {picture: exact[picture.stem] for picture in pictures if picture.stem in exact}
    taken = set(found.values())
    for picture in pictures:
        other = folded.get(_alike(picture.stem))
        if picture not in found and other is not None and other not in taken:
            found[picture] = other
    return found


def _alike(stem: str) -> str:
    """A file's name without case, and with accents as one character: archives of macOS take them apart."""
    return unicodedata.normalize("NFC", stem).casefold()


def _left(what: str, files: Iterable[Path], used: Iterable[Path], folder: Path) -> list[str]:
    taken = set(used)
    left = [path.relative_to(folder).as_posix() for path in files if path not in taken]
    return [f"not used, {what}: {some(left)}"] if left else []


def _count(folder: Path) -> int:
    return sum(path.suffix.lower() in EXTENSIONS for path in _visible(folder) if path.is_file())


def _inner(folder: Path) -> dict[str, int]:
    """Folders inside, two levels deep, with how many pictures lie in each."""
    found = {}
    for first in (path for path in _visible(folder) if path.is_dir()):
        for path in (first, *(second for second in _visible(first) if second.is_dir())):
            if count := _count(path):
                found[path.relative_to(folder).as_posix()] = count
    return found


def _deeper(folder: Path) -> list[str]:
    inner = {name: count for name, count in _inner(folder).items() if name.lower() not in MASK_FOLDERS}
    return [f"not used, pictures in subfolders: {_told(inner)}"] if inner else []


def _told(inner: Mapping[str, int]) -> str:
    return some(f"{name} ({count})" for name, count in inner.items())


def _nothing_in(folder: Path) -> str:
    inner = _inner(folder)
    if not inner:
        return f"The picture folder {str(folder)!r} holds no pictures. Put {', '.join(EXTENSIONS)} files into it."
    kohya = any(KOHYA_FOLDER.fullmatch(Path(name).name) for name in inner)
    hint = " They look like kohya's (repeats_name class): repeats are not read." if kohya else ""
    first = next(iter(inner))
    return (
        f"The picture folder {str(folder)!r} holds no pictures, its subfolders do: {_told(inner)}.{hint} Give one of "
        f"them as the folder, for instance {str(folder / first)!r}, and chain one Dataset node for each concept."
    )


def folder_fingerprint(folder: Path) -> str:
    """Changes whenever a file that is read does (names, sizes, times): cheap enough to ask at every queue."""
    if not folder.is_dir():
        return "missing"
    inner = [path for path in folder.iterdir() if path.is_dir() and path.name.lower() in MASK_FOLDERS]
    files = [path for place in (folder, *inner) for path in place.iterdir()]
    facts = [(path.relative_to(folder).as_posix(), path.stat()) for path in files if path.exists()]
    listed = sorted((name, found.st_size, found.st_mtime_ns) for name, found in facts)
    return hashlib.sha256(repr(listed).encode()).hexdigest()


def read_lines(path: Path) -> list[str]:
    """The lines of a caption file that are not empty; MixOfShowError for what is no text in UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if odd := next((char for char in text if char < " " and char not in "\t\n\r\f\v"), None):
            raise ValueError(f"it holds the character {odd!r}, as UTF-16 does")
    except (OSError, ValueError) as error:
        raise MixOfShowError(f"Caption {path.name} cannot be read ({error}). Save it as UTF-8.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_caption(picture: Path, text_file: Path | None, name: str, mode: str) -> tuple[str, str]:
    """(caption with the name in it, note). The note says what was done to it, or is empty."""
    reads, needs = meaning("captions", mode, READS)
    if not reads or text_file is None:
        if needs:
            raise MixOfShowError(
                f"{picture.name} has no caption file {picture.stem}.txt. Write one, or set captions to auto."
            )
        return name, ""
    lines = read_lines(text_file)
    written = lines[0] if lines else ""
    caption = with_name(written, name)
    notes = ["name put in front"] if written and caption != " ".join(written.split()) else []
    notes += [] if lines else [f"{text_file.name} is empty, so the name alone is its caption"]
    if len(lines) > 1:
        notes.append(f"only the first line of {text_file.name} is used")
    return caption, f"{picture.name}: {', '.join(notes)}" if notes else ""


def read_folder(folder: Path, name: str, captions: str = "auto") -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """All pictures of a folder and notes worth showing. MixOfShowError tells all that cannot be used, at once."""
    reads, _ = meaning("captions", captions, READS)
    listing = list_folder(folder)
    pictures, problems = [], list(listing.problems)
    notes = [note for note in listing.notes if reads or "captions" not in note]
    bare = [path.name for path in listing.pictures if path not in listing.captions]
    if reads and listing.captions and bare:
        notes.append(f"the name alone is the caption of pictures without a caption file: {some(bare)}")
    seen: dict[bytes, str] = {}

    def tried(read: Callable[..., Result], *given: object) -> Result | None:
        try:
            return read(*given)
        except MixOfShowError as error:
            problems.append(str(error))
            return None

    for path in listing.pictures:
        found = tried(read_caption, path, listing.captions.get(path), name, captions)
        mask_file = listing.masks.get(path)
        mask = None if mask_file is None else tried(read_mask, mask_file)
        pixels = tried(read_image, path)
        if found is None or pixels is None or (mask is None and mask_file is not None):
            continue
        caption, note = found
        picture = tried(Picture, path.name, pixels, caption, mask)
        if picture is None:
            continue
        content = hashlib.sha256(picture.pixels.tobytes()).digest()
        if content in seen:
            notes.append(f"{path.name} is the same picture as {seen[content]}: it counts twice")
        seen.setdefault(content, path.name)
        notes.extend([*([note] if note else []), *notes_on_file(path)])
        pictures.append(picture)
    fail(folder, problems)
    return tuple(pictures), tuple(notes)


def read_class_folder(folder: Path, prompt: str) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """Pictures of a class for prior preservation, with their own captions, or ``prompt`` where there is none.

    And notes on what is not used: masks of class pictures count for nothing.
    """
    listing = list_folder(folder)
    pictures, problems = [], list(listing.problems)
    notes = [*listing.notes, *_left("masks of class pictures", listing.masks.values(), (), folder)]
    for path in listing.pictures:
        try:
            lines = read_lines(listing.captions[path]) if path in listing.captions else []
            pictures.append(Picture(path.name, read_image(path), lines[0] if lines else prompt))
            notes += notes_on_file(path)
        except MixOfShowError as error:
            problems.append(str(error))
    fail(folder, problems)
    return tuple(pictures), tuple(notes)
