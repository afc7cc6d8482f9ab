"""Kernel rows: what their little language says, and what it refuses."""

from __future__ import annotations

import pytest
from core_cases import CLASSES, FORMATS, LAYERS, kernels, values

from llmsim.core.errors import InputError
from llmsim.core.inventory import Keep, parse_keep, parse_row
from llmsim.core.saved import derive_saved
from llmsim.core.sharding import mesh_sharding
from llmsim.core.terms import Sizes, Term
from llmsim.hardware.software import kernel_rows


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("read0", Keep("read0")),
        ("write as bool", Keep("write", "bool")),
        ("new read1", Keep("read1", always_new=True)),
        ("2 rows as fp32", Keep("rows", "fp32", copies=2)),
        ("scalar as fp32", Keep("scalar", "fp32")),
        ("batch heads sequence as fp32", Keep("batch heads sequence", "fp32")),
        ("read1 as activation per step", Keep("read1", "activation", per_step=True)),
        (
            "new read1[kv_heads=heads, a=b] as fp32",
            Keep("read1", "fp32", always_new=True, renamed=(("kv_heads", "heads"), ("a", "b"))),
        ),
    ],
)
def test_items(text: str, keep: Keep) -> None:
    assert parse_keep(text) == keep


@pytest.mark.parametrize("text", ["rows", "batch sequence", "", "read0 AS fp32", "batch batch as fp32", "0 read0"])
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises((InputError, ValueError)):
        parse_keep(text)


def test_unknown_keys_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="forward_passes"):
        parse_row({"keeps": [], "forward_pases": 2})


def test_all_rows_evaluate() -> None:
    """Every row of every kind that the shared layers use, at numbers."""
    sharding = mesh_sharding(sequence_parallel=True)
    for kind, rows in kernel_rows().items():
        for name in rows:
            inventory = kernels(**{kind: name})
            for operators in LAYERS.values():
                savings = derive_saved(operators, sharding, inventory, formats=CLASSES)
                assert values({"tp": 4, "ep": 2}).size(x for s in savings.kept for x in s.terms) > 0


def test_a_row_keeps_distinct_things() -> None:
    """Two items of a row that say the same would silently count once; a number in front says two."""
    for kind, rows in kernel_rows().items():
        for name, row in rows.items():
            assert len({(k.source, k.format, k.always_new) for k in row.keeps}) == len(row.keeps), f"{kind}.{name}"


def test_names_of_formats_stand_for_themselves() -> None:
    sizes = Sizes({"x": 10}, {}, FORMATS)
    assert sizes.bytes(Term((("x", ()),), "int64")) == 80
    assert sizes.bytes(Term((("x", ()),), "activation")) == 20


def test_new_tensors_are_sharded_like_what_they_belong_to() -> None:
    """The ends of the experts live with the experts; the log-sum-exp with the heads."""
    sharding = mesh_sharding(sequence_parallel=True)
    savings = derive_saved(LAYERS["moe"], sharding, kernels(dispatch="eager"), formats=CLASSES)
    found = {s.storage: str(s.terms[0]) for s in savings.kept}
    assert found["dispatch:experts as int32"] == "experts/(ep) [int32]"
    assert found["attention:batch heads sequence as fp32"] == "batch/(dp)·heads/(tp)·sequence [fp32]"
