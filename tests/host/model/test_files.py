"""Concept files are found, named and saved safely in the host's own folders; progress can be cancelled."""

from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.native import write_concept
from mos_pack.mixofshow_core.formats.thumbnail import add_thumbnail
from mos_pack.nodes.bridge.host import files
from mos_pack.nodes.bridge.host.progress import Progress
from mos_tests.unit.builders import make_concept


def test_the_packs_own_folder_is_the_one_with_its_shipped_files():
    assert (files.PACK / "pyproject.toml").is_file() and (files.PACK / "assets" / "demo").is_dir()


@pytest.fixture
def saved():
    path = files.concept_save_path("filed")
    path.write_bytes(b"x")
    yield path
    path.unlink(missing_ok=True)


def test_a_second_save_gets_a_number_and_never_overwrites(saved):
    again = files.concept_save_path("filed.safetensors")
    assert again.name == "filed-2.safetensors" and again.parent == saved.parent == files.concept_folder()


def test_saved_files_are_listed_first_and_found_again(saved):
    stranger = saved.parents[1] / "a stranger.safetensors"
    stranger.write_bytes(b"x")
    try:
        listed = files.list_concept_files()
    finally:
        stranger.unlink()
    ours = [name for name in listed if name.startswith("mixofshow/")]
    assert "mixofshow/filed.safetensors" in ours and "a stranger.safetensors" in listed
    assert listed[: len(ours)] == ours
    assert files.resolve_concept_file("mixofshow/filed.safetensors").samefile(saved)
    assert files.resolve_concept_file("mixofshow\\filed.safetensors").samefile(saved)
    assert files.resolve_concept_file(str(saved)).samefile(saved)


def test_files_in_the_output_folder_are_marked_and_found():
    path = files.concept_save_path("finn", "output")
    path.write_bytes(b"x")
    try:
        assert "mixofshow/finn.safetensors [output]" in files.list_concept_files()
        assert files.resolve_concept_file("mixofshow/finn.safetensors [output]").samefile(path)
        assert files.resolve_concept_file(str(path)).samefile(path)
    finally:
        path.unlink()


def test_what_a_run_was_before_its_end_is_in_no_lora_list_and_last_in_ours(saved):
    import folder_paths

    path = files.step_path("mara", 100, lambda path: False)
    path.write_bytes(b"x")
    try:
        assert files.step_path("mara", 100, lambda path: True) == path
        assert files.step_path("mara", 100, lambda path: False).name == "mara-step100-2.safetensors"
        assert not [name for name in folder_paths.get_filename_list("loras") if "-step" in name]
        listed = files.list_concept_files()
        assert listed[-1] == "mixofshow/steps/mara-step100.safetensors [output]" and len(set(listed)) == len(listed) > 1
        assert files.resolve_concept_file(listed[-1]).samefile(path)
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "mixofshow/../../x.safetensors", "/etc/passwd", "..\\x", "../x [output]"]
)
def test_names_that_leave_the_folders_are_refused(name):
    with pytest.raises(MixOfShowError, match="outside"):
        files.resolve_concept_file(name)


def test_a_missing_file_names_the_folder_to_put_it_in():
    with pytest.raises(MixOfShowError, match="nobody.safetensors.*mixofshow"):
        files.resolve_concept_file("nobody.safetensors")
    with pytest.raises(MixOfShowError, match="no concept file chosen"):
        files.resolve_concept_file("  ")


@pytest.mark.parametrize(
    "given, wanted",
    [
        ("a/b\\c:d", "a_b_c_d"),
        ("  ..mara.. ", "mara"),
        ("con", "con_"),
        ("Mara v1.2", "Mara v1.2"),
        ("x" * 300, "x" * files.MAX_NAME),
        ("mara.SAFETENSORS", "mara"),
        ("<mara>", "mara"),
    ],
)
def test_names_become_safe(given, wanted):
    assert files.safe_name(given) == wanted


def test_a_name_of_nothing_is_an_error():
    with pytest.raises(MixOfShowError, match="no usable file name"):
        files.safe_name(" ../.. ")


def test_progress_reports_every_step_and_stops_when_cancelled(monkeypatch):
    import comfy.model_management
    import comfy.utils
    from PIL import Image

    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *values, **_: seen.append(values))
    progress = Progress(3)
    progress.step(1)
    progress.step(2, Image.new("RGBA", (4, 4)))
    assert [values[:2] for values in seen] == [(1, 3), (2, 3)]
    assert seen[1][2][1].mode == "RGB"
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        progress.step(3)


def test_the_server_says_which_names_a_file_brings(server):
    """The route that the editor asks before the first run; only files that Load Concept would open are looked into."""
    folder = server.base / "models" / "loras" / "mixofshow"
    folder.mkdir(parents=True, exist_ok=True)
    write_concept(folder / "called otherwise.safetensors", make_concept("mara"))
    ours = "mixofshow/called otherwise.safetensors"
    for file, names in ((ours, ["mara"]), ("../../x", None), ("gone", None), ("", None)):
        assert server.get(f"/mixofshow/names?{urlencode({'file': file})}")["names"] == names, file
        assert server.get(f"/api/mixofshow/names?{urlencode({'file': file})}")["names"] == names, file


def test_a_picture_comes_from_beside_a_file_or_from_its_header(server):
    from PIL import Image

    folder = server.base / "models" / "loras" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    write_concept(folder / "bare.safetensors", make_concept("mara"))
    write_concept(folder / "seen.safetensors", make_concept("mara"))
    add_thumbnail(folder / "seen.safetensors", torch.ones(8, 8, 3))

    def ask(what, file):
        with urlopen(f"{server.url}/mixofshow/{what}?{urlencode({'file': file})}") as answer:
            return answer.headers["Content-Type"], answer.read()

    assert not server.get("/mixofshow/facts?file=pictures/bare.safetensors")["picture"]
    assert server.get("/mixofshow/facts?file=pictures/seen.safetensors")["picture"]
    kind, data = ask("picture", "pictures/seen.safetensors")
    assert (kind, data[:2]) == ("image/jpeg", b"\xff\xd8")
    Image.new("RGB", (4, 4)).save(folder / "seen.png")
    assert ask("picture", "pictures/seen.safetensors")[0] == "image/png", "what a person put beside it goes first"
    for file in ("pictures/bare.safetensors", "../../x", ""):
        with pytest.raises(HTTPError, match="404"):
            ask("picture", file)
