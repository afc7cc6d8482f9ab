"""Multi-head latent attention in its expanded form, as trained (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.operators import LayerBuilder, Read, Tensor, detached, product, renamed, weight

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
            q_low = b.linear("q_down", x, "hidden", "q_rank", bias=self.bias)
            q_in, width = b.norm("q_down_norm", q_low, "q_rank"), "q_rank"
        else:
            q_in, width = x, "hidden"
        q = b.linear("q", q_in, width, "heads qk_dim")
        q = b.op("q_rotary", "rotary", [q], QUERY)
        latent = b.linear("kv_down", x, "hidden", "kv_rank", bias=self.bias, state=True)
        k_rope = b.linear("k_rope", x, "hidden", "rope_dim", bias=self.bias, state=True)
        latent = b.norm("kv_down_norm", latent, "kv_rank")
        k_nope = b.linear("k_up", latent, "kv_rank", "heads nope_dim")
        v = b.linear("v_up", latent, "kv_rank", "heads v_dim")
        k_rope = b.op("k_rotary", "rotary", [k_rope], "batch sequence rope_dim")
        k = b.op("k_concat", "concat", [k_nope, k_rope], QUERY)
        reads: list[Tensor | Read] = [q, renamed(k, sequence="context"), renamed(v, sequence="context")]
        if self.indexer:
            reads.append(self._index(b, x, q_in))
        o = b.op("attention", "attention", reads, "batch sequence heads v_dim", over="context")
        return b.linear("attention_out", o, "heads v_dim", "hidden", bias=self.bias)

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
