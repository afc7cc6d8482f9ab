"""Wordings of others in run tables: taken for the nearest setting and listed, never skipped for their spelling."""

from __future__ import annotations

import pytest

from llmsim.calibration.normalise_columns import (
    PACKED_DOCUMENT,
    date_of,
    dispatcher_of,
    document_length_of,
    fine_tuning_of,
    framework_of,
    packed_of,
    recompute_of,
    schedule_of,
    setting_of,
)
from llmsim.hardware.named import get_device
from llmsim.plans.recompute import parse_recompute


@pytest.mark.parametrize(
    ("said", "profile"),
    [
        ("Nanotron", "nanotron"),
        ("NeMo 2.0", "nemo"),
        ("Primus (Megatron)", "megatron-core"),
        ("zero-bubble", "megatron-lm"),
        ("PyTorch FSDP", "torchtitan"),
        ("AXLearn", "maxtext"),
        ("something new", "megatron-core"),
    ],
)
def test_frameworks_without_a_profile_are_taken_for_the_likest(said, profile):
    assumed: dict[str, str] = {}
    assert framework_of(said, get_device("h100-sxm-80gb"), "zero1", assumed) == profile
    assert bool(assumed) == (said != "Nanotron")


def test_unknown_frameworks_follow_sharding_and_device():
    h100, tpu = get_device("h100-sxm-80gb"), get_device("tpu-v5p")
    assert framework_of("something new", h100, "zero3", {}) == "torchtitan"
    assert framework_of("something new", tpu, "zero3", {}) == "maxtext"


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ("none", "none"),
        ("no recompute", "none"),
        ("selective (attention core)", "selective:core_attn"),
        ("block", "full"),
        ("full (12 of 32 layers)", "full@3/8"),
        ("save_dot_except_mlp", "selective:matmuls"),
        ("words without any sense", "none"),
    ],
)
def test_recomputation_in_other_words(said, setting):
    assumed: dict[str, str] = {}
    assert str(parse_recompute(recompute_of(said, "none", assumed))) == setting
    assert bool(assumed) == (said != "none")


@pytest.mark.parametrize(
    ("column", "said", "setting"),
    [
        ("optimizer", "distributed adam", "adamw"),
        ("optimizer", "AdamW 8-bit", "adam-8bit"),
        ("precision", "bf16-mixed", "bf16"),
        ("precision", "FP8 (rowwise)", "fp8-rowwise"),
        ("sharding", "FSDP2", "zero3"),
        ("sharding", "distributed optimizer", "zero1"),
    ],
)
def test_settings_in_other_words(column, said, setting):
    assumed: dict[str, str] = {}
    assert setting_of(column, said, (), assumed) == setting
    assert said in assumed[column]
    assert setting_of(column, setting, (setting,), {}) == setting


def test_words_that_mean_nothing_are_left_for_the_plan_to_refuse():
    assert setting_of("precision", "posit", (), {}) == "posit"


@pytest.mark.parametrize(
    ("said", "chunks", "schedule"),
    [
        ("zb/1.5b ZB-H1", 1, "zb-h1"),
        ("zero-bubble", 2, "zb-v"),
        ("DualPipe", 1, "dualpipe"),
        ("interleaved 1f1b", 4, None),
    ],
)
def test_schedules_by_name(said, chunks, schedule):
    assert schedule_of(said, chunks, {}) == schedule


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ("rank-0 peak; HybridEP; TE CUDA graphs", "hybridep"),
        ("dispatcher deepep, forced balance", "deepep"),
        ("forced-balanced routing, token-dropless", "profile"),
        ("", "profile"),
    ],
)
def test_a_dispatcher_is_read_from_notes(notes, expected):
    assert dispatcher_of(notes) == expected


@pytest.mark.parametrize(
    ("notes", "sequence", "expected"),
    [
        ("full fine-tuning, packed sequences; SFT", 4096, PACKED_DOCUMENT),
        ("SFT finetuning, packed SQuAD", 4096, PACKED_DOCUMENT),
        ("packed sequences", PACKED_DOCUMENT, None),
        ("pack_sample_into_one=TRUE", 2048, None),
        ("", 4096, None),
    ],
)
def test_packed_documents_are_read_from_notes_and_listed(notes, sequence, expected):
    assumed: dict[str, str] = {}
    assert document_length_of(packed_of(notes), sequence, assumed) == expected
    assert ("document_length" in assumed) == (expected is not None)


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ("full fine-tuning, packed sequences", True),
        ("SFT (not pretraining)", True),
        ("arch from configs/7B_sft.py", False),
        ("", False),
    ],
)
def test_fine_tuning_is_read_from_notes(notes, expected):
    assert fine_tuning_of(notes) == expected


def test_a_paper_dates_its_software():
    assert date_of("Korthikanti et al., arXiv:2205.05198, table 5") == "2022-05"
    assert date_of("a repository") == ""
