"""Damaged and hostile files are refused with the key and the reason, before anything large is built."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats import native, read_any
from mos_tests.unit.builders import make_concept
from mos_tests.unit.formats import reference_files as files
from safetensors.torch import save_file


def header_file(path, header, data=b"\0" * 64):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "header, reason",
    [
        (
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            "'a' is there twice",
        ),
        ({"a": GOOD | {"dtype": "OBJECT"}}, "'a' has dtype 'OBJECT'"),
        ({"a": GOOD | {"shape": [2**40, 2**40]}}, "'a' has the shape"),
        ({"a": GOOD | {"shape": [-2, -2]}}, "'a' has the shape"),
        ({"a": GOOD | {"data_offsets": [0, 10**9]}}, "'a' ends at byte 1000000000 of 64"),
        ({"a": GOOD | {"shape": [3, 3]}}, "'a' .* does not fit its place"),
        ({"../../etc/passwd": GOOD}, "looks like a path"),
        ({"x" * 600: GOOD}, "not a short printable text"),
        (b"[" * 100_000, "not a complete"),
        (b"[" * 300_000, "more than 200000 lists"),
        ({"a": 5}, "description of tensor 'a'"),
        ({"__metadata__": {"a": 1}}, "metadata is not a table"),
        (b"{" + b" " * 9_000_000 + b"}", "at most 8388608"),
    ],
)
def test_bad_headers(header, reason, tmp_path):
    with pytest.raises(MixOfShowError, match=reason):
        read_any(header_file(tmp_path / "bad.safetensors", header))


def test_truncation_at_every_length(tmp_path):
    native.write_concept(tmp_path / "whole", make_concept(layers=2, family="unknown"))
    data = (tmp_path / "whole").read_bytes()
    for length in range(0, len(data), 37):
        (tmp_path / "cut.safetensors").write_bytes(data[:length])
        with pytest.raises(MixOfShowError, match="cut.safetensors"):
            read_any(tmp_path / "cut.safetensors")


class Evil:
    def __reduce__(self):
        return os.system, ("echo broken into",)


def test_pickles_with_code_are_refused_by_name_and_never_run(tmp_path, capfd):
    torch.save({"params": {"unet": Evil()}}, tmp_path / "evil.pth")
    with pytest.raises(MixOfShowError, match="holds code .*system"):
        read_any(tmp_path / "evil.pth")
    with open(tmp_path / "bare.pt", "wb") as file:
        pickle.dump({"a": Evil()}, file)
    with pytest.raises(MixOfShowError, match="bare pickle"):
        read_any(tmp_path / "bare.pt")
    torch.save(files.edlora(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(MixOfShowError, match="bare pickle"):
        read_any(tmp_path / "old.pth")
    assert "broken into" not in capfd.readouterr().out


def rezip(source, target, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            name, content, attributes = change(info.filename, old.read(info))
            record = zipfile.ZipInfo(name)
            record.external_attr, record.compress_type = attributes, compression
            new.writestr(record, content)
    return target


def test_hostile_archives(tmp_path):
    torch.save(files.edlora(), tmp_path / "good.pth")
    good = tmp_path / "good.pth"
    up = rezip(good, tmp_path / "up.pth", lambda n, c: ("../" + n, c, 0))
    with pytest.raises(MixOfShowError, match="points outside"):
        read_any(up)
    link = rezip(good, tmp_path / "link.pth", lambda n, c: (n, c, 0o120777 << 16))
    with pytest.raises(MixOfShowError, match="is a link"):
        read_any(link)
    packed = rezip(good, tmp_path / "bomb.pth", lambda n, c: (n, c + b"\0" * 10**4, 0), zipfile.ZIP_DEFLATED)
    with pytest.raises(MixOfShowError, match="compressed or larger"):
        read_any(packed)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(MixOfShowError, match="not one that torch.save"):
        read_any(tmp_path / "other.pth")


def test_small_files_that_unfold_to_something_large(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "expand.pt")
    with pytest.raises(MixOfShowError, match="unfold"):
        read_any(tmp_path / "expand.pt")
    nested = {}
    for _ in range(40):
        nested = {"a": nested, "b": nested}
    torch.save(nested, tmp_path / "laughs.pt")
    with pytest.raises(MixOfShowError, match="nested too deeply"):
        read_any(tmp_path / "laughs.pt")


def changed(tmp_path, change, **options):
    tree = files.edlora(**options)
    change(tree["params"])
    torch.save(tree, tmp_path / "bad.pth")
    return tmp_path / "bad.pth"


KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda p: p["unet"][f"{KEY}.lora_up.weight"].fill_(float("nan")), f"{KEY}.*NaN or infinity"),
        (lambda p: p["unet"].pop(f"{KEY}.lora_up.weight"), f"{KEY}.*has lora down but not its partner"),
        (lambda p: p["unet"].update({f"{KEY}.lora_up.weight": torch.ones(32, 5)}), f"{KEY}.*do not share a rank"),
        (lambda p: p["unet"].update({f"{KEY}.lora_up.weight": torch.ones(32, 2).int()}), f"{KEY}.*dtype torch.int32"),
        (lambda p: p["unet"].update({f"{KEY}.lora_up.weight": torch.ones(2)}), f"{KEY}.*shape"),
        (lambda p: p["unet"].update({f"{KEY}.lora_up.weight": torch.ones(2, 140_000).mT}), "no layer is that large"),
        (lambda p: p["unet"].update({f"{KEY}.lora_up.weight": "text"}), "holds a str, not a tensor"),
        (lambda p: p["new_concept_embedding"].update({"<potter1>": torch.ones(70, 12)}), "70 rows.*16 cross-attention"),
        (lambda p: p["new_concept_embedding"].update({"<potter1>": torch.ones(16, 20)}), "different model families"),
        (lambda p: p.update(unet=torch.ones(2)), "'unet': holds a Tensor"),
    ],
    ids=["nan", "half", "rank", "dtype", "shape", "huge", "text", "layers", "family", "part"],
)
def test_bad_edlora(change, reason, tmp_path):
    with pytest.raises(MixOfShowError, match=reason):
        read_any(changed(tmp_path, change))


def test_a_70_layer_embedding_is_no_sd15_concept(tmp_path):
    native.write_concept(tmp_path / "a.safetensors", make_concept(layers=70))
    with pytest.raises(MixOfShowError, match="70 cross-attention layers, but the sd15 net has 16"):
        read_any(tmp_path / "a.safetensors")


def test_missing_files_folders_and_links(tmp_path):
    with pytest.raises(MixOfShowError, match="No file nobody.pth"):
        read_any(tmp_path / "nobody.pth")
    with pytest.raises(MixOfShowError, match="is a folder, neither"):
        read_any(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(MixOfShowError, match="No file loop"):
        read_any(tmp_path / "loop")
    folder = tmp_path / "fused"
    (folder / "text_encoder").mkdir(parents=True)
    (folder / "new_concept_cfg.json").write_text("{}")
    save_file({"text_model.embeddings.token_embedding.weight": torch.ones(4, 4)}, tmp_path / "outside.safetensors")
    (folder / "text_encoder" / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(MixOfShowError, match="link out of the folder"):
        read_any(folder, files.base_weights())


MEASURE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
from mos_pack.mixofshow_core.formats import read_any
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) * 1024
read_any(sys.argv[2])
before = peak()
read_any(sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_reading_takes_at_most_twice_the_file(suffix, tmp_path):
    from mos_pack.mixofshow_core.formats import edlora

    for name, width in (("small", 8), ("large", 640)):
        tree = files.edlora(base=width, context=768, rank=16)
        if suffix == "pth":
            torch.save(tree, tmp_path / f"{name}.pth")
        else:
            save_file(edlora.flatten(tree["params"]), tmp_path / f"{name}.safetensors")
    paths = [str(tmp_path / f"{name}.{suffix}") for name in ("small", "large")]
    conftest = str(Path(__file__).parents[2] / "conftest.py")
    done = subprocess.run([sys.executable, "-c", MEASURE, conftest, *paths], capture_output=True, text=True)
    size = os.path.getsize(paths[1])
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) <= 2.0 * size, f"{int(done.stdout) / size:.2f} times the file's {size / 1e6:.0f} MB"


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"\x1f\x8b\x08\0", "Unpack it first"),
    ],
)
def test_what_a_failed_download_left_is_called_by_its_name(tmp_path, start, says):
    path = tmp_path / "mara.safetensors"
    path.write_bytes(start + b" " * 200)
    with pytest.raises(MixOfShowError, match=rf"mara\.safetensors is .*{says}"):
        read_any(path)
