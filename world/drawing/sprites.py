"""Fetches the picture packages from npm and renders the people: `python -m world.drawing.sprites`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from .people import HELD_OUT, NEIGHBOURS, draw_person, dress, is_held_out

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "world"
PACKAGES = (
    "@dicebear/core@9.4.2",
    "@dicebear/avataaars@9.4.2",
    "@resvg/resvg-js@2.6.2",
    "emoji-datasource-google@16.0.0",
    "emoji-datasource-twitter@16.0.0",
    "@lobehub/fluent-emoji-3d@1.1.0",
)
PEOPLE = 6000
PER_IDENTITY = 24


def scaled(count: int, least: int) -> int:
    """`count`; while `python dev.py world --smoke` proves the chain, a hundredth of it, but not below `least`."""
    return max(least, count // 100) if os.environ.get("MIXOFSHOW_WORLD_SMOKE") else count


def fetch() -> Path:
    """Install the npm packages into the cache; returns node_modules."""
    home = CACHE / "node"
    modules = home / "node_modules"
    if not all((modules / name.rsplit("@", 1)[0]).exists() for name in PACKAGES):
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"name": "world-data", "private": true, "type": "module"}')
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", *PACKAGES], cwd=home, check=True)
    return modules


def plan_people() -> list[dict]:
    """Specs of every person: the trained crowd first, then the held-out identities in varying clothes."""
    rng = random.Random(1)
    rows = []
    while len(rows) < scaled(PEOPLE, 120):
        person = draw_person(rng)
        if not is_held_out(person):
            rows.append({"file": f"p{len(rows):05d}.png", "who": "", "person": person})
    for name, person in {**HELD_OUT, **NEIGHBOURS}.items():
        for i in range(PER_IDENTITY):
            rows.append({"file": f"{name}_{i:02d}.png", "who": name, "person": dress(person, rng)})
    return [
        {"file": r["file"], "who": r["who"], "options": r["person"].options(), "person": asdict(r["person"])}
        for r in rows
    ]


def ensure() -> None:
    """Fetch and render what is needed, a minute, unless that was done before."""
    if not (CACHE / "people.jsonl").exists():
        main()


def main(workers: int = 2) -> None:
    modules = fetch()
    rows = plan_people()
    script = Path(__file__).with_name("people.mjs")

    def render(part: int) -> None:
        specs = CACHE / f"people-{part}.jsonl"
        specs.write_text("\n".join(json.dumps(r) for r in rows[part::workers]))
        subprocess.run(["node", str(script), str(specs), str(CACHE / "people"), str(modules)], check=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(render, range(workers)))
    (CACHE / "people.jsonl").write_text("\n".join(json.dumps(r) for r in rows))  # last: it says that all is there
    print(f"{len(rows)} people in {CACHE / 'people'}", file=sys.stderr)


if __name__ == "__main__":
    main()
