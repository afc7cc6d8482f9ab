"""A job and options as objects ask the same question as the keywords they stand for."""

import pytest

import llmsim
from llmsim.core.errors import InputError
from llmsim.plans.job import TrainingJob
from llmsim.search.options import SearchOptions

FIELDS = {"sequence": "4k", "global_batch": 64, "precision": "bf16", "tokens": "1T"}


@pytest.fixture(scope="module")
def by_keywords():
    return llmsim.plan_training("llama-3-8b", "8xh100-sxm", top=2, oom_risk=0.02, **FIELDS)


def test_objects_give_the_plans_of_keywords(by_keywords):
    job = TrainingJob("llama-3-8b", **FIELDS)
    by_objects = llmsim.plan_training(job, "8xh100-sxm", options=SearchOptions(top=2, oom_risk=0.02))
    assert [p.result for p in by_objects.best] == [p.result for p in by_keywords.best]


def test_a_keyword_stands_above_the_options(by_keywords):
    job = TrainingJob("llama-3-8b", **FIELDS)
    found = llmsim.plan_training(job, "8xh100-sxm", options=SearchOptions(top=5, oom_risk=0.02), top=2)
    assert len(found.best) == len(by_keywords.best)


def test_the_model_may_be_named(by_keywords):
    found = llmsim.plan_training(model="llama-3-8b", cluster="8xh100-sxm", top=2, oom_risk=0.02, **FIELDS)
    assert [p.result for p in found.best] == [p.result for p in by_keywords.best]


def test_a_field_beside_a_job_is_refused():
    with pytest.raises(InputError, match=r"sequence.*in the job"):
        llmsim.plan_training(TrainingJob("llama-3-8b", **FIELDS), "8xh100-sxm", sequence=2048)


@pytest.mark.parametrize("name", ["sequence", "global_batch"])
def test_a_missing_field_is_named(name):
    with pytest.raises(InputError, match=f"{name}.*missing"):
        llmsim.plan_training("llama-3-8b", "8xh100-sxm", **{k: v for k, v in FIELDS.items() if k != name})


@pytest.mark.parametrize(
    ("field", "value"),
    [("sequence", 0), ("global_batch", -1), ("epochs", float("nan")), ("tokens", "many"), ("optimizer", 3)],
)
def test_a_job_refuses_what_it_cannot_use(field, value):
    with pytest.raises(InputError, match=field):
        TrainingJob("llama-3-8b", **{**FIELDS, field: value})


CLUSTERS = ["1x8xh100-sxm-80gb", "2x8xh100-sxm-80gb"]


def answered(choice: llmsim.ClusterChoice) -> list[tuple[str, int, object]]:
    return [(o.cluster, o.global_batch, o.best and o.best.result) for o in choice.options]


def test_clusters_are_compared_for_a_job_and_options():
    space = {"tensor_parallel": [1, 2], "pipeline_parallel": [1]}
    by_keywords = llmsim.plan_cluster("llama-3-8b", CLUSTERS, space=space, oom_risk=0.02, **FIELDS)
    job, options = TrainingJob("llama-3-8b", **FIELDS), SearchOptions(oom_risk=0.02, top=3)
    by_objects = llmsim.plan_cluster(job, CLUSTERS, space=space, options=options)
    assert answered(by_objects) == answered(by_keywords)
    assert by_objects.tokens == by_keywords.tokens == 1e12
    several = llmsim.plan_cluster(
        "llama-3-8b", CLUSTERS[0], space=space, options=options, **{**FIELDS, "global_batch": "64,128"}
    )
    assert sorted(o.global_batch for o in several.options) == [64, 128]


def test_clusters_want_a_job_with_tokens():
    without = {k: v for k, v in FIELDS.items() if k != "tokens"}
    with pytest.raises(InputError, match=r"tokens.*missing"):
        llmsim.plan_cluster(TrainingJob("llama-3-8b", **without), CLUSTERS)
    with pytest.raises(InputError, match=r"tokens.*missing"):
        llmsim.plan_cluster("llama-3-8b", CLUSTERS, **without)


@pytest.mark.parametrize(("name", "value"), [("global_batch", [64, 128]), ("sequence", 2048)])
def test_clusters_refuse_a_field_beside_a_job(name, value):
    with pytest.raises(InputError, match=f"{name}.*in the job"):
        llmsim.plan_cluster(TrainingJob("llama-3-8b", **FIELDS), CLUSTERS, **{name: value})


def test_clusters_refuse_unknown_arguments_by_name():
    with pytest.raises(InputError, match="plan_cluster"):
        llmsim.plan_cluster("llama-3-8b", CLUSTERS, top=3, **FIELDS)
