"""What a layer is made of: tensors with named dimensions and operators that read and write them.

The vocabulary of dimensions (one name, one role; a dimension that is sharded in two ways has two names):

=================  ==================================================================================================
name               role
=================  ==================================================================================================
batch              sequences of all data-parallel ranks together in one micro-step (micro-batch x dp)
sequence, context  positions that ask, positions that are attended to
hidden             width of the residual stream
heads, kv_heads    query heads, key/value heads (aligned: tensor parallelism takes both at once)
head_dim, v_dim    width of a query/key head, width of a value head where it differs
ffn, shared_ffn    inner width of a dense MLP, of the shared experts
vocab              rows of the embedding, columns of the head
experts            expert index of expert *weights*; ``router_experts`` is the same number in the router's logits
slots              rows after dispatch: one per (token, chosen expert), over all ranks; an *expected* size
moe_ffn            inner width of a routed expert
top_k              experts chosen per token
steps              positions as a recurrence walks through them: never sharded, so that a context axis that shards
                   ``sequence`` takes the heads instead (``scan_heads``), with an exchange on the way in and out
ssm_heads          groups of heads of a linear-time mixer that tensor parallelism spreads; ``scan_heads`` inside a scan
chunk_context      positions of a chunk that one of its positions may see; ``chunks`` chunks make a sequence
conv_kernel        taps of a short convolution; ``conv_span`` positions that it reads to write a sequence
index_context      positions that an indexer scores (``context`` are those it leaves)
memory, encoded    positions of the encoder that a decoder attends to, those of them whose keys a pass computes
cache_span         positions whose keys and values are there for the next pass
=================  ==================================================================================================

Other dimensions (``q_rank``, ``kv_rank``, ``rope_dim``, ...) belong to one layer file and are never sharded.

Operators carry tags, by which others find them whatever a layer calls them:

==========================================  =========================================================================
tag                                         who asks for it
==========================================  =========================================================================
attention, mlp, mixers                      adapters of a group of products; ``mlp`` recomputation, outside ``moe``
q, k, v, attention_out, gate, up, ...       adapters of one product; the ``projections`` policy of recomputation
core_attn, mlp_act, moe_act, mla_up_proj    recomputation of the module of that name
moe, shared_experts                         the same of a whole module, with the adapters of its products
latent, rope_key, rope_query, k_concat      the absorbed form of latent attention, beside its products
==========================================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

Role = Literal["activation", "weight", "index"]

HIGH = "_high"
"""Suffix of kernels that no low-precision recipe changes."""

EXPECTED_DIMS = frozenset({"slots"})
"""Dimensions whose size is an expectation over the routing, not a fact: terms that contain one inherit the mark."""


def names(dims: str | Iterable[str]) -> tuple[str, ...]:
    """Dimension names from a spaced string; a repeated name is an error, since equal names could not be told apart."""
    result = tuple(dims.split()) if isinstance(dims, str) else tuple(dims)
    if len(set(result)) != len(result):
        raise ValueError(f"a tensor cannot carry a dimension twice: {result}")
    return result


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor by name and dimension names.

    Attributes
    ----------
    name
        Unique within its layer.
    dims
        Dimension names in order.
    role
        ``activation`` (has a gradient), ``weight`` (a parameter) or ``index`` (integers at hand in any layout, or what
        is read where it is without a gradient: never communicated by the layout rules).
    format
        Storage class that the precision recipe turns into a format (``activation``, ``residual`` for the stream between
        layers, ``normed`` for outputs of norms, ``weight``, ``weight_high``), or the name of a format.
    state
        Kept per token during decoding (the key/value cache).
    leading
        Of a weight: how many of its dimensions make up dimension 0 of the stored parameter, which FSDP shards.
    frozen
        Of a weight: it is not trained, so that it has no gradient.
    """

    name: str
    dims: tuple[str, ...]
    role: Role = "activation"
    format: str = "activation"
    state: bool = False
    leading: tuple[str, ...] = ()
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """A tensor as one operator names its dimensions, by position: keys are written over ``sequence``, read over
    ``context``."""

    tensor: Tensor
    dims: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """A product inside a kernel that is no single contraction: a scan, a convolution, a selection.

    Attributes
    ----------
    dims
        Dimensions whose sizes multiply.
    forward, backward
        FLOPs for each element of that space; a product of two matrices has 2, and 2 for each of its gradients.
    """

    dims: tuple[str, ...]
    forward: int
    backward: int


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of a layer.

    Attributes
    ----------
    name
        Unique within its layer.
    kind
        What the passes know it by: ``contract``, ``attention``, ``norm``, ``activation``, ``gate``, ``rotary``,
        ``add``, ``dropout``, ``embedding``, ``loss``, ``route``, ``dispatch``, ``combine``, ``concat``, ``scale``,
        ``convolution``, ``ssm_scan``, ``delta_rule`` ...
        A pass that meets a kind it has no formula for refuses by name.
    reads, write
        ``reads[0]`` of a contraction is the activation, ``reads[1]`` the weight, ``reads[2]``, if any, the bias.
    over
        Dimensions reduced by a statistic: hidden in a norm, vocab in a loss, context in attention.
    products
        Of a scan, a convolution or a selection: what its kernel multiplies.
    states
        Dimensions of what such a kernel hands from chunk to chunk.
    tags
        What it is to adapters, to recomputation and to other forms of its layer.
    """

    name: str
    kind: str
    reads: tuple[Read, ...]
    write: Tensor
    over: tuple[str, ...] = ()
    products: tuple[Product, ...] = ()
    states: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()

    @property
    def space(self) -> tuple[str, ...]:
        """The iteration space: the union of the dimensions of what it reads and writes."""
        seen = dict.fromkeys(d for r in self.reads for d in r.dims)
        seen.update(dict.fromkeys(self.write.dims))
        return tuple(seen)

    @property
    def dims(self) -> tuple[str, ...]:
        """All dimensions that its cost depends on."""
        inner = (*(d for p in self.products for d in p.dims), *self.states)
        return tuple(dict.fromkeys((*self.space, *inner)))

    @property
    def addends(self) -> tuple[Read, ...]:
        """The reads that are added to a product: the bias."""
        return self.reads[2:] if self.kind == "contract" else ()

    @property
    def kernel(self) -> str:
        """The kind of kernel that runs it: products with a matrix that stays in high precision are one of their own."""
        high = self.kind == "contract" and self.reads[1].tensor.format == "weight_high"
        return f"{self.kind}{HIGH}" if high else self.kind

    @property
    def activations(self) -> tuple[Read, ...]:
        """The reads that carry a gradient of an activation."""
        return tuple(r for r in self.reads if r.tensor.role == "activation")

    @property
    def weights(self) -> tuple[Read, ...]:
        """The reads that are parameters."""
        return tuple(r for r in self.reads if r.tensor.role == "weight")

    @property
    def trained(self) -> tuple[Read, ...]:
        """The parameters that have a gradient."""
        return tuple(r for r in self.weights if not r.tensor.frozen)


def weight(
    name: str, inputs: str, outputs: str = "", *, leading: str | None = None, format: str | None = None
) -> Tensor:
    """A parameter of dimensions ``inputs`` then ``outputs``.

    By default dimension 0 of the stored tensor is ``outputs`` (torch stores a linear layer as (out, in)), or all of
    ``inputs`` where there are no outputs (a norm's gain, a bias); and a matrix has the storage class ``weight``, while
    what is not multiplied with, having no outputs, is ``weight_high``: low-precision recipes leave it alone.
    """
    lead = names(leading) if leading is not None else (names(outputs) or names(inputs))
    stored = format or ("weight" if outputs else "weight_high")
    return Tensor(name, names(f"{inputs} {outputs}"), "weight", stored, leading=lead)


def index(name: str, dims: str, format: str = "int64") -> Tensor:
    """An integer tensor (token ids, labels)."""
    return Tensor(name, names(dims), "index", format)


def activation(name: str, dims: str, format: str = "activation", *, state: bool = False) -> Tensor:
    """An activation."""
    return Tensor(name, names(dims), "activation", format, state)


def product(dims: str, forward: int = 2, backward: int | None = None) -> Product:
    """A product inside a kernel; backward has twice the FLOPs of forward unless it is said."""
    return Product(names(dims), forward, 2 * forward if backward is None else backward)


def renamed(tensor: Tensor, **change: str) -> Read:
    """A read that names some dimensions differently: ``renamed(k, sequence="context")``."""
    return Read(tensor, tuple(change.get(d, d) for d in tensor.dims))


def detached(tensor: Tensor) -> Read:
    """A read through which no gradient flows back."""
    return Read(replace(tensor, role="index"), tensor.dims)


class LayerBuilder:
    """Collects the operators of a layer in order; each method returns the tensor that the operator writes."""

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self._tags: frozenset[str] = frozenset()

    @contextmanager
    def tagged(self, tags: str) -> Iterator[None]:
        """What is appended inside has these tags beside its own."""
        before = self._tags
        self._tags = before | {*names(tags)}
        yield
        self._tags = before

    def op(
        self,
        name: str,
        kind: str,
        reads: Sequence[Tensor | Read],
        dims: str,
        *,
        over: str = "",
        format: str = "activation",
        state: bool = False,
        role: Role = "activation",
        products: Sequence[Product] = (),
        states: str = "",
        tags: str = "",
    ) -> Tensor:
        """Append an operator; ``dims`` are those of the tensor it writes, which takes the operator's name."""
        write = Tensor(name, names(dims), role, format, state)
        read = tuple(r if isinstance(r, Read) else Read(r, r.dims) for r in reads)
        own = self._tags | {*names(tags)}
        self.operators.append(Operator(name, kind, read, write, names(over), tuple(products), names(states), own))
        return write

    def linear(
        self,
        name: str,
        x: Tensor | Read,
        inputs: str,
        outputs: str,
        *,
        bias: bool = False,
        state: bool = False,
        tags: str = "",
    ) -> Tensor:
        """``y = x W (+ b)``: contracts ``inputs`` of x with a weight (inputs, outputs), keeps the other dimensions."""
        read = x if isinstance(x, Read) else Read(x, x.dims)
        gone = names(inputs)
        kept = [d for d in read.dims if d not in gone]
        reads: list[Tensor | Read] = [read, weight(f"{name}.weight", inputs, outputs)]
        if bias:
            reads.append(weight(f"{name}.bias", outputs))
        return self.op(name, "contract", reads, " ".join([*kept, outputs]), state=state, tags=tags)

    def norm(
        self,
        name: str,
        x: Tensor,
        over: str,
        *,
        kind: str = "norm",
        bias: bool = False,
        state: bool = False,
        tags: str = "",
    ) -> Tensor:
        """A root-mean-square norm (``norm``) or a layer norm (``layer_norm``) with a gain, over the named
        dimensions."""
        reads: list[Tensor | Read] = [x, weight(f"{name}.weight", over)]
        if bias:
            reads.append(weight(f"{name}.bias", over))
        return self.op(name, kind, reads, " ".join(x.dims), over=over, format="normed", state=state, tags=tags)

    def dropout(self, name: str, x: Tensor) -> Tensor:
        """Zeroes a random share of ``x``."""
        return self.op(name, "dropout", [x], " ".join(x.dims), format=x.format)
