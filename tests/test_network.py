"""Collectives: nothing alone, more with more ranks and bytes, tiers by group and stride."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsim.core.errors import InputError
from llmsim.hardware.cluster import Cluster
from llmsim.hardware.named import get_fabric
from llmsim.hardware.network import collective_seconds, collective_time, fabric_names, members_within

COLLECTIVES = ["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send_recv"]
TIERS = Cluster.parse("64x8xh100-sxm-80gb").tiers()
payloads = st.floats(1, 1e10)


@pytest.mark.parametrize("collective", COLLECTIVES)
@given(payloads, st.sampled_from([1, 8, 64]))
def test_a_group_of_one_sends_nothing(collective, payload, stride):
    assert collective_seconds(collective, payload, 1, stride, TIERS) == 0


@pytest.mark.parametrize("collective", COLLECTIVES)
@given(payloads, st.integers(2, 256), st.sampled_from([1, 2, 8]), st.floats(1, 4))
def test_more_bytes_take_longer(collective, payload, ranks, stride, factor):
    base = collective_seconds(collective, payload, ranks, stride, TIERS)
    assert collective_seconds(collective, payload * factor, ranks, stride, TIERS) >= base > 0


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce"])
@given(payloads, st.integers(0, 8))
def test_more_ranks_take_longer(collective, payload, power):
    ranks = 2**power
    assert collective_seconds(collective, payload, 2 * ranks, 1, TIERS) >= collective_seconds(
        collective, payload, ranks, 1, TIERS
    )


@given(payloads, st.sampled_from([2, 4, 8]))
def test_ring_all_reduce_is_a_reduce_scatter_and_an_all_gather(payload, ranks):
    tiers = Cluster.parse("1x8xa100-sxm-80gb").tiers()  # a switch that does not add
    reduced = collective_time("all_reduce", payload, ranks, 1, tiers).inner_s
    parts = sum(collective_time(c, payload, ranks, 1, tiers).inner_s for c in ("reduce_scatter", "all_gather"))
    # Twice the wire in one go is a little less than twice the square-root term.
    assert parts / 2**0.5 * 0.999 <= reduced <= parts * 1.001


@given(payloads)
def test_a_switch_that_adds_is_never_slower_than_the_ring(payload):
    with_adding = Cluster.parse("1x8xh200-sxm-141gb").tiers()
    inner = with_adding[0]
    ring = (
        type(inner)(inner.name, inner.domain, inner.bandwidth, inner.efficiency, inner.latency_s, inner.half_bytes),
    )
    assert collective_seconds("all_reduce", payload, 8, 1, with_adding) <= collective_seconds(
        "all_reduce", payload, 8, 1, (*ring, with_adding[1])
    )


def test_tiers_follow_from_size_and_stride():
    assert members_within(16, 1, 8) == 8
    assert members_within(16, 8, 8) == 1
    assert members_within(4, 2, 8) == 4
    assert members_within(64, 4, 0) == 64
    inside = collective_time("all_gather", 1e9, 8, 1, TIERS)
    across = collective_time("all_gather", 1e9, 8, 8, TIERS)
    assert inside.outer_s == 0 < inside.inner_s
    assert across.inner_s == 0 < across.outer_s


def test_a_rack_is_one_domain():
    rack = Cluster.parse("18x4xgb200-186gb")
    assert rack.domain == 72
    assert collective_time("all_to_all", 1e9, 64, 1, rack.tiers()).outer_s == 0
    assert Cluster.parse("1x4xgb200-186gb").domain == 4


@given(payloads, st.sampled_from([16, 32, 64]), st.integers(2, 8))
def test_sending_a_token_once_to_a_domain_is_never_more_traffic(payload, ranks, copies):
    plain = collective_time("all_to_all", payload, ranks, 1, TIERS)
    once = collective_time("all_to_all", payload, ranks, 1, TIERS, copies=copies)
    assert once.outer_s <= plain.outer_s
    assert once.inner_s >= plain.inner_s  # what arrives is forwarded inside


@given(st.lists(st.tuples(payloads, st.sampled_from([1, 2, 8, 64, 512])), min_size=1, max_size=6))
def test_scalar_equals_array(rows):
    payload, ranks = (np.array(c) for c in zip(*rows, strict=True))
    for collective in COLLECTIVES:
        together = collective_seconds(collective, payload, ranks, 2, TIERS)
        each = [collective_seconds(collective, p, n, 2, TIERS) for p, n in rows]
        assert together == pytest.approx(each, rel=1e-12)


@pytest.mark.parametrize("name", fabric_names())
def test_fabric_profiles(name):
    fabric = get_fabric(name)
    assert fabric.bandwidth.value > 0
    assert 0 < fabric.efficiency.value <= 1


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("0x8xh100-sxm-80gb", "nodes"),
        ("4x0xh100-sxm-80gb", "devices per node"),
        ("64x8xh100-sxm-90gb", "device"),
        ("many gpus", "cluster"),
        ("-3x8xh100", "cluster"),
        ("99999999999x8xh100", "nodes"),
    ],
)
def test_broken_clusters_are_named(text, field):
    with pytest.raises(InputError) as error:
        Cluster.parse(text)
    assert field in str(error.value)
    assert "allowed" in str(error.value)


def test_cluster_files(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("device: h100\nnodes: 4\ndevices_per_node: 8\nnetwork: infiniband-hdr-200\n")
    cluster = Cluster.parse(path)
    assert (cluster.device, cluster.n_devices, cluster.fabric.name) == ("h100-sxm-80gb", 32, "infiniband-hdr-200")
    path.write_text("device: h100\nnode: 4\ndevices_per_node: 8\n")
    with pytest.raises(InputError, match="unknown key"):
        Cluster.parse(path)
    path.write_text("device: [h100\n")
    with pytest.raises(InputError, match="line"):
        Cluster.parse(path)
