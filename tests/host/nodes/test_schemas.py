"""The node contract: what the real server lists is what the design promised, in order, with the same defaults.

Ids, input names, their order and defaults are public API: append only. A change here needs a decision in
docs/decisions/.
"""

import json
import os
import re
from dataclasses import dataclass, field

import pytest
from mos_tests.host.runtime import ROOT


@dataclass(frozen=True)
class Contract:
    """required, optional: input name -> type, in order. defaults: of visible widgets (... = any default)."""

    outputs: tuple[str, ...]
    required: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, object] = field(default_factory=dict)


CONTRACTS = {
    "MixOfShowDemoModel": Contract(("MODEL", "CLIP", "VAE"), {}, {"base": "COMBO"}, {"base": "SD1.5 kind"}),
    "MixOfShowDataset": Contract(
        ("MIXOFSHOW_DATASET", "IMAGE", "STRING"),
        {"name": "STRING", "class_word": "STRING", "kind": "COMBO", "folder": "STRING", "captions": "COMBO"},
        {"images": "IMAGE", "masks": "MASK", "dataset": "MIXOFSHOW_DATASET"},
        {"kind": "character", "captions": "auto"},
    ),
    "MixOfShowTrain": Contract(
        ("MIXOFSHOW_CONCEPTS", "IMAGE", "LOSS_MAP", "STRING", "IMAGE"),
        {
            "model": "MODEL",
            "clip": "CLIP",
            "vae": "VAE",
            "dataset": "MIXOFSHOW_DATASET",
            "preset": "COMBO",
            "quality": "COMBO",
            "steps": "INT",
            "seed": "INT",
            "save_as": "STRING",
        },
        {"settings": "MIXOFSHOW_SETTINGS", "concepts": "MIXOFSHOW_CONCEPTS"},
        {"preset": "ED-LoRA", "quality": "standard", "steps": 0, "seed": 0, "save_as": ""},
    ),
    "MixOfShowCast": Contract(
        ("MIXOFSHOW_CONCEPTS", "STRING"),
        {"cast": "STRING"},
        {"concepts": "MIXOFSHOW_CONCEPTS", "model": "MODEL", "clip": "CLIP"},
        {"cast": '{"version": 1, "rows": []}'},
    ),
    "MixOfShowLoadConcept": Contract(
        ("MIXOFSHOW_CONCEPTS", "STRING"),
        {"file": "COMBO", "trigger": "STRING", "name": "STRING", "strength": "FLOAT", "role": "COMBO"},
        {"concepts": "MIXOFSHOW_CONCEPTS", "model": "MODEL", "clip": "CLIP", "text_strength": "FLOAT"},
        {"trigger": "", "name": "", "strength": 1.0, "role": "auto", "text_strength": -10.05},
    ),
    "MixOfShowFuse": Contract(
        ("MODEL", "CLIP", "MIXOFSHOW_CONCEPTS", "STRING", "IMAGE"),
        {
            "model": "MODEL",
            "clip": "CLIP",
            "concepts": "MIXOFSHOW_CONCEPTS",
            "method": "COMBO",
            "calibration": "COMBO",
            "save_as": "STRING",
        },
        {"settings": "MIXOFSHOW_SETTINGS"},
        {"method": "exact", "calibration": "standard", "save_as": ""},
    ),
    "MixOfShowRegions": Contract(
        ("MIXOFSHOW_REGIONS", "MASK", "IMAGE", "INT", "INT"),
        {"editor": "STRING", "width": "INT", "height": "INT"},
        {"concepts": "MIXOFSHOW_CONCEPTS", "backdrop": "IMAGE", "masks": "MASK"},
    ),
    "MixOfShowPlace": Contract(
        ("MODEL", "CONDITIONING", "CONDITIONING"),
        {"model": "MODEL", "clip": "CLIP", "prompt": "STRING", "negative": "STRING"},
        {"regions": "MIXOFSHOW_REGIONS", "concepts": "MIXOFSHOW_CONCEPTS"},
    ),
    "MixOfShowRegionControl": Contract(
        ("CONDITIONING", "CONDITIONING"),
        {
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "control_net": "CONTROL_NET",
            "image": "IMAGE",
            "regions": "MIXOFSHOW_REGIONS",
            "strength": "FLOAT",
            "outside": "FLOAT",
            "start": "FLOAT",
            "end": "FLOAT",
        },
        {},
        {"strength": 1.0, "outside": 1.0, "start": 0.0, "end": 1.0},
    ),
    "MixOfShowControlImage": Contract(
        ("IMAGE",), {"image": "IMAGE", "kind": "COMBO", "resolution": "INT"}, {}, {"kind": "lines", "resolution": 0}
    ),
    "MixOfShowDemoControl": Contract(("CONTROL_NET",)),
    "MixOfShowPickRegion": Contract(
        ("MIXOFSHOW_REGIONS", "MASK", "INT", "INT", "INT", "INT"),
        {"regions": "MIXOFSHOW_REGIONS", "region": "STRING"},
        {"image": "IMAGE"},
        {"region": ""},
    ),
    "MixOfShowCoverage": Contract(("IMAGE", "STRING"), {"regions": "MIXOFSHOW_REGIONS"}, {"model": "MODEL"}),
    "MixOfShowFound": Contract(
        ("MASK", "IMAGE", "STRING", "STRING"),
        {"positive": "CONDITIONING", "samples": "LATENT", "picture": "INT"},
        {"image": "IMAGE"},
        {"picture": 0},
    ),
    "MixOfShowLearnPlaces": Contract(
        ("STRING",), {"model": "MODEL", "clip": "CLIP", "scenes": "INT"}, {}, {"scenes": 24}
    ),
    "MixOfShowExport": Contract(
        ("STRING",),
        {"concepts": "MIXOFSHOW_CONCEPTS", "format": "COMBO", "size": "COMBO", "save_as": "STRING"},
        {"model": "MODEL", "clip": "CLIP", "vae": "VAE"},
        {"format": "concept", "size": "auto", "save_as": ""},
    ),
    "MixOfShowInspect": Contract(
        ("STRING", "IMAGE"),
        {"file": "COMBO"},
        {"concepts": "MIXOFSHOW_CONCEPTS"},
        {"file": "(the connected concepts)"},
    ),
    "MixOfShowCompare": Contract(
        ("IMAGE", "IMAGE", "IMAGE", "STRING"),
        {
            "model": "MODEL",
            "clip": "CLIP",
            "vae": "VAE",
            "concepts": "MIXOFSHOW_CONCEPTS",
            "latent_image": "LATENT",
            "prompts": "STRING",
            "negative": "STRING",
            "ways": "STRING",
            "calibration": "COMBO",
            "seed": "INT",
            "steps": "INT",
            "cfg": "FLOAT",
            "sampler_name": "COMBO",
            "scheduler": "COMBO",
        },
        {
            "regions": "MIXOFSHOW_REGIONS",
            "settings": "MIXOFSHOW_SETTINGS",
            "other_model": "MODEL",
            "other_clip": "CLIP",
        },
        {
            "prompts": "a photo of {name}",
            "negative": "",
            "calibration": "standard",
            "seed": 0,
            "steps": 20,
            "cfg": 7.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "normal",
            "ways": "base, each, sum, average, fused, fused + regions, routed",
        },
    ),
    "MixOfShowScore": Contract(
        ("STRING", "STRING", "IMAGE", "IMAGE"),
        {"images": "IMAGE", "texts": "STRING", "evaluator": "STRING", "crop": "COMBO"},
        {"references": "IMAGE", "dataset": "MIXOFSHOW_DATASET", "clip_vision": "CLIP_VISION"},
        {"texts": "", "evaluator": "", "crop": "center"},
    ),
}
SETTINGS_NODES = {  # any number of widgets, one output
    "MixOfShowTrainSettings": ("MIXOFSHOW_SETTINGS",),
    "MixOfShowFusionSettings": ("MIXOFSHOW_SETTINGS",),
}
MAX_WIDGETS = 9
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@pytest.fixture(scope="module")
def listed(server) -> dict:
    """Our nodes as the server describes them to the front end."""
    return {name: info for name, info in server.object_info().items() if name.startswith("MixOfShow")}


def kind_of(spec: list) -> str:
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def options_of(spec: list) -> dict:
    return spec[1] if len(spec) > 1 else {}


def inputs_of(info: dict) -> dict[str, list]:
    return info["input"].get("required", {}) | info["input"].get("optional", {})


@pytest.mark.parametrize("name", [*CONTRACTS, *SETTINGS_NODES])
def test_the_server_lists_the_node(name, listed):
    assert name in listed, f"{name} is not registered; the server lists {sorted(listed)}"


def test_no_node_is_outside_the_contract(listed):
    unknown = sorted(set(listed) - set(CONTRACTS) - set(SETTINGS_NODES))
    assert not unknown, f"{unknown}: a node beyond the design's table needs a decision file and a line here"


@pytest.mark.parametrize("name", CONTRACTS)
def test_inputs_outputs_and_defaults_are_the_contract(name, listed):
    info, contract = listed[name], CONTRACTS[name]
    for group, wanted in (("required", contract.required), ("optional", contract.optional)):
        found = {key: kind_of(spec) for key, spec in info["input"].get(group, {}).items()}
        assert list(found.items()) == list(wanted.items()), f"{name}: {group} inputs differ"
    assert tuple(info["output"]) == contract.outputs
    specs = inputs_of(info)
    for key, default in contract.defaults.items():
        options = options_of(specs[key])
        assert options.get("default") == default, f"{name}.{key}"
        if kind_of(specs[key]) == "COMBO":
            assert default in (options.get("options") or specs[key][0])


@pytest.mark.parametrize("name", SETTINGS_NODES)
def test_settings_nodes_give_settings(name, listed):
    assert tuple(listed[name]["output"]) == SETTINGS_NODES[name]


def test_nodes_show_at_most_nine_widgets(listed):
    for name in set(listed) - set(SETTINGS_NODES):
        widgets = [key for key, spec in inputs_of(listed[name]).items() if kind_of(spec) in WIDGETS]
        assert len(widgets) <= MAX_WIDGETS, f"{name}: {widgets}"


def test_every_input_has_a_tooltip_and_every_node_a_description(listed):
    missing = [
        f"{name}.{key}"
        for name, info in listed.items()
        for key, spec in inputs_of(info).items()
        if not options_of(spec).get("tooltip")
    ]
    missing += [name for name, info in listed.items() if not info.get("description")]
    assert not missing
    titles = {name: info["display_name"] for name, info in listed.items()}
    assert all(title.startswith("Mix-of-Show ") for title in titles.values()), titles


def test_every_node_has_a_help_page(listed):
    missing = [name for name in listed if not (ROOT / "web" / "docs" / f"{name}.md").is_file()]
    assert not missing


def test_nodes_stand_in_our_menu_by_what_they_are_for(listed):
    places = {info["category"] for info in listed.values()}
    assert places == {f"Mix-of-Show/{part}" for part in ("train", "fuse", "place", "evaluate", "demo")}
    for language in ("en", "zh"):
        path = ROOT / "locales" / language / "main.json"
        known = json.loads(path.read_text(encoding="utf-8"))["nodeCategories"]
        assert {part for place in places for part in place.split("/")} == set(known), language
    order = [name for name, info in listed.items() if info["category"] == "Mix-of-Show/place"]
    assert order[:2] == ["MixOfShowRegions", "MixOfShowPlace"]  # before Region Control, which comes later in a journey


def test_nodes_are_found_by_what_people_type_where_the_host_has_aliases(listed):
    """0.3.75 has none: its Schema refuses the argument, and its nodes would not load."""
    from mos_pack.nodes.types import SEARCHED_AS, found_by

    @dataclass
    class Newer:
        search_aliases: list = field(default_factory=list)

    @dataclass
    class Older:
        node_id: str = ""

    assert set(SEARCHED_AS) == set(listed)
    assert all(not found_by(name, Older) for name in listed)
    words = {name: Newer(**found_by(name, Newer)).search_aliases for name in listed}
    wanted = {
        "regional prompt": "Regions",
        "attention couple": "Place",
        "mask prompt": "Regions",
        "region": "Regions",
        "merge lora": "Fuse",
        "multi lora": "Fuse",
        "character": "LoadConcept",
        "lora train": "Train",
        "dreambooth": "Train",
        "textual inversion": "Train",
    }
    assert not [typed for typed, name in wanted.items() if typed not in words[f"MixOfShow{name}"]]
    assert all(info.get("search_aliases", words[name]) == words[name] for name, info in listed.items())


def test_the_long_nodes_are_grouped_and_their_rare_inputs_advanced_where_the_host_knows_that(listed):
    from mos_pack.nodes import fuse, train
    from mos_pack.nodes.types import in_groups

    @dataclass
    class Newer:
        id: str
        tooltip: str = "says"
        advanced: bool | None = None

    knows = hasattr(train.io.Int.Input("n"), "advanced")
    for topic, node in ((train, "MixOfShowTrainSettings"), (fuse, "MixOfShowFusionSettings")):
        specs = inputs_of(listed[node])
        grouped = [name for names in topic.GROUPS.values() for name in names.split()]
        assert sorted(grouped) == sorted(specs), f"{node}: every input stands in one group"
        rare = topic.RARE.split()
        assert set(rare) <= set(specs) and len(specs) - len(rare) <= 16, "what is left fits on a screen"
        newer = in_groups([Newer(name) for name in specs], topic.GROUPS, topic.RARE)
        assert [entry.id for entry in newer if entry.advanced] == [name for name in specs if name in rare]
        options = {name: options_of(spec) for name, spec in specs.items()}
        assert newer[0].tooltip.endswith("] says") and all(found["tooltip"][0] == "[" for found in options.values())
        advanced = [name for name, found in options.items() if found.get("advanced")]
        assert advanced == [name for name in specs if knows and name in rare]


def test_numbers_that_stand_for_something_else_say_so_in_their_label(listed):
    for node in SETTINGS_NODES:
        for name, spec in inputs_of(listed[node]).items():
            options = options_of(spec)
            if kind_of(spec) in ("INT", "FLOAT") and options["default"] < 0:
                assert f"({options['default']:g}: preset" in options["display_name"], f"{node}.{name}"


def english_texts(listed: dict) -> dict:
    """The texts of the schemas in the front end's form (locales/en/nodeDefs.json)."""
    texts = {}
    for name, info in sorted(listed.items()):
        tooltips = info.get("output_tooltips") or [None] * len(info["output"])
        outputs = {
            str(index): {"name": label} | ({"tooltip": tooltip} if tooltip else {})
            for index, (label, tooltip) in enumerate(zip(info["output_name"], tooltips, strict=True))
        }
        inputs = {
            key: {"name": options_of(spec).get("display_name") or key, "tooltip": options_of(spec).get("tooltip")}
            for key, spec in inputs_of(info).items()
        }
        texts[name] = {"display_name": info["display_name"], "description": info["description"]}
        texts[name] |= {"inputs": inputs, "outputs": outputs}
    return texts


def test_english_texts_are_the_schemas(listed):
    """MIXOFSHOW_WRITE_LOCALES=1 writes the file anew after a text in a node has changed."""
    path, texts = ROOT / "locales" / "en" / "nodeDefs.json", english_texts(listed)
    if os.environ.get("MIXOFSHOW_WRITE_LOCALES"):
        path.write_text(json.dumps(texts, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == texts, (
        "locales/en/nodeDefs.json is out of date: run this test once with MIXOFSHOW_WRITE_LOCALES=1"
    )


def test_chinese_texts_cover_every_node_and_name_only_what_exists(listed):
    texts = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert sorted(texts) == sorted(listed)
    for name, node in texts.items():
        assert node["display_name"] and node["description"], name
        assert list(node.get("inputs", {})) == list(inputs_of(listed[name])), f"{name}: inputs differ"
        assert len(node["outputs"]) == len(listed[name]["output"]), f"{name}: outputs differ"
        english = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))[name]
        for part in ("inputs", "outputs"):
            told = [key for key, entry in english[part].items() if entry.get("tooltip")]
            assert [key for key, entry in node.get(part, {}).items() if entry.get("tooltip")] == told, f"{name}: {part}"


def test_texts_have_no_marks_that_the_front_end_reads_as_its_own():
    """It takes a word in braces for a value to put in, which is then missing, and a bar for singular and plural."""
    for language in ("en", "zh"):
        texts = (ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")
        told = re.findall(r'"(?:tooltip|description|name|display_name)": "(.*)"', texts)
        assert told and not [text for text in told if set(text) & set("{}|@")]


def test_every_help_page_is_there_in_chinese_and_names_every_input(listed):
    """Front end: extensions/<pack>/docs/<node>/<language>.md, else docs/<node>.md."""
    for name, info in listed.items():
        page = (ROOT / "web" / "docs" / name / "zh.md").read_text(encoding="utf-8")
        assert not [key for key in inputs_of(info) if not re.search(rf"\b{key}\b", page, re.ASCII)], name


def test_chinese_has_one_word_for_negative():
    for path in (*(ROOT / "locales" / "zh").glob("*.json"), *(ROOT / "web" / "docs").glob("*/zh.md")):
        text = path.read_text(encoding="utf-8")
        assert not re.search("[\u53cd\u8d1f]\u5411", text), f"{path}: a negative prompt is \u8d1f\u9762 everywhere"


def test_the_schema_of_a_project_is_what_the_nodes_say():
    import json
    import os
    from pathlib import Path

    from mos_pack.headless.schema import project_schema

    path = Path(__file__).resolve().parents[3] / "docs" / "project.schema.json"
    text = json.dumps(project_schema(), indent=1, ensure_ascii=True) + "\n"
    if os.environ.get("MIXOFSHOW_WRITE_LOCALES"):
        path.write_text(text)
    assert path.read_text() == text, "MIXOFSHOW_WRITE_LOCALES=1 pytest tests/host/nodes/test_schemas.py writes it anew"
