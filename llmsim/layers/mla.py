"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): expanded, as it is trained, and absorbed,
as it decodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..core.operators import LayerBuilder, Operator, Read, Tensor, activation, detached, product, renamed, weight
from .attention import UP
from .base import LayerKind

QUERY = "batch sequence heads qk_dim"


@dataclass(frozen=True)
class LatentAttention:
    """Keys and values expand from a latent of width ``kv_rank``; a rotary key of width ``rope_dim`` is shared by all
    heads.

    ``qk_dim`` = ``nope_dim`` + ``rope_dim`` is the width of a query.

    Attributes
    ----------
    q_latent
        Whether queries come from a latent too (``q_rank``).
    bias
        Biases of the down-projections and of the output projection.
    indexer
        The lightning indexer of DeepSeek-V3.2 (arXiv:2512.02556, section 2.1) scores every visible position and leaves
        ``index_top_k`` of them to attend to. As in its sparse training stage: trained on a loss of its own over the
        positions that it chose, and cut off from the layer's gradient.
    """

    q_latent: bool = True
    bias: bool = False
    indexer: bool = False

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        if self.q_latent:
            q_low = b.linear("q_down", x, "hidden", "q_rank", bias=self.bias, tags="attention q_down")
            q_in, width = b.norm("q_down_norm", q_low, "q_rank"), "q_rank"
        else:
            q_in, width = x, "hidden"
        q = b.linear("q", q_in, width, "heads qk_dim", tags=f"attention q {UP}")
        q = b.op("q_rotary", "rotary", [q], QUERY, tags=f"rope_query {UP}")
        latent = b.linear("kv_down", x, "hidden", "kv_rank", bias=self.bias, tags="attention kv_down")
        k_rope = b.linear("k_rope", x, "hidden", "rope_dim", bias=self.bias, tags="attention k_rope")
        latent = b.norm("kv_down_norm", latent, "kv_rank", state=True, tags="latent")
        k_nope = b.linear("k_up", latent, "kv_rank", "heads nope_dim", tags=f"attention k_up {UP}")
        v = b.linear("v_up", latent, "kv_rank", "heads v_dim", tags=f"attention v_up {UP}")
        narrow = "batch sequence rope_dim"
        k_rope = b.op("k_rotary", "rotary", [k_rope], narrow, state=True, tags=f"rope_key {UP}")
        k = b.op("k_concat", "concat", [k_nope, k_rope], QUERY, tags=f"k_concat {UP}")
        reads: list[Tensor | Read] = [q, renamed(k, sequence="context"), renamed(v, sequence="context")]
        if self.indexer:
            reads.append(self._index(b, x, q_in))
        o = b.op("attention", "attention", reads, "batch sequence heads v_dim", over="context", tags="core_attn")
        tags = "attention attention_out"
        return b.linear("attention_out", o, "heads v_dim", "hidden", bias=self.bias, tags=tags)

    @staticmethod
    def _index(b: LayerBuilder, x: Tensor, q_in: Tensor) -> Tensor:
        q = b.linear("index_q", detached(q_in), "q_rank", "index_heads index_dim")
        k = b.linear("index_k", detached(x), "hidden", "index_dim")
        k = b.norm("index_k_norm", k, "index_dim", kind="layer_norm", bias=True)
        heads = weight("index_heads.weight", "hidden", "index_heads")
        share = b.op("index_weights", "contract", [detached(x), heads], "batch sequence index_heads")
        head = "batch sequence index_heads index_dim"
        return b.op(
            "index_select", "index_select", [q, renamed(k, sequence="index_context"), share],
            "batch sequence index_top_k", format="int32", role="index",
            products=[product(f"{head} index_context", 2, 0), product(f"{head} context", 0, 4)],
        )  # fmt: skip


LATENT = "latent_dim"
"""Width of an absorbed query, and of the key that all heads share: ``kv_rank`` + ``rope_dim``."""


def is_latent(kind: LayerKind) -> bool:
    """Whether a layer attends to a latent that its keys and values expand from."""
    return "kv_rank" in kind.sizes and any("k_up" in op.tags for op in kind.operators)


def absorbed(kind: LayerKind) -> LayerKind:
    """The layer with its up-projections absorbed into queries and outputs, for few queries over a long cache: heads
    attend to the latent itself, which is key and value of all of them, so that nothing cached is expanded.

    ``(W_uk^T q) . c = q . (W_uk c)``, and outputs alike (arXiv:2405.04434, section 2.1.2). A layer of another kind
    stays as it is.
    """
    if not is_latent(kind):
        return kind
    by_tag = {tag: op for op in kind.operators for tag in op.tags}
    sizes = {**kind.sizes, LATENT: kind.sizes["kv_rank"] + kind.sizes["rope_dim"]}
    return replace(kind, operators=tuple(_absorbed_operators(kind.operators, by_tag)), sizes=sizes)


def _absorbed_operators(operators: tuple[Operator, ...], by_tag: Mapping[str, Operator]) -> Iterator[Operator]:
    q, latent, k_rope = (by_tag[tag].write for tag in ("rope_query", "latent", "rope_key"))
    low = replace(by_tag["core_attn"].write, dims=("batch", "sequence", "heads", "kv_rank"))
    for op in operators:
        if op.tags & {"k_up", "v_up", "k_concat"}:
            continue
        if "core_attn" in op.tags:
            yield from _absorbed_core(op, by_tag, q, latent, k_rope, low)
        elif "attention_out" in op.tags:
            out = replace(by_tag["core_attn"].write, name="v_absorbed")
            yield Operator("v_absorbed", "contract", (Read(low, low.dims), by_tag["v_up"].reads[1]), out)
            yield replace(op, reads=(Read(out, op.reads[0].dims), *op.reads[1:]))
        else:
            yield op


def _absorbed_core(
    op: Operator, by_tag: Mapping[str, Operator], q: Tensor, latent: Tensor, k_rope: Tensor, low: Tensor
) -> Iterator[Operator]:
    """Queries taken to the latent's width, and attention over it."""
    heads = q.dims[:-1]
    in_latent = activation("q_absorbed", " ".join((*heads, "kv_rank")))
    wide = activation("q_latent", " ".join((*heads, LATENT)))
    key = activation("k_latent", f"batch sequence {LATENT}", state=True)
    yield Operator("q_absorbed", "contract", (Read(q, (*heads, "nope_dim")), by_tag["k_up"].reads[1]), in_latent)
    yield Operator("q_latent", "concat", (Read(in_latent, in_latent.dims), Read(q, (*heads, "rope_dim"))), wide)
    yield Operator("k_latent", "concat", (Read(latent, latent.dims), Read(k_rope, k_rope.dims)), key)
    reads = (Read(wide, wide.dims), renamed(key, sequence="context"), renamed(latent, sequence="context"))
    yield replace(op, reads=(*reads, *op.reads[3:]), write=low)
