"""The work of the commands: a project's nodes, called one after the other as a graph would be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.fusion.plan import preset
from .calls import call, call_and_read, fill
from .exchange import ACCEPTED, read_held, submissions
from .host import host_module, pack_module, start_host, watch_progress
from .project import ConceptPart, Project
from .told import Teller

TRAINED_ROW = 1.5  # forward and backward of one row, in steps with CFG, which are two rows forward
CANVAS = ("width", "height", "batch_size")  # words of `sample` that belong to the empty latent


@dataclass(frozen=True)
class Session:
    """A project at work in this process: `start` comes first; the base is loaded once, when it is wanted."""

    project: Project
    tell: Teller
    comfyui: Path | None = None

    def start(self) -> Session:
        """The host in this process, with the project's folders and threads."""
        start_host(self.comfyui, self.project.device, self.project.base_directory)
        if self.project.threads:
            torch.set_num_threads(self.project.threads)
        watch_progress(self.tell.progress)
        return self

    @cached_property
    def base(self) -> tuple:
        """MODEL, CLIP and VAE."""
        if "base" in self.project.model:
            node = pack_module("nodes.demo_model").MixOfShowDemoModel
        else:
            node = host_module("nodes").CheckpointLoaderSimple
        return call(node, **fill(node, self.project.model, "model"))

    @cached_property
    def plan(self):
        """The calibration that `fuse` names."""
        node = pack_module("nodes.fuse").MixOfShowFuse
        return preset(fill(node, self.project.part("fuse"), "fuse")["calibration"])

    @property
    def accepted(self) -> Path:
        """Where concepts of other clients lie, once they were accepted."""
        return pack_module("nodes.bridge.host.files").concept_folder() / ACCEPTED

    def parts(self, names: list[str] | tuple[str, ...] = ()) -> list[ConceptPart]:
        """The project's concepts and those that were accepted from others; all, or these."""
        known = dict(self.project.concepts)
        for given in submissions(self.accepted) if self.accepted.is_dir() else ():
            held = read_held(given)
            name = held.manifest.concept
            known[name] = ConceptPart(name, load={"file": self.name_of(held.path)})
        if strange := [name for name in names if name not in known]:
            raise MixOfShowError(f"There is no concept {', '.join(strange)} here, only {', '.join(known) or 'none'}.")
        return [part for name, part in known.items() if not names or name in names]

    def name_of(self, path: Path) -> str:
        """A file below the loras folder as Load Concept calls it."""
        folder = pack_module("nodes.bridge.host.files").concept_folder().parent
        return path.relative_to(folder).as_posix()

    def dataset(self, part: ConceptPart, before=None):
        """The DATASET of a concept; `before`: one to chain it to."""
        node = pack_module("nodes.dataset").MixOfShowDataset
        inputs = fill(node, {"name": part.name, **part.dataset}, f"concepts.{part.name}.dataset")
        return call(node, **inputs, dataset=before)[0]

    def train_inputs(self, part: ConceptPart) -> dict[str, object]:
        """All of Train's inputs for one concept."""
        train, project, where = pack_module("nodes.train"), self.project, f"concepts.{part.name}"
        given = {"save_as": part.name, **project.part("train"), **part.train}
        settings = {**project.part("train_settings"), **part.train_settings}
        node = train.MixOfShowTrainSettings
        model, clip, vae = self.base
        return {
            **fill(train.MixOfShowTrain, given, f"{where}.train"),
            "settings": call(node, **fill(node, settings, f"{where}.train_settings"))[0],
            "dataset": self.dataset(part),
            "model": model,
            "clip": clip,
            "vae": vae,
        }

    def train(self, part: ConceptPart) -> Path:
        """Train one concept, or find the file of an identical run."""
        node = pack_module("nodes.train").MixOfShowTrain
        outputs, text = call_and_read(node, **self.train_inputs(part))
        self.tell.say("result", text, concept=part.name, path=outputs[3])
        return Path(outputs[3])

    def foresee_training(self, part: ConceptPart) -> None:
        """Say what `train` would choose and cost, from Train's own notes and one timed step of the sampler."""
        inputs = self.train_inputs(part)
        request, notes = pack_module("nodes.train").prepare(**inputs)
        run, settings = pack_module("nodes.bridge.training.run"), request.settings
        if run.find_finished(request, request.fingerprint) is not None:
            self.tell.say("result", f"{part.name}: an identical run is finished, nothing would be done", seconds=0)
            return
        timed = pack_module("nodes.bridge.fusing.foresee").time_once(request.model, request.clip, self.plan)
        seconds = settings.steps * settings.batch * settings.accumulation * timed.step * TRAINED_ROW
        lines = [f"{part.name}: {settings.steps} steps, about {seconds:.0f} s from a step timed now", *notes]
        self.tell.say("result", "\n".join(lines), concept=part.name, seconds=seconds, notes=list(notes))

    def foresee_fusion(self, parts: list[ConceptPart]) -> None:
        """Say what looking at these concepts would cost at most; solving takes seconds to minutes more."""
        model, clip, _ = self.base
        found = pack_module("nodes.bridge.fusing.foresee").foresee(model, clip, self.concepts(parts), self.plan)
        self.tell.say(
            "result",
            "looking at {} concepts and the base: at most {seconds:.0f} s, {bytes:.3g} bytes of disk, {memory:.3g} of "
            "memory (less runs block by block)".format(len(parts), **found),
            **found,
        )

    def trained_file(self, part: ConceptPart) -> str:
        """The name, for Load Concept, of the file that `train` left for exactly these inputs."""
        request, _ = pack_module("nodes.train").prepare(**self.train_inputs(part))
        path = pack_module("nodes.bridge.training.run").find_finished(request, request.fingerprint)
        if path is None:
            raise MixOfShowError(f"{part.name} has not been trained with these inputs: run `cli.py train {part.name}`.")
        return self.name_of(path)

    def concepts(self, parts: list[ConceptPart]) -> tuple:
        """The CONCEPTS wire: a chain of Load Concept nodes."""
        if not parts:
            raise MixOfShowError(
                f"{self.project.path.name} has no concepts, and none was accepted from others: write some below "
                "`concepts`, or take some with `cli.py add`."
            )
        node = pack_module("nodes.concepts").MixOfShowLoadConcept
        model, clip, _ = self.base
        chain = ()
        for part in parts:
            given = part.load if part.load is not None else {"file": self.trained_file(part)}
            inputs = fill(node, given, f"concepts.{part.name}.load")
            chain = call(node, **inputs, concepts=chain, model=model, clip=clip)[0]
        return chain

    def look(self, name: str) -> int:
        """Collect the statistics of one concept where Fuse looks for them; of how many groups of layers they tell."""
        model, clip, _ = self.base
        use, folder = self.concepts(self.parts([name]))[0], pack_module("nodes.bridge.host.files").work_folder("cache")
        with torch.inference_mode():
            job = pack_module("nodes.bridge.fusing.fusion").job_of_one(model, clip, use, self.plan, folder)
            return len(job.collect_own()[0].grams)

    def fuse_inputs(self, chain: tuple) -> dict[str, object]:
        """All of Fuse's inputs."""
        fuse = pack_module("nodes.fuse")
        node = fuse.MixOfShowFusionSettings
        settings = call(node, **fill(node, self.project.part("fusion_settings"), "fusion_settings"))[0]
        model, clip, _ = self.base
        given = fill(fuse.MixOfShowFuse, self.project.part("fuse"), "fuse")
        return {**given, "model": model, "clip": clip, "concepts": chain, "settings": settings}

    def fuse(self, parts: list[ConceptPart]) -> tuple:
        """MODEL, CLIP, CONCEPTS, report and plot of Fuse."""
        outputs, text = call_and_read(pack_module("nodes.fuse").MixOfShowFuse, **self.fuse_inputs(self.concepts(parts)))
        self.tell.say("result", text, report=outputs[3])
        return outputs

    def sample(self, parts: list[ConceptPart]) -> torch.Tensor:
        """The pictures: Fuse (or none), Regions, Place, and the host's own sampler and decoder."""
        model, clip, vae = self.base
        routed = None
        if self.project.way == "routed":
            routed = self.concepts(parts)
        else:
            model, clip = self.fuse(parts)[:2]
        host, given = host_module("nodes"), dict(self.project.part("sample"))
        canvas = {name: given.pop(name) for name in CANVAS if name in given}
        regions = None
        if "regions" in self.project.sections:
            regions, _, _, canvas["width"], canvas["height"] = self.regions()
        place = pack_module("nodes.place").MixOfShowPlace
        placed, text = call_and_read(
            place,
            **fill(place, self.project.part("place"), "place"),
            model=model,
            clip=clip,
            regions=regions,
            concepts=routed,
        )
        self.tell.say("note", text)
        latent = call(host.EmptyLatentImage, **fill(host.EmptyLatentImage, canvas, "sample"))[0]
        wires = dict(zip(("model", "positive", "negative"), placed, strict=True))
        drawn = call(host.KSampler, **fill(host.KSampler, given, "sample"), **wires, latent_image=latent)[0]
        return call(host.VAEDecode, vae=vae, samples=drawn)[0]

    def regions(self) -> tuple:
        """Outputs of Regions; `editor` may be written as YAML in place of its JSON text."""
        node, given = pack_module("nodes.regions").MixOfShowRegions, dict(self.project.part("regions"))
        if isinstance(given.get("editor"), Mapping):
            given["editor"] = json.dumps(given["editor"], ensure_ascii=False)
        return call(node, **fill(node, given, "regions"))

    def save(self, pictures: torch.Tensor, stem: str = "picture") -> list[Path]:
        """Write pictures as PNG below the output folder, as the host's Save Image does."""
        host, paths = host_module("nodes"), host_module("folder_paths")
        with torch.inference_mode():
            saved = host.SaveImage().save_images(pictures, f"mixofshow/{stem}")["ui"]["images"]
        folder = Path(paths.get_output_directory())
        return [folder / entry["subfolder"] / entry["filename"] for entry in saved]

    def score(self, parts: list[ConceptPart], files: list[Path]) -> tuple:
        """Score of picture files, against the concepts' own data sets unless `score` says otherwise."""
        node = pack_module("nodes.evaluate").MixOfShowScore
        given = dict(self.project.part("score"))
        given.setdefault("texts", str(self.project.part("place").get("prompt", "")))
        data = None
        for part in parts:
            data = self.dataset(part, data) if part.dataset is not None else data
        if data is None and not given.get("evaluator"):
            raise MixOfShowError(
                "There is nothing to compare the pictures with: score concepts that have a `dataset` in the project "
                "file, or name an `evaluator` in its section `score`, which reads the text."
            )
        batch = pack_module("nodes.bridge.host.images").to_image_batch
        images = [batch([open_picture(path)]) for path in files]
        outputs, text = call_and_read(node, **fill(node, given, "score"), images=images, dataset=data)
        self.tell.say("result", text, scores=json.loads(outputs[1]))
        return outputs


def open_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError) as error:
        raise MixOfShowError(f"{path} is no picture that can be read ({error}).") from error
