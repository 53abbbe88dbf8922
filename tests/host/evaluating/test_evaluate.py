"""MixOfShowCompare and MixOfShowScore on the real host: cells are KSampler's, scores are the evaluators' own."""

import json

import pytest
import torch
from mos_tests.host.builders import make_concept


@pytest.fixture
def base(tiny_sd15):
    from mos_tests.host.tiny import TinyBase

    model = tiny_sd15.model.clone()
    model.model.native_size = 64
    return TinyBase(model, tiny_sd15.clip, tiny_sd15.vae)


@pytest.fixture
def uses(base):
    from mos_pack.mixofshow_core.concept import ConceptUse

    return tuple(ConceptUse(make_concept(base, name, n + 1), 0.8) for n, name in enumerate(("mara", "finn")))


@pytest.fixture
def tiny_calibration(monkeypatch):
    """A fusion looks at two tiny pictures; what Compare does with the result is the same."""
    from mos_pack.nodes.bridge.evaluating import evaluation
    from mos_tests.host.builders import tiny_plan

    monkeypatch.setattr(evaluation, "preset", lambda name: tiny_plan())


def latent(count=2):
    return {"samples": torch.zeros(count, 4, 8, 8)}


def compare(base, uses, ways, prompts="a photo of {name}\nmara and finn", **changes):
    from mos_pack.nodes.evaluate import MixOfShowCompare

    values = {
        "prompts": prompts,
        "negative": "bad",
        "ways": ways,
        "calibration": "quick",
        "seed": 5,
        "steps": 2,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "latent_image": latent(),
    } | changes
    with torch.inference_mode():
        node = MixOfShowCompare.execute(base.model, base.clip, base.vae, uses, **values)
    grid, dark, pictures, table = node.result
    return grid, dark, pictures, json.loads(table)


def by_ksampler(base, placed, count=2):
    """The host's own KSampler and VAEDecode nodes, as 8-bit pictures."""
    import nodes

    with torch.inference_mode():
        samples = nodes.KSampler().sample(placed[0], 5, 2, 3.0, "euler", "normal", *placed[1:], latent(count))[0]
        return (nodes.VAEDecode().decode(base.vae, samples)[0].clamp(0, 1) * 255).round() / 255


def test_every_cell_is_what_ksampler_paints(base, uses, tiny_calibration):
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.mixofshow_core.regional.raster import make_map
    from mos_pack.mixofshow_core.regional.schema import parse_regions
    from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
    from mos_pack.nodes.bridge.host.files import work_folder
    from mos_pack.nodes.bridge.host.model import apply_deltas
    from mos_pack.nodes.bridge.host.text import register_concepts
    from mos_pack.nodes.bridge.placing.place import place
    from mos_tests.host.builders import tiny_plan

    shapes = [
        {
            "id": name,
            "concept": name,
            "prompt": "smiling",
            "shape": {"type": "rect", "x": n / 2, "y": 0, "width": 0.5, "height": 1},
        }
        for n, name in enumerate(("mara", "finn"))
    ]
    regions = make_map(parse_regions(json.dumps({"version": 1, "regions": shapes}), 64, 64))
    ways = "base, each, sum, fused, fused + regions, routed"
    grid, dark, pictures, table = compare(base, uses, ways, regions=regions)
    cells = {}
    for cell in table["cells"]:
        cells.setdefault((cell["column"], cell["prompt"]), []).append(pictures[cell["picture"]])
        assert cell["seed"] == 5 and cell["noise"] in (0, 1)
    painted = {key: torch.stack(found) for key, found in cells.items()}

    def merged(method):
        concept = fuse_uses(base.model, base.clip, uses, method, tiny_plan(), FusionSettings(), work_folder("cache"))
        model, clip = apply_deltas(base.model, base.clip, concept.concept.deltas)
        return model, register_concepts(clip, (ConceptUse(concept.concept),))

    with torch.inference_mode():
        alone = apply_deltas(base.model, base.clip, uses[1].concept.deltas, 0.8)
        finn = alone[0], register_concepts(alone[1], uses[1:])
        plain = base.model, base.clip
        wanted = {
            ("base", "a photo of mara"): place(*plain, "a photo of person", "bad"),
            ("base", "mara and finn"): place(*plain, "person and person", "bad"),
            ("finn alone", "a photo of finn"): place(*finn, "a photo of finn", "bad"),
            ("finn alone", "mara and finn"): place(*finn, "person and finn", "bad"),
            ("sum", "a photo of mara"): place(*merged("sum"), "a photo of mara", "bad"),
            ("fused", "mara and finn"): place(*merged("exact"), "mara and finn", "bad"),
            ("fused + regions", "mara and finn"): place(*merged("exact"), "mara and finn", "bad", regions),
            ("routed", "mara and finn"): place(*plain, "mara and finn", "bad", regions, uses),
        }
        for key, placed in wanted.items():
            assert torch.equal(painted[key], by_ksampler(base, placed)), key
    assert set(painted) - set(wanted) == {
        ("base", "a photo of finn"),
        ("mara alone", "a photo of mara"),
        ("mara alone", "mara and finn"),
        ("sum", "a photo of finn"),
        ("sum", "mara and finn"),
        ("fused", "a photo of mara"),
        ("fused", "a photo of finn"),
    }
    assert grid.shape == dark.shape and grid.shape[0] == 1 and not torch.equal(grid, dark)
    assert [cell["picture"] for cell in table["cells"]] == list(range(len(pictures)))
    different = {key: found for key, found in painted.items() if key[1] == "mara and finn"}
    assert len({found.numpy().tobytes() for found in different.values()}) == len(different)


def test_another_model_is_one_more_column(base, uses):
    from mos_pack.nodes.bridge.host.text import register_concepts

    clip = register_concepts(base.clip, uses)
    _, _, pictures, table = compare(
        base, uses, "base", "mara", other_model=base.model, other_clip=clip, latent_image=latent(1)
    )
    assert [cell["column"] for cell in table["cells"]] == ["base", "connected"]
    assert not torch.equal(pictures[0], pictures[1])


def test_a_grid_that_is_too_large_is_refused_before_anything_is_painted(base, uses, monkeypatch):
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes import evaluate
    from mos_pack.nodes.bridge.evaluating.evaluation import picture_size

    _, _, pictures, _ = compare(base, uses, "base", "mara", latent_image={"samples": torch.zeros(1, 4, 8, 4)}, steps=1)
    assert picture_size(base.vae, {"samples": torch.zeros(1, 4, 8, 4)}) == tuple(pictures.shape[1:3])
    monkeypatch.setattr(evaluate, "paint", lambda *args: pytest.fail("it paints"))
    with pytest.raises(MixOfShowError, match="fewer prompts, ways or pictures"):
        compare(base, uses, "base, each", "mara\n" * 80, latent_image=latent(80))


def test_a_base_that_knows_the_concepts_is_no_base(base, uses):
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes.bridge.host.text import register_concepts
    from mos_tests.host.tiny import TinyBase

    fused = TinyBase(base.model, register_concepts(base.clip, uses), base.vae)
    with pytest.raises(MixOfShowError, match="CLIP already knows mara, finn.*other_clip"):
        compare(fused, uses, "base")
    with pytest.raises(MixOfShowError, match="both `other_model` and `other_clip`"):
        compare(base, uses, "base", other_model=base.model)


def test_cancel_stops_within_one_step(base, uses, monkeypatch):
    """The host's own interrupt flag, raised in the middle of a cell."""
    import comfy.cli_args
    import comfy.model_management as mm
    from mos_pack.nodes.bridge.evaluating import evaluation
    from PIL import Image

    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Latent2RGB)
    seen = []
    real = evaluation.Progress.step

    def step(self, done, preview=None, *others):
        seen.append((done, self.total))
        assert isinstance(preview, Image.Image)
        if done == 3:
            mm.interrupt_current_processing()
        real(self, done, preview, *others)

    monkeypatch.setattr(evaluation.Progress, "step", step)
    with pytest.raises(mm.InterruptProcessingException):
        compare(base, uses, "base", "a lake\na tree", steps=4, latent_image=latent(1))
    mm.interrupt_current_processing(False)
    assert seen == [(1, 8), (2, 8), (3, 8)]


def tiny_vision():
    """A random CLIP_VISION of the host's own class."""
    import tempfile

    import comfy.clip_vision

    config = {
        "hidden_act": "quick_gelu",
        "hidden_size": 32,
        "image_size": 28,
        "intermediate_size": 64,
        "patch_size": 14,
        "num_attention_heads": 4,
        "num_channels": 3,
        "num_hidden_layers": 3,
        "projection_dim": 16,
        "model_type": "clip_vision_model",
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        made = comfy.clip_vision.ClipVisionModel(file.name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (1.0 if "norm" in name else 0.0))
    return made


def noise(count, seed, size=40):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


def score(images, **inputs):
    from mos_pack.nodes.evaluate import MixOfShowScore

    with torch.inference_mode():
        report, scores, plot, dark = MixOfShowScore.execute(images, **inputs).result
    assert plot.shape == dark.shape and not torch.equal(plot, dark)
    return report, json.loads(scores)


def test_likeness_is_the_hosts_image_embeddings():
    vision, images, references = tiny_vision(), noise(11, 1), noise(3, 2)
    report, found = score(images, references=references, clip_vision=vision)
    with torch.inference_mode():
        rows = (vision.encode_image(x)["image_embeds"] for x in (images, references))
        a, b = (torch.nn.functional.normalize(row, dim=1) for row in rows)
    wanted = (a @ b.T).clamp(min=0).mean(1)
    assert [row["identity"] for row in found["pictures"]] == pytest.approx(wanted.tolist(), abs=1e-5)
    group = found["groups"][0]["identity"]
    assert group["mean"] == pytest.approx(float(wanted.mean()), abs=1e-5)
    assert group["low"] < group["mean"] < group["high"]
    assert "CLIP_VISION" in report and "95 %" in report and found["text_evaluator"] is None


def test_without_an_evaluator_the_report_says_what_it_is():
    references = noise(2, 3)
    report, found = score(torch.cat([references, noise(2, 4)]), references=references)
    assert "recognises nobody" in report and "recognises nobody" in found["evaluator"]
    same, other = (sum(row["identity"] for row in found["pictures"][n : n + 2]) for n in (0, 2))
    assert same > other


def test_a_data_set_is_matched_by_the_names_in_the_texts():
    from mos_pack.mixofshow_core.training.dataset import ConceptPictures, Picture, TrainingSet

    pictures = {"mara": noise(3, 5, 64), "finn": noise(2, 6, 80)}
    sets = [
        ConceptPictures(
            name,
            "person",
            "character",
            tuple(Picture(f"{name}{n}", (p * 255).round().to(torch.uint8).numpy(), name) for n, p in enumerate(rows)),
        )
        for name, rows in pictures.items()
    ]
    images = torch.cat([pictures["mara"][:1], noise(3, 7, 64)])
    texts = "a photo of mara\nMara again\nfinn\nmara and finn"
    _, found = score(images, texts=texts, dataset=TrainingSet(tuple(sets)), clip_vision=tiny_vision())
    assert found["references"] == {"mara": 3, "finn": 2}
    assert [row["names"] for row in found["pictures"]] == [["mara"], ["mara"], ["finn"], ["mara", "finn"]]
    assert [row["identity"] is None for row in found["pictures"]] == [False, False, False, True]
    assert found["pictures"][0]["text"] == "a photo of person" and found["pictures"][0]["nearest"] == "mara"
    assert set(found["groups"][0]["kernel_distance"]) == {"mara"}  # one picture of finn is too few


def test_compare_feeds_score(base, uses):
    from mos_pack.mixofshow_core.errors import MixOfShowError

    _, _, pictures, table = compare(base, uses, "base, each, sum", "a photo of {name}")
    report, found = score(pictures, texts=json.dumps(table), references=noise(3, 2), clip_vision=tiny_vision())
    assert [(group["group"], group["pictures"]) for group in found["groups"]] == [
        ("base", 4),
        ("mara alone", 2),
        ("finn alone", 2),
        ("sum", 4),
    ]
    assert "sum (4 pictures): identity" in report
    with pytest.raises(MixOfShowError, match="table in `texts` lists 12 pictures, `images` holds 2"):
        score(pictures[:2], texts=json.dumps(table), references=noise(3, 2))


@pytest.fixture
def clip_folder():
    """A random CLIP of transformers' own class in ComfyUI's models folder, with the real vocabulary."""
    import shutil
    from pathlib import Path

    import comfy.sd1_clip
    import folder_paths
    import transformers

    folder = Path(folder_paths.models_dir) / "evaluators" / "tiny-clip"
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "eos_token_id": 49407,
        "bos_token_id": 49406,
        "pad_token_id": 49407,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    net = transformers.CLIPModel(config).eval()
    net.save_pretrained(folder)
    shutil.copytree(Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer", folder, dirs_exist_ok=True)
    yield net, folder
    shutil.rmtree(folder)


def test_a_clip_folder_scores_likeness_and_text(clip_folder):
    import comfy.clip_vision
    import transformers

    net, folder = clip_folder
    images, texts = noise(3, 8), ["a red cat", "a blue dog", "two people at a lake"]
    report, found = score(images, texts="\n".join(texts), references=noise(2, 9), evaluator="evaluators/tiny-clip")
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    pixels = comfy.clip_vision.clip_preprocess(images, 28)
    with torch.inference_mode():
        out = net(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    wanted = (out.image_embeds * out.text_embeds).sum(1)  # both are normalised
    assert [row["text_match"] for row in found["pictures"]] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert all(row["identity"] is not None for row in found["pictures"])
    assert "texts read by: tiny-clip (clip)" in report
    _, mixed = score(
        images,
        texts="\n".join(texts),
        references=noise(2, 9),
        evaluator="evaluators/tiny-clip",
        clip_vision=tiny_vision(),
    )
    assert mixed["evaluator"].startswith("CLIP_VISION") and mixed["text_evaluator"].startswith("tiny-clip")
    assert [r["text_match"] for r in mixed["pictures"]] == [r["text_match"] for r in found["pictures"]]


def test_a_dino_folder_scores_by_its_class_token():
    import shutil
    from pathlib import Path

    import comfy.clip_vision
    import folder_paths
    import transformers
    from mos_pack.mixofshow_core.errors import MixOfShowError

    folder = Path(folder_paths.models_dir) / "evaluators" / "tiny-dino"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=2, image_size=32, patch_size=16
    )
    net = transformers.ViTModel(config, add_pooling_layer=False).eval()
    net.save_pretrained(folder)
    look = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(look))
    images, references = noise(2, 1), noise(1, 2)
    _, found = score(images, references=references, evaluator=str(folder), texts="a cat")
    rows = (comfy.clip_vision.clip_preprocess(x, 32, [0.5] * 3, [0.25] * 3) for x in (images, references))
    with torch.inference_mode():
        a, b = (net(pixel_values=row).last_hidden_state[:, 0] for row in rows)
    wanted = torch.nn.functional.cosine_similarity(a, b).clamp(min=0)
    assert [row["identity"] for row in found["pictures"]] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert found["text_evaluator"] is None  # it reads no texts
    (folder / "model.safetensors").write_bytes(b"no such file")
    with pytest.raises(MixOfShowError, match="cannot be loaded"):
        score(images, references=references, evaluator="evaluators/tiny-dino")
    shutil.rmtree(folder)


def test_what_could_run_code_or_lies_elsewhere_is_refused(tmp_path):
    from pathlib import Path

    import folder_paths
    from mos_pack.mixofshow_core.errors import MixOfShowError

    root = Path(folder_paths.models_dir)
    (root / "evaluators" / "empty").mkdir(parents=True, exist_ok=True)
    for name in ("loose.safetensors", "face.pt", "face.ts.pth"):
        (root / "evaluators" / name).touch()
    for name, message in (
        ("evaluators/face.pt", "can run code"),
        ("evaluators/face.ts.pth", "can run code"),
        ("../x", "lies outside"),
        (str(tmp_path), "lies outside"),
        ("evaluators/none", "no such"),
        ("evaluators/empty", "needs config.json"),
        ("evaluators/loose.safetensors", "Load CLIP Vision"),
    ):
        with pytest.raises(MixOfShowError, match=message):
            score(noise(1, 1), references=noise(1, 2), evaluator=name)
    with pytest.raises(MixOfShowError, match="nothing to measure"):
        score(noise(1, 1), texts="a cat")
    with pytest.raises(MixOfShowError, match="not both"):
        score(noise(1, 1), references=noise(1, 2), dataset=object())


def test_an_onnx_file_is_an_evaluator_where_the_runtime_is_there():
    for package in ("onnxruntime", "onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed: `python dev.py test` does, where it can")
    from pathlib import Path

    import comfy.clip_vision
    import folder_paths
    import onnx

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])],
        "mean",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("y", kind, ["n", 3])],
    )
    path = Path(folder_paths.models_dir) / "evaluators" / "mean.onnx"
    path.parent.mkdir(exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    images, references = noise(2, 1), noise(1, 2)
    report, found = score(images, references=references, evaluator="evaluators/mean.onnx")
    a, b = (comfy.clip_vision.clip_preprocess(x, 112, [0.5] * 3, [0.5] * 3).mean((2, 3)) for x in (images, references))
    wanted = torch.nn.functional.cosine_similarity(a, b).clamp(min=0)
    assert [row["identity"] for row in found["pictures"]] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert "not detected or aligned" in report
