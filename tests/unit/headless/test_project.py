"""The project file: what is refused, and in which words; --set; a new project; the commands that need no ComfyUI."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mos_pack.headless.project import NAME, parse_project, read_project, write_new_project
from mos_pack.mixofshow_core.errors import MixOfShowError

ROOT = Path(__file__).resolve().parents[3]
GOOD = {
    "version": 1,
    "model": {"base": "SD1.5 kind"},
    "concepts": {"mara": {"dataset": {"folder": "demo:mara"}}, "hat": {"load": {"file": "hat.safetensors"}}},
}


def write(folder: Path, text: str) -> Path:
    (folder / NAME).write_text(text)
    return folder / NAME


def test_a_new_project_is_read_back_and_never_overwritten(tmp_path):
    path = tmp_path / NAME
    write_new_project(path, {"mara": "demo:mara", "finn": "/pictures/finn"}, "SD1.5 kind", 64)
    project = read_project(path)
    assert list(project.concepts) == ["mara", "finn"] and project.model == {"base": "SD1.5 kind"}
    assert project.concepts["finn"].dataset["folder"] == "/pictures/finn"
    assert project.part("regions")["width"] == 128
    assert [r["concept"] for r in project.part("regions")["editor"]["regions"]] == ["mara", "finn"]
    assert project.base_directory == tmp_path / "comfyui"
    with pytest.raises(MixOfShowError, match="exists already"):
        write_new_project(path, {}, "SD1.5 kind", 64)


def test_set_changes_what_the_file_says(tmp_path):
    path = write(tmp_path, yaml.safe_dump(GOOD))
    project = read_project(path, ["train.steps=3", "concepts.mara.train.seed=7", "model={ckpt_name: a.safetensors}"])
    assert project.part("train") == {"steps": 3} and project.concepts["mara"].train == {"seed": 7}
    assert project.model == {"ckpt_name": "a.safetensors"}
    with pytest.raises(MixOfShowError, match="section.input=value"):
        read_project(path, ["train.steps"])
    with pytest.raises(MixOfShowError, match="version holds a value"):
        read_project(path, ["version.steps=3"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version is 2"),
        ({"trian": {}}, "trian, which means nothing; known are"),
        ({"model": {}}, "ckpt_name: FILE"),
        ({"concepts": {"ma ra": {}}}, "a concept is called 'ma ra'"),
        ({"concepts": {"mara": {}}}, "needs `dataset` (pictures) or `load`"),
        ({"concepts": {"mara": {"dataset": {}, "load": {}}}}, "needs `dataset` (pictures) or `load`"),
        ({"concepts": {"mara": {"data": {}}}}, "concepts.mara has data"),
        ({"concepts": {"mara": {"dataset": "demo:mara"}}}, "concepts.mara.dataset is 'demo:mara'"),
        ({"threads": -1}, "threads is -1"),
        ({"device": "cuda:0"}, "device is 'cuda:0'; use one of cpu, auto"),
        ({"way": "sum"}, "way is 'sum'"),
        ({"base_directory": 5}, "base_directory is 5"),
    ],
)
def test_what_is_wrong_is_named(change, words):
    with pytest.raises(MixOfShowError) as refused:
        parse_project(GOOD | change, Path("people.yaml"))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nversion: 1\n", "version stands twice"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("a: [\n", "no YAML"),
        ("a: !!python/object/apply:os.system [echo]\n", "no YAML"),
        ("- 1\n", "takes `name: value` lines"),
        ("a: " + "[" * 1200, "no YAML"),
    ],
)
def test_no_yaml_that_does_something_else(tmp_path, text, words):
    with pytest.raises(MixOfShowError) as refused:
        read_project(write(tmp_path, text))
    assert words in str(refused.value)


def cli(folder, *arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_init_needs_no_comfyui_and_exit_codes_say_what_happened(tmp_path):
    code, out, _ = cli(tmp_path, "init", "--concept", "mara=pictures", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and lines[-1]["event"] == "result" and NAME in lines[-1]["text"]
    assert read_project(tmp_path / NAME).concepts["mara"].dataset["folder"] == str(tmp_path / "pictures")
    code, out, error = cli(tmp_path, "init", "--json")
    assert code == 2 and not error and json.loads(out)["event"] == "refused" and "exists already" in out
