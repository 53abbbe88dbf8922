"""A word that is added to a list of choices and wired nowhere is an error, never the choice that stands in an `else`.

Each row calls what reads a choice: with every word of its list, then with one that nobody knows.
"""

import ast
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mos_pack.mixofshow_core.concept import KINDS, ROLE_OF_KIND, Concept, ConceptUse
from mos_pack.mixofshow_core.delta import LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.names import NameTable
from mos_pack.mixofshow_core.formats import edlora
from mos_pack.mixofshow_core.fusion import fuse, plan, solve
from mos_pack.mixofshow_core.fusion.methods import METHODS
from mos_pack.mixofshow_core.fusion.settings import SIZES, UNSOLVED, FusionSettings
from mos_pack.mixofshow_core.fusion.statistics import Statistics
from mos_pack.mixofshow_core.regional.attention import blend_weights, cover
from mos_pack.mixofshow_core.regional.schema import EDGES, OVERLAPS
from mos_pack.mixofshow_core.training import adapters, captions, dataset, settings
from mos_tests.unit.builders import make_concept

ROOT = Path(__file__).resolve().parents[3]
DELTA = {"diffusion_model.a": LowRank(torch.ones(3, 1), torch.ones(1, 3), None)}
SOURCES = tuple(fuse.Source(n, n * 12, DELTA, Statistics({})) for n in "12")
PICTURE = dataset.Picture("x", np.zeros((64, 64, 3), np.uint8), "mara")


def forced(base, **changes):
    """Settings that checked themselves before they were changed."""
    made = replace(base)
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    return made


def scheduled(word):
    return settings.learning_rate_factor(forced(settings.TrainSettings(steps=4), schedule=word), 2)


def started(word):
    return adapters.start_vectors(torch.ones(4), 2, 1.0, torch.Generator(), word), adapters.word_starts(2, "cat", word)


def fused(**changes):
    return fuse.fuse(SOURCES, (), ("diffusion_model.a",), forced(FusionSettings(), **changes), None, "exact")


def resized(word):
    return fuse.cut_to_size(solve.GroupSolution(DELTA, 0.0, 1.0), forced(FusionSettings(), size=word))


def calibrated(word):
    use = ConceptUse(make_concept("mara"), role="concept")
    object.__setattr__(use, "role", word)
    return plan.concept_prompts(plan.PRESETS["quick"], use)


def captioned(word):
    captions.class_prompt("cat", "object", word)
    dataset.in_style((PICTURE,), "mara", word)
    return captions.vary("mara", "mara", "object", random.Random(0), True, False, word)


def kind_of(word):
    entry = make_concept("mara").entries[0]
    object.__setattr__(entry, "kind", word)
    return ConceptUse(Concept((entry,), {}, make_concept("mara").base)).resolved_role


def written(word):
    concept = make_concept("mara", layers=16)
    return edlora.edlora_tree(replace(concept, deltas={}), NameTable(edlora_layout(), {"clip_l": 12}), word)


def edlora_layout():
    from mos_pack.mixofshow_core.families.known import SD15

    return SD15.layout


READERS = {
    "schedule": (scheduled, settings.SCHEDULES),
    "word_start": (started, settings.WORD_STARTS),
    "checkpointing": (lambda word: forced(settings.TrainSettings(), checkpointing=word).recomputes, ("on", "off")),
    "unsolved": (lambda word: fused(unsolved=word), UNSOLVED),
    "size": (resized, SIZES),
    "method": (
        lambda word: fuse.merge(word, SOURCES, ["diffusion_model.a"], FusionSettings()),
        [name for name, row in METHODS.items() if row.merge is not None],
    ),
    "role": (calibrated, ("concept", "style")),
    "kind": (kind_of, KINDS),
    "caption style": (captioned, captions.STYLES),
    "template": (lambda kind: captions.vary("mara", "mara", kind, random.Random(0), True, False), KINDS),
    "edges": (lambda word: cover(torch.ones(1, 1, 4, 4), (2, 2), word), EDGES),
    "overlap": (lambda word: blend_weights(torch.ones(1, 2, 4), torch.ones(2), torch.ones(2), word), OVERLAPS),
    "key style": (written, edlora.STYLES),
}


@pytest.mark.parametrize("name", READERS)
def test_every_word_is_wired_and_no_other_is_taken_for_one(name):
    reader, words = READERS[name]
    for word in words:
        reader(word)
    with pytest.raises(MixOfShowError, match="magic"):
        reader("magic")


def test_tables_hold_every_kind():
    assert set(ROLE_OF_KIND) == set(KINDS) == set(captions.TEMPLATES) == set(plan.CLASS_OF_KIND)


def test_no_conditional_expression_chooses_by_one_word_of_a_list():
    """`a if word == "x" else b` gives b to every word of the future; `bounds.meaning` does not."""
    lists = {
        **{
            word: "training"
            for part in (
                "SCHEDULES",
                "MASKS",
                "PRECISIONS",
                "LAYERS",
                "WORD_STARTS",
                "ASPECTS",
                "OPTIMIZERS",
                "EMBEDDING_ROWS",
            )
            for word in getattr(settings, part)
        },
        **dict.fromkeys((*UNSOLVED, *EDGES, *OVERLAPS, *captions.STYLES, "staged", "own"), "others"),
    }
    for word in ("auto", "none", "one", "average", "sum"):
        lists.pop(word, None)
    wrong = []
    for folder in ("mixofshow_core", "nodes"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.IfExp):
                    words = {part.value for part in ast.walk(node.test) if isinstance(part, ast.Constant)}
                    if words & set(lists):
                        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not wrong, "\n".join(wrong)
