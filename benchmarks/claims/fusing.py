"""The tables of fusing: K concepts in one set of weights by every method, and what our own settings do at one K."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from safetensors import safe_open

from .graphs import EXACT, SUM, Arm
from .judge import Figure, Judge, drift, interval, ratio
from .lab import Cell, Job, Lab, Painted, host_folder
from .page import Column, Row, Table
from .plan import UNRELATED, Plan, alone_cell, alone_jobs, base_key, fused_cell, half, kind_of, the_base

STAGES = ("text", "kv", "spatial")
BASELINES = tuple(Arm(name, name) for name in ("average", "gradient", "regmean", "constrained", "svd", "ties", "dare"))


def everywhere(kind: str, value: float) -> tuple[tuple[str, object], ...]:
    return tuple((f"{kind}_{stage}", value) for stage in STAGES)


REFINED = Arm("exact, refine 1", "exact", settings=(("refine", 1),))
STAGED = Arm("exact, staged", "exact", settings=(("mode", "staged"),))
NO_PRIOR = Arm("exact, prior 0", "exact", settings=everywhere("prior", 0.0))
FULL_PRIOR = Arm("exact, prior 1", "exact", settings=everywhere("prior", 1.0))
RANK_ONE = Arm("exact, rank 1", "exact", rank_one=True)
THOROUGH = Arm("thorough calibration", "exact", "thorough")
ARMS = (
    EXACT,
    SUM,
    *BASELINES,
    NO_PRIOR,
    FULL_PRIOR,
    STAGED,
    REFINED,
    RANK_ONE,
    Arm("sum, rank 1", "sum", rank_one=True),
)
OURS = (
    EXACT,
    *(Arm(f"ridge {value:g}", "exact", settings=everywhere("ridge", value)) for value in (0.0, 1e-3, 1e-1)),
    NO_PRIOR,
    FULL_PRIOR,
    STAGED,
    REFINED,
    Arm("quick calibration", "exact", "quick"),
    THOROUGH,
    Arm("text encoder not solved", "exact", settings=(("stage_text", False),)),
    Arm("keys and values not solved", "exact", settings=(("stage_kv", False),)),
    Arm("spatial layers not solved", "exact", settings=(("stage_spatial", False),)),
    Arm("one embedding, at sampling", "exact", plain=True),
)
COLUMNS = (
    Column("nearest", "nearest is right", ".0%", True),
    Column("share", "of that of each alone", ".0%"),
    Column("kept", "identity kept", ".0%", True),
    Column("drift", "drift of other prompts", ".3f", True),
    Column("seconds", "seconds to fuse and paint", ".0f"),
)


def groups_of(plan: Plan, k: int) -> tuple[tuple[str, ...], ...]:
    """Groups of K: characters and objects by turns, never mixed until one kind is too small."""
    if k > max(len(plan.characters), len(plan.objects)):
        both = [name for pair in zip_longest(plan.characters, plan.objects) for name in pair if name]
        return (tuple(both[:k]),) if k <= len(both) else ()
    cut = [[names[i : i + k] for i in range(0, len(names) - k + 1, k)] for names in (plan.characters, plan.objects)]
    mixed = [group for pair in zip_longest(*cut) for group in pair if group]
    return tuple(mixed[: max(plan.groups // (k // 2), 1)])


def count_of(plan: Plan, k: int) -> int:
    return plan.pictures if k <= 5 else half(plan.pictures)


def cell_of(plan: Plan, names: Sequence[str], arm: Arm) -> Cell:
    rounds = {EXACT: 1.0, STAGED: 2.0, REFINED: 2.0, RANK_ONE: 1.0, THOROUGH: 3.0}.get(arm, 0.0)
    return fused_cell(
        plan, names, arm, count_of(plan, len(names)), (f"K = {len(names)}", names[0], arm.title), rounds * len(names)
    )


def jobs(plan: Plan) -> list[Job]:
    """First one group of every K, then the second of every K."""
    found = [Job("fusing", "base", (the_base(plan),))]
    seen: set[str] = set()
    for turn in zip_longest(*(groups_of(plan, k) for k in plan.ks)):
        for names in filter(None, turn):
            found += alone_jobs(plan, [name for name in names if name not in seen], "fusing")
            seen |= set(names)
            found.append(Job("fusing", f"K = {len(names)}", tuple(cell_of(plan, names, arm) for arm in ARMS)))
    return found


def ours_groups(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """The groups of the middle K, where methods differ and a fusion is still cheap."""
    ks = [k for k in plan.ks if groups_of(plan, k)]
    return groups_of(plan, ks[min(1, len(ks) - 1)])[:2] if ks else ()


def ours_jobs(plan: Plan) -> list[Job]:
    found = [Job("ours", "base", (the_base(plan),))]
    for names in ours_groups(plan):
        found += alone_jobs(plan, names, "ours")
        found.append(Job("ours", f"{names[0]} and others", tuple(cell_of(plan, names, arm) for arm in OURS)))
    return found


def floor_of(judge: Judge, base: Mapping[str, Painted], name: str) -> float:
    """Similarity of the bare class, as the base paints it, to this concept."""
    kind = kind_of(name)
    return float(judge.similarity(kind, name, base[base_key(name, 0)].features[:, 0]).mean())


def other_prompts(painted: Mapping[str, Painted], base: Mapping[str, Painted]) -> list[float]:
    return [
        value
        for i in range(len(UNRELATED))
        for value in drift(painted[f"unrelated{i}"].features[:, 0], base[f"unrelated{i}"].features[:, 0])
    ]


def score(
    lab: Lab, judge: Judge, plan: Plan, groups: Sequence[Sequence[str]], arm: Arm, base: Mapping[str, Painted]
) -> tuple[dict[str, Figure], int]:
    """(figures over all groups of one K, how many groups are there)."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    done = 0
    for names in groups:
        found = lab.look(cell_of(plan, names, arm))
        if found is None:
            continue
        painted, facts = found
        done += 1
        scores["drift"][names[0]] += other_prompts(painted, base)
        scores["seconds"][names[0]].append(facts["seconds"])
        for name in names:
            alone = lab.look(alone_cell(plan, name))
            rows, kind = painted[name].features[:, 0], kind_of(name)
            scores["nearest"][name] += judge.hits(kind, name, rows)
            if alone is None:
                continue
            own = alone[0][name].features[:, 0]
            top, floor = float(judge.similarity(kind, name, own).mean()), floor_of(judge, base, name)
            if top - floor >= 0.03:  # else there is nothing to keep
                scores["kept"][name].append(judge.kept(kind, name, rows, floor, top))
            scores["own"][name] += judge.hits(kind, name, own)
    figures = {key: interval(values) for key, values in scores.items()}
    return figures | {"share": ratio(scores["nearest"], scores["own"])} if figures else {}, done


def alone_row(lab: Lab, judge: Judge, plan: Plan, names: Sequence[str], base: Mapping[str, Painted]) -> Row | None:
    """Every concept alone: what all others are compared with. kept: against real pictures, not against itself."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        found = lab.look(alone_cell(plan, name))
        if found is None:
            continue
        rows, kind = found[0][name].features[:, 0], kind_of(name)
        scores["nearest"][name] += judge.hits(kind, name, rows)
        floor = floor_of(judge, base, name)
        scores["kept"][name].append(judge.kept(kind, name, rows, floor, judge.ceiling(kind, name)))
        scores["drift"][name] += other_prompts(found[0], base)
        scores["softness"][name] += (found[0][name].sharpness[:, 0] / judge.sharpness).tolist()
    if not scores:
        return None
    figures = {key: interval(values) for key, values in scores.items()}
    return Row(("1", "each alone", "", str(len(scores["nearest"]))), "each alone", figures)


def rank_share(lab: Lab, plan: Plan, names: Sequence[str], rank_one: bool) -> str:
    """Sum of ranks over the width of the inputs, smallest and largest layer; from the files."""
    total: dict[str, float] = defaultdict(float)
    for name in names:
        training = plan.concept(name)
        if lab.record(training) is None:
            return "?"
        with safe_open(host_folder(0) / "models" / "loras" / lab.file(training), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                if key.endswith("lora_down.weight"):
                    r, width = file.get_slice(key).get_shape()
                    total[key] += (1 if rank_one else r) / width
    return f"{min(total.values()):.2f} to {max(total.values()):.2f}" if total else "?"


def table(lab: Lab, judge: Judge, plan: Plan) -> list[Table]:
    found = lab.look(the_base(plan))
    base, rows, done, total = found[0] if found else None, [], 0, 0
    everyone = sorted({name for k in plan.ks for group in groups_of(plan, k) for name in group})
    alone = alone_row(lab, judge, plan, everyone, base) if base else None
    rows += [alone] if alone else []
    for k in plan.ks:
        groups = groups_of(plan, k)
        total += len(groups) * len(ARMS)
        # A group that has only begun would set one method's concepts against other ones.
        groups = tuple(names for names in groups if lab.cell_path(cell_of(plan, names, SUM)).exists())
        for arm in ARMS if base and groups else ():
            figures, number = score(lab, judge, plan, groups, arm, base)
            done += number
            if figures:
                share = rank_share(lab, plan, groups[0], arm.rank_one)
                rows.append(Row((str(k), arm.title, share, str(number * k)), f"K = {k}", figures))
    real = interval({name: judge.real_hits(kind_of(name), name) for name in everyone})
    soft = f"{alone.figures['softness'][0]:.0%}" if alone else "?"
    notes = (
        f"Real held-out pictures: nearest right {real[0]:.0%}. Neighbouring pixels of the pictures of each alone "
        f"differ by {soft} of what real ones do through the same autoencoder. *Identity kept*: similarity, from "
        "the bare class (0 %) to the concept alone (100 %), for *each alone* to real pictures; concepts that learned "
        "next to nothing are left out of it. Drift: 1 - cosine of features, same noise. Rank 1: every change cut "
        "to it. Seconds: of the first run, with whatever calibration was still missing, other work beside it. "
        "Intervals: 95 %, by drawing concepts (drift: groups).",
    )
    heads = ("K", "method", "sum of ranks / width", "concepts")
    return [
        Table("fusing", "K concepts in one set of weights", heads, COLUMNS, tuple(rows), done, total, notes),
        ours_table(lab, judge, plan, base),
    ]


def ours_table(lab: Lab, judge: Judge, plan: Plan, base: Mapping[str, Painted] | None) -> Table:
    groups, rows, done = ours_groups(plan), [], 0
    for arm in OURS if base else ():
        figures, number = score(lab, judge, plan, groups, arm, base)
        done += number
        if figures:
            rows.append(Row((arm.title, str(number * len(groups[0]))), "", figures))
    k = len(groups[0]) if groups else 0
    return Table(
        "ours",
        f"Our settings, K = {k}",
        ("setting", "concepts"),
        COLUMNS,
        tuple(rows),
        done,
        len(OURS) * len(groups),
        (
            "The first line is the default: ridge 0.01, prior 0.1, own statistics, "
            "standard calibration, layered embeddings. Each other line changes one "
            "thing.",
        ),
    )
