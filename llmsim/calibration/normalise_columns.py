"""Free text of run tables (interconnect, recompute, overlap, source) turned into names of profiles and settings."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..core.errors import InputError
from ..hardware.devices import Device
from ..hardware.named import get_fabric
from ..hardware.network import fabric_names
from ..hardware.software import framework_name
from ..plans.recompute import parse_recompute
from .interconnects import link_rate


def network_of(text: str, device: Device, per_node: int) -> tuple[str, str]:
    """Fabric profile for an interconnect as a source describes it, and a note where the source does not say so itself.

    The text may be a profile's name. A stated rate picks the profile whose bandwidth per device is nearest; without
    one it is the device's usual fabric.
    """
    said = text.strip().lower()
    if said in fabric_names():
        return said, ""
    usual = get_fabric(device.network).shared_by(per_node).bandwidth.value
    rate = link_rate(text, per_node, usual)
    if rate is None:
        return device.network, f"the usual fabric of {device.name}"
    wanted = rate.bytes_per_s
    names = [n for n in fabric_names() if not n.startswith("tpu")]
    name = min(names, key=lambda n: _distance(get_fabric(n).bandwidth.value, wanted, n, said))
    notes = [] if rate.said else [f"{text!r} read as {wanted / 1e9:.4g} GB/s a device"]
    if abs(get_fabric(name).bandwidth.value / wanted - 1) > _NEAR:
        notes.append(f"the nearest profile to {wanted / 1e9:.4g} GB/s a device")
    return name, ", ".join(notes)


_NEAR = 0.2
"""Part by which a profile's bandwidth may differ from a stated one before that is listed."""

_SLICE = re.compile(r"slice \((\d+) chips\)|(\d+) slice\(s\) [a-z0-9]+-(\d+)")


def domain_of(text: str) -> int | None:
    """Devices in one scale-up domain where the interconnect is a torus slice of stated size."""
    found = _SLICE.search(text.lower())
    return int(found[1] or found[3]) if found else None


def _distance(bandwidth: float, rate: float, name: str, said: str) -> tuple[float, int]:
    kind = name.split("-", maxsplit=1)[0]
    words = {"infiniband": ("ib", "infiniband", "hdr", "ndr", "edr"), "ethernet": ("roce", "ethernet", "rdma", "tcp")}
    named = any(w in said for w in words.get(kind, (kind,)))
    return round(abs(bandwidth / rate - 1), 2), 0 if named else 1


_ERA = re.compile(r"arxiv:?\s*(\d{2})(\d{2})\.\d+", re.IGNORECASE)


def date_of(source: str) -> str:
    """Year and month of the paper that reports a run, which date its software; empty where no arXiv number is named."""
    era = _ERA.search(source)
    return f"20{era[1]}-{era[2]}" if era else ""


_RECOMPUTE = (
    # pattern of the source's wording -> setting
    (r"selective \(op-level\)", "selective:alternate"),
    (r"selective \(every layer\)", "full"),
    (r"selective \(layer\)", "full@1/2"),
    (r"minimal_with_context.*", "selective:matmuls+attention"),
    (r"minimal.*", "selective:matmuls"),
    (r"(custom|qkv_proj).*", "selective:projections"),
)


_RECOMPUTE_GUESSES = (
    (r"\b(none|no|off|disabled)\b", "none"),
    (r"selective.*(attn|attention)", "selective"),
    (r"dot|matmul|\bmm\b", "selective:matmuls"),
    (r"selective|partial", "selective"),
    (r"full|block|uniform|layer|whole|checkpoint|\b(on|yes|true)\b", "full"),
)
_SHARE = re.compile(r"(\d+) of (\d+)")


def recompute_of(text: str, default: str, assumed: dict[str, str]) -> str:
    """The recompute setting of a run; a blank one is taken from the software profile, a wording that is not a setting
    is taken for the nearest one, and both are listed."""
    if not text:
        assumed["recompute"] = f"{default} (software profile)"
        return default
    said = text.strip().lower()
    for pattern, setting in _RECOMPUTE:
        if re.fullmatch(pattern, said):
            return setting
    try:
        return str(parse_recompute(text.replace(" ", "")))
    except InputError:
        guess = first_match(said, _RECOMPUTE_GUESSES) or default
        share = _SHARE.search(said)
        if share and guess == "full" and 0 < int(share[1]) <= int(share[2]):
            guess = f"full@{int(share[1])}/{int(share[2])}"
        assumed["recompute"] = f"{guess} ({text!r})"
        return guess


_OFFLOADED_LAYERS = (re.compile(r"offloading_num_layers=(\d+)"), re.compile(r"\b(\d+)\b.*\bof \d+ layers"))


def offload_of(text: str, notes: str, layers: int, assumed: dict[str, str]) -> float:
    """Share of the layers whose activations go to the host.

    A number of layers is taken from the setting that the notes quote, else from the text. What is named by operators
    and kept by a checkpoint policy is all that its layers keep. A text that is neither is listed, and what it moves is
    taken to cost nothing.
    """
    said = text.strip().lower()
    if said in ("", "none"):
        return 0.0
    found = next(
        (m for pattern, where in zip(_OFFLOADED_LAYERS, (notes, said), strict=True) if (m := pattern.search(where))),
        None,
    )
    if found:
        share = min(1.0, int(found[1]) / layers)
        assumed["offload"] = f"activations of {found[1]} of {layers} layers ({text!r})"
        return share
    if said.startswith("host offload"):
        assumed["offload"] = f"all that layers keep ({text!r})"
        return 1.0
    assumed["offload"] = f"transfers hidden behind compute, memory as without: {text!r}"
    return 0.0


_PACKED = re.compile(r"packed (sequences|squad)", re.IGNORECASE)
PACKED_DOCUMENT = 200
"""Tokens of a packed example where nobody says, assumed: a passage of SQuAD with its question and answer (Rajpurkar
2016, arXiv:1606.05250)."""


def packed_of(notes: str) -> bool:
    """Whether notes say that a sequence packs documents."""
    return _PACKED.search(notes) is not None


def document_length_of(packed: bool, sequence: int, assumed: dict[str, str]) -> int | None:
    """Tokens of the documents that a sequence packs; None where it is one document."""
    if not packed or sequence <= PACKED_DOCUMENT:
        return None
    assumed["document_length"] = f"{PACKED_DOCUMENT} tokens (packed, lengths not said)"
    return PACKED_DOCUMENT


_FINE_TUNING = re.compile(r"\b(sft|fine.?tuning)\b", re.IGNORECASE)


def fine_tuning_of(notes: str) -> bool:
    """Whether notes say that a run fine-tunes."""
    return _FINE_TUNING.search(notes) is not None


def dispatcher_of(notes: str) -> str:
    """The dispatcher that notes name, else the profile's usual."""
    found = re.search(r"\b(hybridep|deepep)\b", notes.lower())
    return found[1] if found else "profile"


def first_match(text: str, table: Iterable[tuple[str, str]]) -> str | None:
    """The name beside the first pattern that occurs in a text."""
    return next((name for pattern, name in table if re.search(pattern, text.lower())), None)


_FRAMEWORKS = (
    (r"nanotron", "nanotron"),
    (r"bridge", "megatron-bridge"),
    (r"nemo", "nemo"),
    (r"deepspeed", "megatron-deepspeed"),
    (r"megatron.?lm|zero.?bubble|\bzb", "megatron-lm"),
    (r"megatron|primus", "megatron-core"),
    (r"maxtext|jax|axlearn|levanter|t5x|pax", "maxtext"),
    (r"foundry|composer|mosaic", "llm-foundry"),
    (r"intern", "internevo"),
    (r"titan|torch|fsdp|accelerate|lightning|vescale|transformers", "torchtitan"),
)


def framework_of(text: str, device: Device, sharding: str, assumed: dict[str, str]) -> str:
    """Software profile of a framework; one that has none is taken for the likest, by its name, else by the device and
    the sharding, and that is listed."""
    try:
        return framework_name(text)
    except InputError:
        guess = first_match(text, _FRAMEWORKS)
        if guess is None:
            usual = "torchtitan" if sharding in ("zero3", "hsdp") else "megatron-core"
            guess = "maxtext" if device.vendor == "Google" else usual
        assumed["framework"] = f"{guess} ({text!r} has no profile)"
        return guess


_OPTIMIZERS = (
    (r"8.?bit", "adam-8bit"), (r"adafactor", "adafactor"), (r"muon", "muon"), (r"lion", "lion"), (r"soap", "soap"),
    (r"shampoo", "shampoo"), (r"adam", "adamw"), (r"sgd", "sgd-momentum"),
)  # fmt: skip
_PRECISIONS = (
    (r"mxfp8", "mxfp8"), (r"nvfp4|fp4", "nvfp4"), (r"(fp8|float8).*block", "fp8-block"),
    (r"(fp8|float8).*row", "fp8-rowwise"), (r"(fp8|float8).*(current|tensor)", "fp8-current"),
    (r"fp8|float8", "fp8-delayed"), (r"bf16|bfloat16", "bf16"), (r"fp16|float16|half", "fp16"), (r"tf32", "tf32"),
    (r"fp32|float32", "fp32"),
)  # fmt: skip
_SHARDINGS = (
    (r"hybrid|hsdp", "hsdp"), (r"zero.?3|fsdp|full.?shard", "zero3"), (r"zero.?2|shard.?grad", "zero2"),
    (r"zero.?1|distributed.?opt", "zero1"), (r"ddp|none|replicat|^dp$", "ddp"),
)  # fmt: skip
_WORDINGS = {"optimizer": _OPTIMIZERS, "precision": _PRECISIONS, "sharding": _SHARDINGS}


def setting_of(column: str, text: str, allowed: Iterable[str], assumed: dict[str, str]) -> str:
    """A setting as our own names have it; a wording that none of them is taken for is left for the plan to refuse, one
    that is, is listed.

    Parameters
    ----------
    column
        ``optimizer``, ``precision`` or ``sharding``.
    """
    said = text.strip().lower()
    if said in allowed:
        return said
    guess = first_match(said, _WORDINGS[column])
    if guess is None:
        return text
    assumed[column] = f"{guess} ({text!r})"
    return guess


_SCHEDULES = re.compile(r"\b(zb-?v|zb-?h[12]|zb-?[12]p|zero.?bubble|dualpipe-?v|dualpipe|gpipe|afab)\b")


def schedule_of(text: str, chunks: int, assumed: dict[str, str]) -> str | None:
    """The pipeline schedule that a source names; None where it names none, and what follows from the chunks holds."""
    found = _SCHEDULES.search(text.lower())
    if found is None:
        return None
    said = found[1].replace("-", "")
    named = {"dualpipe": "dualpipe", "dualpipev": "dualpipe-v", "gpipe": "gpipe", "afab": "gpipe"}.get(said)
    guess = named or ("zb-v" if chunks == 2 else "zb-h1")
    assumed["schedule"] = f"{guess} ({found[1]!r})"
    return guess


def overlap_of(text: str) -> str:
    """The overlap setting of a run: what its source says beside the profile's usual."""
    said = text.lower()
    if said.startswith("none") or "overlap off" in said:
        return "none" if said.startswith("none") else "profile"
    if "async tp" in said:
        return "tensor"
    if "all-to-all overlap on" in said:
        return "expert"
    return "profile"
