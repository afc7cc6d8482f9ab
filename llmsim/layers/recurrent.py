"""Linear-time mixers: a short convolution, a recurrence computed in chunks, a gate and two projections.

Inside, positions are called ``steps`` and heads ``scan_heads``. Tensor parallelism spreads the heads in both worlds;
context parallelism shards the sequence outside and the heads inside, so that each rank walks through whole sequences
of some heads: an all-to-all on the way in and one on the way out, as for Ulysses attention (arXiv:2309.14509).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.operators import LayerBuilder, Product, Read, Tensor, product, renamed, weight

MAMBA2_HEADS = "ssm_heads group_heads ssm_width"
DELTA_VALUES = "ssm_heads head_share linear_v_dim"
STEPS = "batch steps scan_heads"


def inside(tensor: Tensor) -> Read:
    """A tensor as a recurrence reads it."""
    return renamed(tensor, sequence="steps", ssm_heads="scan_heads")


def outside(tensor: Tensor) -> Read:
    """The result of a recurrence as the rest of a layer reads it."""
    return renamed(tensor, steps="sequence", scan_heads="ssm_heads")


def convolution(b: LayerBuilder, name: str, x: Tensor, *, bias: bool) -> Tensor:
    """A causal depthwise convolution over the steps and a SiLU; its kernel has ``conv_kernel`` taps a channel."""
    read = inside(x)
    channels = " ".join(x.dims[2:])
    reads: list[Tensor | Read] = [read, inside(weight(f"{name}.weight", f"{channels} conv_kernel"))]
    if bias:
        reads.append(inside(weight(f"{name}.bias", channels)))
    dims = " ".join(read.dims)
    return b.op(name, "convolution", reads, dims, products=[product(f"{dims} conv_kernel")])


@dataclass(frozen=True)
class Mamba2:
    """State-space duality mixer (Dao 2024, arXiv:2405.21060), ``group_heads`` heads of width ``ssm_width`` for each of
    ``ssm_heads`` groups that share one input and one output matrix of ``ssm_state`` rows.

    Attributes
    ----------
    bias, conv_bias
        Biases of the two projections and of the convolution.
    """

    bias: bool
    conv_bias: bool

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        with b.tagged("mixers"):
            return self._mixed(b, x)

    def _mixed(self, b: LayerBuilder, x: Tensor) -> Tensor:
        z, inner = (b.linear(f"ssm_{n}", x, "hidden", MAMBA2_HEADS, bias=self.bias) for n in ("z", "x"))
        keys, queries = (b.linear(f"ssm_{n}", x, "hidden", "ssm_heads ssm_state", bias=self.bias) for n in ("b", "c"))
        dt = b.linear("ssm_dt", x, "hidden", "ssm_heads group_heads", bias=self.bias)
        reads: list[Tensor | Read] = [
            convolution(b, f"ssm_conv_{name}", tensor, bias=self.conv_bias)
            for name, tensor in (("x", inner), ("b", keys), ("c", queries))
        ]
        heads = [inside(weight(f"ssm.{name}", "ssm_heads group_heads")) for name in ("a", "d", "dt")]
        dims = f"{STEPS} group_heads ssm_width"
        y = b.op(
            "ssm_scan", "ssm_scan", [*reads, inside(dt), *heads], dims,
            products=self.products(), states="batch chunks scan_heads group_heads ssm_width ssm_state",
        )  # fmt: skip
        gain = inside(weight("ssm_norm.weight", MAMBA2_HEADS))
        over = "group_heads ssm_width"
        y = b.op("ssm_norm", "gated_norm", [y, inside(z), gain], dims, over=over, format="normed")
        return b.linear("ssm_out", outside(y), MAMBA2_HEADS, "hidden", bias=self.bias)

    @staticmethod
    def products() -> tuple[Product, ...]:
        """The four products of the chunked form (section 6 of the paper): scores inside a chunk, once a group; scores
        by values; the chunk's contribution to the state; what the state before the chunk contributes. Chunks hand
        their states on element by element."""
        return (
            product(f"{STEPS} chunk_context ssm_state"),
            product(f"{STEPS} group_heads chunk_context ssm_width"),
            product(f"{STEPS} group_heads ssm_width ssm_state"),
            product(f"{STEPS} group_heads ssm_width ssm_state"),
        )


@dataclass(frozen=True)
class Mamba1:
    """Selective state-space mixer (Gu 2023, arXiv:2312.00752) with Jamba's three inner norms (arXiv:2403.19887). Each
    channel is a head of its own.

    Attributes
    ----------
    bias, conv_bias
        Biases of the in and out projections and of the convolution.
    """

    bias: bool = False
    conv_bias: bool = True

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        with b.tagged("mixers"):
            return self._mixed(b, x)

    def _mixed(self, b: LayerBuilder, x: Tensor) -> Tensor:
        z, inner = (b.linear(f"mamba_{n}", x, "hidden", "ssm_heads", bias=self.bias) for n in ("z", "x"))
        conv = convolution(b, "mamba_conv", inner, bias=self.conv_bias)
        widths = {"dt": "dt_rank", "b": "ssm_state", "c": "ssm_state"}
        low = [_low(b, f"mamba_low_{name}", conv, width) for name, width in widths.items()]
        dt_low, keys, queries = (b.norm(f"{t.name}_norm", t, t.dims[-1]) for t in low)
        matrix = Read(weight("mamba_dt.weight", "dt_rank", "ssm_heads"), ("dt_rank", "scan_heads"))
        dt = b.op("mamba_dt", "contract", [dt_low, matrix, inside(weight("mamba_dt.bias", "ssm_heads"))], STEPS)
        a, d = inside(weight("mamba.a", "ssm_heads ssm_state")), inside(weight("mamba.d", "ssm_heads"))
        # Element by element, as fvcore counts of the reference kernel have it (VMamba, arXiv:2401.10166): 9 a step,
        # channel and state.
        y = b.op(
            "mamba_scan", "selective_scan", [conv, dt, keys, queries, a, d], STEPS,
            products=[product(f"{STEPS} ssm_state", 9)],
        )  # fmt: skip
        y = b.op("mamba_gate", "gate", [inside(z), y], STEPS)
        return b.linear("mamba_out", outside(y), "ssm_heads", "hidden", bias=self.bias)


def _low(b: LayerBuilder, name: str, x: Tensor, width: str) -> Tensor:
    """A narrow projection of all channels, which sums over those of other ranks."""
    matrix = Read(weight(f"{name}.weight", "ssm_heads", width), ("scan_heads", width))
    return b.op(name, "contract", [x, matrix], f"batch steps {width}")


@dataclass(frozen=True)
class GatedDeltaNet:
    """Gated delta rule (Yang 2024, arXiv:2412.06464) as in Qwen3-Next: queries and keys of width ``linear_k_dim`` for
    each of ``ssm_heads`` heads, values and gates of width ``linear_v_dim`` for ``head_share`` times as many."""

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        with b.tagged("mixers"):
            return self._mixed(b, x)

    def _mixed(self, b: LayerBuilder, x: Tensor) -> Tensor:
        q, k = (b.linear(f"delta_{n}", x, "hidden", "ssm_heads linear_k_dim") for n in ("q", "k"))
        v, z = (b.linear(f"delta_{n}", x, "hidden", DELTA_VALUES) for n in ("v", "z"))
        beta, decay = (b.linear(f"delta_{n}", x, "hidden", "ssm_heads head_share") for n in ("b", "a"))
        reads = [convolution(b, f"delta_conv_{t.name[-1]}", t, bias=False) for t in (q, k, v)]
        heads = [inside(weight(f"delta.{name}", "ssm_heads head_share")) for name in ("a", "dt")]
        dims = f"{STEPS} head_share linear_v_dim"
        y = b.op(
            "delta_rule", "delta_rule", [*reads, inside(beta), inside(decay), *heads], dims,
            products=self.products(), states="batch chunks scan_heads head_share linear_k_dim linear_v_dim",
        )  # fmt: skip
        gain = weight("delta_norm.weight", "linear_v_dim")
        y = b.op("delta_norm", "gated_norm", [y, inside(z), gain], dims, over="linear_v_dim", format="normed")
        return b.linear("delta_out", outside(y), DELTA_VALUES, "hidden")

    @staticmethod
    def products() -> tuple[Product, ...]:
        """The products of the chunked form (Yang 2024, arXiv:2406.06484, section 3, with decays): scores between keys
        and between queries and keys; the inverse of a triangular matrix of the size of a chunk; that by keys and by
        values; state by keys and by queries; scores by values; the chunk's contribution to the state."""
        head = f"{STEPS} head_share"
        keys, values = f"{head} chunk_context linear_k_dim", f"{head} chunk_context linear_v_dim"
        state = f"{head} linear_k_dim linear_v_dim"
        inverse = product(f"{head} chunk chunk_context", 1, 3)  # half a product, and in backward one and a half
        return (
            product(keys), product(keys), inverse, product(keys), product(values),
            product(state), product(state), product(values), product(state),
        )  # fmt: skip
