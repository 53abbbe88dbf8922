"""What a file holds, for people: a text card, and the norm of every layer's change as a small picture."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping

from PIL import Image, ImageDraw, UnidentifiedImageError

from ..concept import Concept
from ..delta import LowRank, has_dense, megabytes, norm
from ..families.layers import ROLE_CROSS_KV, ROLE_SPATIAL, ROLE_TEXT, ROLE_TITLES
from ..families.nets import role_of
from .community import thumbnail_bytes
from .dialect import ReadResult
from .side_files import frequent_tags

MAX_TRIGGERS = 12
MAX_TEXT = 200  # characters of any one value from a file
MAX_PIXELS = 4096 * 4096
PLOT_SIZE = (960, 260)
MARGIN = 40
COLOURS = {ROLE_TEXT: (90, 140, 220), ROLE_CROSS_KV: (220, 120, 60), ROLE_SPATIAL: (110, 170, 110)}


def describe(result: ReadResult, title: str) -> str:
    """The card of a file that was read (kind "lora": what its header tells, since the host reads its weights)."""
    lines = [title, *describe_concept(result.concept).splitlines()] if result.concept else [title]
    found = triggers(result.metadata)
    if found:
        lines.append(f"triggers and tags in the header: {', '.join(found)}")
    for key in ("modelspec.title", "ss_sd_model_name", "ss_base_model_version", "ss_network_dim", "ss_network_alpha"):
        if result.metadata.get(key):
            lines.append(f"{key}: {_short(result.metadata[key])}")
    if thumbnail_bytes({**result.metadata}):
        lines.append("thumbnail: yes")
    return "\n".join([*lines, *result.summary().splitlines()])


def describe_concept(concept: Concept) -> str:
    """Names, words, base, rank, layers, size, training settings and warnings, one fact per line."""
    lines = []
    for entry in concept.entries:
        encoders = sorted({encoder for embedding in entry.embeddings for encoder in embedding.rows})
        count = entry.embeddings[0].layers if entry.embeddings else 0
        layers = f"{count} layers in {' + '.join(encoders)}" if count else "no embeddings"
        words = " ".join(word.text for word in entry.words) or "none"
        kind = f"{entry.kind} {entry.class_word}".strip()
        lines.append(f"concept {entry.name!r} ({kind}): words {words}; {layers}")
    lines += [base_line(concept), describe_layers(concept)]
    sizes = sorted(((norm(delta), name) for name, delta in concept.deltas.items()), reverse=True)
    if sizes:
        lines.append("largest changes: " + ", ".join(f"{name} {size:.3g}" for size, name in sizes[:3]))
    for key, value in sorted(concept.training.items()):
        if key not in ("thumbnail", "losses"):
            lines.append(f"training {_short(key)}: {_short(value)}")
    return "\n".join([*lines, *(f"warning: {text}" for text in warnings_of(concept))])


def base_line(concept: Concept) -> str:
    base = concept.base
    return (
        f"base: {base.family}, fingerprint {base.fingerprint or 'unknown'}, {base.layers or 'any number of'} "
        "cross-attention layers"
    )


def describe_layers(concept: Concept) -> str:
    """How many layers of which role, at which ranks, and their size."""
    counts = Counter(role_of(name) for name in concept.deltas)
    ranks = Counter(d.rank if isinstance(d, LowRank) else "full" for d in concept.deltas.values())
    spread = ", ".join(f"{rank} ({n}x)" for rank, n in sorted(ranks.items(), key=lambda item: -item[1])[:6])
    parts = ", ".join(f"{n} {ROLE_TITLES[role]}" for role, n in counts.items()) or "none"
    return f"layers: {parts}; rank {spread or 'none'}; {megabytes(concept.deltas):.2f} MB"


def warnings_of(concept: Concept) -> list[str]:
    """What a person should know before using the file."""
    found = []
    if not base_is_known(concept):
        found.append("the file does not say which base it was made for; layers are checked when it is used")
    if concept.entries and any(entry.words for entry in concept.entries):
        found.append("the stock LoRA loader applies the layers, but does not know the concept words")
    if has_dense(concept.deltas):
        found.append("some layers are full rank; Export with a size makes them small")
    norms = {name: norm(delta) for name, delta in concept.deltas.items()}
    zero = [name for name, size in norms.items() if size == 0]
    if zero:
        found.append(f"{len(zero)} layers are zero, the first: {zero[0]}")
    if not concept.deltas and not concept.entries:
        found.append("the file is empty")
    return found


def base_is_known(concept: Concept) -> bool:
    return concept.base.family != "unknown" and concept.base.fingerprint is not None


def triggers(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Trigger words from the community's header fields: the phrase first, then the most frequent training tags."""
    words = [part.strip() for part in metadata.get("modelspec.trigger_phrase", "").split(",")]
    words += frequent_tags(metadata)
    return tuple(dict.fromkeys(_short(word) for word in words if word))[:MAX_TRIGGERS]


def _short(value: object) -> str:
    text = "".join(c if c.isprintable() else " " for c in str(value)[: MAX_TEXT + 1])
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."


def plot_norms(concept: Concept, title: str = "") -> Image.Image:
    """One bar per layer in file order, coloured by role, on a common scale; the thumbnail at the right, if any."""
    picture = Image.new("RGB", PLOT_SIZE, (250, 250, 250))
    draw = ImageDraw.Draw(picture)
    norms = [(norm(delta), role_of(name)) for name, delta in concept.deltas.items()]
    thumbnail = _thumbnail(concept.training, PLOT_SIZE[1] - 2 * MARGIN)
    right = PLOT_SIZE[0] - MARGIN - (thumbnail.width + 10 if thumbnail else 0)
    top = max((size for size, _ in norms), default=0.0)
    bottom, height = PLOT_SIZE[1] - MARGIN, PLOT_SIZE[1] - 2 * MARGIN
    for number, (size, role) in enumerate(norms):
        x0 = MARGIN + number * (right - MARGIN) / len(norms)
        x1 = MARGIN + (number + 1) * (right - MARGIN) / len(norms)
        draw.rectangle((x0, bottom - height * (size / top if top else 0), max(x0, x1 - 1), bottom), fill=COLOURS[role])
    draw.line((MARGIN, bottom, right, bottom), fill=(60, 60, 60))
    draw.text(
        (MARGIN, 8),
        f"{title or concept.name or 'LoRA'}: norm of the change per layer, largest {top:.3g}"[:120],
        fill=(20, 20, 20),
    )
    x = MARGIN
    for role in dict.fromkeys(role for _, role in norms):
        draw.rectangle((x, bottom + 12, x + 10, bottom + 22), fill=COLOURS[role])
        draw.text((x + 15, bottom + 11), ROLE_TITLES[role], fill=(20, 20, 20))
        x += 30 + 7 * len(ROLE_TITLES[role])
    if thumbnail:
        picture.paste(thumbnail, (right + 10, MARGIN))
    return picture


def _thumbnail(facts: Mapping[str, object], side: int) -> Image.Image | None:
    data = thumbnail_bytes(facts)
    if not data:
        return None
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            picture = picture.convert("RGB")
            picture.thumbnail((side, side))
            return picture
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None  # a broken thumbnail must not hide the file's other facts
