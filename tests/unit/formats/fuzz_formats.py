"""Mutated files for every reader. CI runs 2,000 per reader with kept seeds; a longer campaign is one command:

    python -m pytest tests/unit/formats/test_formats_fuzz.py            # the kept seeds
    MIXOFSHOW_FUZZ=200000 python -m pytest tests/unit/formats/test_formats_fuzz.py

The rules: a reader answers with a result or a MixOfShowError, never with anything else, soon, and without unfolding a
file to more than twice its size.
"""

import io
import json
import random
import struct
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import torch
from mos_pack.mixofshow_core.concept import concept_tensors
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats import edlora, native, read_any
from mos_pack.mixofshow_core.formats.card import describe
from mos_tests.unit.builders import make_concept
from mos_tests.unit.formats import reference_files as files
from safetensors.torch import save

MAX_SECONDS = 2.0
BASE = files.base_weights()
KEPT = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k",
    "layers.0.self_attn.q",
)


def _few(table):
    """A few layers only: small files make many mutations."""
    return {key: value for key, value in table.items() if any(part in key for part in KEPT) or key == "embed"}


def _thin(tree):
    """The kept layers are those of a net with one cross-attention layer: words get one row."""
    thin = {}
    for key, value in tree.items():
        if key in ("unet", "text_encoder", "state_dict"):
            thin[key] = _few(value)
        elif isinstance(value, dict):
            thin[key] = _thin(value)
        else:
            thin[key] = value[:1].clone() if value.dim() == 2 else value
    return thin


def _archive(tree) -> bytes:
    stream = io.BytesIO()
    torch.save(tree, stream)
    return stream.getvalue()


def _native() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        native.write_concept(Path(folder) / "a.safetensors", make_concept(layers=4, family="unknown"))
        return (Path(folder) / "a.safetensors").read_bytes()


def corpora() -> dict[str, bytes | dict[str, bytes]]:
    """One small valid file, or folder of files, per reader."""
    flat = {k: v.contiguous() for k, v in edlora.flatten(_thin(files.edlora(wrap=False))).items()}
    return {
        "native": _native(),
        "edlora main": _archive(_thin(files.edlora())),
        "edlora research": _archive(_thin(files.edlora(style="research", embeddings="modifier_token"))),
        "edlora safetensors": save(flat),
        "custom diffusion": _archive(_thin(files.custom_diffusion())),
        "custom diffusion compvis": _archive(_thin(files.custom_diffusion("compvis"))),
        "custom diffusion compressed": _archive(_thin(files.custom_diffusion("compressed"))),
        "custom diffusion processors": save(_few(files.custom_diffusion("processor"))),
        "fused weights": _archive(_thin(files.fused_weights())),
        "pivotal tuning": save({k: v for k, v in files.pivotal().items() if not k.startswith("unet")}),
        "inversion a1111": _archive(files.textual_inversion("a1111")),
        "inversion safetensors": save(files.textual_inversion("sdxl")),
        "lora with bundle": save(files.kohya_lora_with_bundle(16)),
        "fused folder": _folder(),
    }


def _folder() -> dict[str, bytes]:
    """A fused diffusers folder of one cross-attention layer: {path in the folder: content}."""
    tree = _thin(files.fused_weights())["params"]
    text = tree["text_encoder"] | {"text_model.embeddings.token_embedding.weight": torch.randn(24, 12)}
    table = {f"<mara-{n}>": {"concept_token_ids": [20 + n], "concept_token_names": [f"<new{n}>"]} for n in (1, 2)}
    return {
        "unet/diffusion_pytorch_model.safetensors": save(tree["unet"]),
        "text_encoder/model.safetensors": save(text),
        "new_concept_cfg.json": json.dumps(table).encode(),
    }


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three random changes: of bytes, of the safetensors header, or of an archive's table of contents."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        if kind < 0.5 and data[:2] == b"PK":
            data = _mutate_archive(data, rng)
        elif kind < 0.5 and len(data) > 10 and data[8:9] == b"{":
            data = _mutate_header(data, rng)
        else:
            data = _mutate_bytes(data, rng)
    return data


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"\0"
    at, kind = rng.randrange(len(data)), rng.randrange(5)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + rng.randbytes(rng.randint(1, 16)) + data[at:]
    end = min(len(data), at + rng.randint(1, 64))
    return data[:at] + (data[end:] if kind == 3 else rng.choice((b"\0", b"\xff")) * (end - at) + data[end:])


def _mutate_header(data: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    try:
        header = json.loads(data[8 : 8 + length])
        key = rng.choice(list(header))
        entry = header[key]
        odd = rng.choice((None, -1, 2**40, [], {}, "F64", "I8", [2**31, 2**31], [-1, 4], [0], 1e308, "../x", True))
        if isinstance(entry, dict) and rng.random() < 0.6:
            entry[rng.choice(list(entry) or ["x"])] = odd
        elif rng.random() < 0.5:
            header[key] = odd
        else:
            header[rng.choice(("../../x", "x" * 600, "unet.a", "", key[:-1], key + ".0"))] = header.pop(key)
        changed = json.dumps(header).encode()
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, UnicodeDecodeError, MemoryError):
        return _mutate_bytes(data, rng)
    return struct.pack("<Q", len(changed)) + changed + data[8 + length :]


def _mutate_archive(data: bytes, rng: random.Random) -> bytes:
    """Write the archive again with one record changed, renamed, doubled or gone (so that its checksums are right)."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return _mutate_bytes(data, rng)
    if not records:
        return data
    pickles = [n for n, (name, _) in enumerate(records) if name.endswith("data.pkl")]
    number = rng.choice(pickles) if pickles and rng.random() < 0.7 else rng.randrange(len(records))
    name, content = records[number]
    choice = rng.randrange(8)
    if choice < 5:
        records[number] = (name, _mutate_bytes(content, rng))
    elif choice == 5:
        records[number] = (rng.choice(("../x", "/x", name + "x", "archive/data.pkl")), content)
    elif choice == 6:
        del records[number]
    else:
        records[number] = (name, content * 2)
    stream = io.BytesIO()
    warnings.simplefilter("ignore")  # doubled names are meant
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return stream.getvalue()


def attack(
    reader: str, data: bytes | dict[str, bytes], count: int, folder: Path, first_seed: int = 0
) -> dict[str, int]:
    """Read `count` mutations of a file, or of one file of a folder; counts of results and refusals.

    Raises AssertionError with the seed.
    """
    target, outcome = folder / "mutated", {"read": 0, "refused": 0}
    parts = data if isinstance(data, dict) else {"": data}
    for name, content in parts.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    for seed in range(first_seed, first_seed + count):
        rng = random.Random(f"{reader}{seed}")
        name = rng.choice(list(parts)) if len(parts) > 1 else next(iter(parts))
        changed = mutate(parts[name], rng)
        (target / name).write_bytes(changed)
        whole = sum(len(content) for part, content in parts.items() if part != name) + len(changed)
        started = time.perf_counter()
        try:
            result = read_any(target, BASE)
            describe(result, "mutated")
        except MixOfShowError:
            outcome["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"reader {reader!r}, seed {seed}: {error!r}") from error
        else:
            outcome["read"] += 1
            tensors = concept_tensors(result.concept).values() if result.concept else ()
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            assert size <= 2 * whole, f"reader {reader!r}, seed {seed}: {size} bytes from {whole}"
        seconds = time.perf_counter() - started
        assert seconds < MAX_SECONDS, f"reader {reader!r}, seed {seed}: {seconds:.1f} s"
        (target / name).write_bytes(parts[name])
    return outcome
