"""docs/maths.md keeps its promise: every formula with its source, every room and file that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CORE = ROOT / "mixofshow_core"
PROSE = (0, 1)  # plain answers, and the table of symbols


def sections() -> dict[int, tuple[str, str]]:
    """Number -> (title, text)."""
    text = (ROOT / "docs" / "maths.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (\d+)\. (.+)$", text, flags=re.M)[1:]
    return {int(n): (title, body) for n, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}


def sources_missing(parts: dict[int, tuple[str, str]]) -> list[str]:
    """Sections without a paragraph `Source: ...` that names a paper, a textbook or us."""
    wrong = []
    for number, (title, body) in parts.items():
        source = re.search(r"^Source: (.+?)\n\n", body, re.M | re.S)
        if number not in PROSE and not (source and re.search(r"arXiv|\bours\b", source[1])):
            wrong.append(f"{number}. {title}")
    return wrong


def test_every_section_names_its_source():
    parts = sections()
    assert list(parts) == list(range(len(parts))) and len(parts) >= 12
    assert not sources_missing(parts)
    assert sources_missing({2: ("Unfounded", "\n\n    x = y\n\n")}) == ["2. Unfounded"]


def test_every_file_that_a_section_names_exists():
    for number, (title, _) in sections().items():
        named = re.findall(r"`([\w/]+(?:\.py|/))`", title)
        assert number in PROSE or named, f"section {number} names no file"
        assert not [name for name in named if not (CORE / name).exists()], title


def test_every_room_with_formulas_has_a_section():
    named = " ".join(title for title, _ in sections().values())
    assert all(f"{room}/" in named for room in ("fusion", "regional", "training", "metrics"))
