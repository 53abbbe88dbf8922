"""The page and the JSON of `python dev.py gpu`: what was measured, against the goals."""

from __future__ import annotations

import json
from pathlib import Path

CLOSE = 1e-3  # of the largest value: what fp32 on another processor may differ by after three steps
SOLVED = 1e-6  # of a change's norm: what its float32 factors may differ by
STEP_GOALS = {"regions 2": 1.06, "regions 8": 1.10, "routed 2": 1.12, "routed 4": 1.12}
FUSION_GOALS = {"sd15": "60 s", "sdxl": "120 s, 12 GB"}


def page_of(measured: dict, small: bool, cpu: bool) -> str:
    """Markdown. Differences above CLOSE and parts that failed are said first."""
    answers = measured["answers"]
    on = next((answer["on"] for key, answer in answers.items() if not key.endswith(" cpu") and "on" in answer), None)
    on = on or next((answer["on"] for answer in answers.values() if "on" in answer), {})
    lines = ["# Mix-of-Show on this machine", "", ", ".join(f"{name} {value}" for name, value in on.items()), ""]
    if small or cpu:
        lines += ["**A dry run: tiny nets or no GPU. It says that the script works, nothing else.**", ""]
    failed = {key: answer["error"] for key, answer in answers.items() if "error" in answer}
    lines += [f"* **{key} failed**: {error}" for key, error in failed.items()]
    lines += [f"* not reached in time: {', '.join(measured['not reached'])}"] if measured["not reached"] else []
    lines += _pictures(answers) + _steps(answers) + _fusion(answers) + _solver(answers) + _training(answers)
    return "\n".join([*lines, "", f"{measured['seconds']} seconds in all.", ""])


def _rows(answers: dict, part: str, what: str = "found"):
    """(family, state, what was found) of a part's answers."""
    for key, answer in answers.items():
        own, family, state = key.split(" ", 2)
        if own == part and what in answer:
            yield family, state, answer[what]


def _pictures(answers: dict) -> list[str]:
    lines = ["", "## Right?", "", "Largest difference from the CPU as a share of the largest value, fp32.", ""]
    lines += ["| net | weights | largest | at | |", "|---|---|---|---|---|"]
    for family, state, found in _rows(answers, "pictures", "differences"):
        name, value = max(found.items(), key=lambda item: item[1])
        lines.append(f"| {family} | {state} | {value:.1e} | {name} | {'close' if value <= CLOSE else '**FAR**'} |")
    return lines


def _steps(answers: dict) -> list[str]:
    lines = ["", "## A step", "", "| net | weights | variant | ms | against plain | goal | launches | GB |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for family, state, found in _rows(answers, "steps"):
        for name, row in found.items():
            figures = f"{row['milliseconds']:.1f} | {row['against plain']:.3f} | {STEP_GOALS.get(name, '')}"
            lines.append(f"| {family} | {state} | {name} | {figures} | {row['launches']:,} | {row['gigabytes']:.2f} |")
    return lines


def _fusion(answers: dict) -> list[str]:
    lines = [
        "",
        "## Fusion, calibration included",
        "",
        "| net | concepts | seconds | GB | goal |",
        "|---|---|---|---|---|",
    ]
    for family, _, found in _rows(answers, "fusion"):
        figures = f"{found['seconds']:.1f} | {found['gigabytes']:.1f} | {FUSION_GOALS[family]}"
        lines.append(f"| {family} | {found['concepts']} | {figures} |")
    return lines


def _solver(answers: dict) -> list[str]:
    """apart: from the CPU's answer, as a share of its norm."""
    lines = ["", "## The solver alone, milliseconds per group of layers", ""]
    lines += ["| net | group | of these | CPU, float64 | float64 | apart | refined float32 | apart |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for family, _, found in _rows(answers, "solver"):
        for name, row in found["groups"].items():
            ways = " | ".join(
                f"{row[way]:.1f} | {_mark(row[f'{way} apart'])}" if way in row else "- | -"
                for way in ("float64", "refined")
            )
            lines.append(f"| {family} | {name} | {row['groups']} | {row['cpu']:.1f} | {ways} |")
    return lines


def _mark(apart: float) -> str:
    return f"{apart:.1e}" if apart <= SOLVED else f"**{apart:.1e} FAR**"


def _training(answers: dict) -> list[str]:
    lines = ["", "## Training", "", "| net | trainer | steps per second | GB |", "|---|---|---|---|"]
    for family, _, found in _rows(answers, "training"):
        for name, row in found.items():
            lines.append(f"| {family} | {name} | {1 / row['seconds per step']:.2f} | {row['gigabytes']:.2f} |")
    return lines


def write_page(measured: dict, small: bool, cpu: bool, folder: Path) -> None:
    """gpu.json and gpu.md, and the page on the screen."""
    folder.mkdir(parents=True, exist_ok=True)
    page = page_of(measured, small, cpu)
    (folder / "gpu.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
    (folder / "gpu.md").write_text(page, encoding="utf-8")
    print(page)
    print(f"Send {folder / 'gpu.json'} and {folder / 'gpu.md'} with an issue; they name no person, machine or folder.")
