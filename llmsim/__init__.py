"""llmsim: cost-model simulator and planner for training, serving and compressing Transformers.

>>> import llmsim
>>> answer = llmsim.plan_training("llama-3-8b", "1x8xh100-sxm-80gb", sequence=8192, global_batch=128, tokens=1e12)
>>> answer.best[0].result.step_time_s  # doctest: +SKIP

Names are loaded when they are first used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from ._version import __version__

if TYPE_CHECKING:
    from .architecture import Architecture
    from .calibration.own_files import calibrate_with
    from .core.errors import InfeasibleError, InputError, LlmsimError, UnsupportedError
    from .explain.explain import TrainingExplanation, explain_training
    from .explain.serving import explain_serving
    from .hardware.cluster import Cluster
    from .measure.trace import trace
    from .plans.job import TrainingJob
    from .plans.serving import ServingPlan
    from .plans.training import TrainingPlan
    from .quality.compress import plan_compression
    from .quality.estimate import QualityEstimate, estimate_quality
    from .quality.model_plan import plan_model
    from .scoring.validate import validate
    from .search.answer import TrainingPlanning
    from .search.clusters import ClusterChoice, plan_cluster
    from .search.options import SearchOptions
    from .search.plan import plan_training
    from .search.space import SearchSpace
    from .serving.compare import Comparison, compare
    from .serving.replay import WorkloadResult, simulate_workload
    from .serving.result import ServingResult
    from .serving.simulate import simulate_serving
    from .serving.workload import Workload
    from .training.result import TrainingResult
    from .training.simulate import simulate_training
    from .training.traced import TracedModule, simulate_traced

_HOMES = {
    "Architecture": "architecture",
    "Cluster": "hardware.cluster",
    "ClusterChoice": "search.clusters",
    "Comparison": "serving.compare",
    "InfeasibleError": "core.errors",
    "InputError": "core.errors",
    "LlmsimError": "core.errors",
    "QualityEstimate": "quality.estimate",
    "SearchOptions": "search.options",
    "SearchSpace": "search.space",
    "ServingPlan": "plans.serving",
    "ServingResult": "serving.result",
    "TracedModule": "training.traced",
    "TrainingExplanation": "explain.explain",
    "TrainingJob": "plans.job",
    "TrainingPlan": "plans.training",
    "TrainingPlanning": "search.answer",
    "TrainingResult": "training.result",
    "UnsupportedError": "core.errors",
    "Workload": "serving.workload",
    "WorkloadResult": "serving.replay",
    "calibrate_with": "calibration.own_files",
    "compare": "serving.compare",
    "estimate_quality": "quality.estimate",
    "explain_serving": "explain.serving",
    "explain_training": "explain.explain",
    "plan_cluster": "search.clusters",
    "plan_compression": "quality.compress",
    "plan_model": "quality.model_plan",
    "plan_training": "search.plan",
    "simulate_serving": "serving.simulate",
    "simulate_traced": "training.traced",
    "simulate_training": "training.simulate",
    "simulate_workload": "serving.replay",
    "trace": "measure.trace",
    "validate": "scoring.validate",
}

__all__ = [
    "Architecture",
    "Cluster",
    "ClusterChoice",
    "Comparison",
    "InfeasibleError",
    "InputError",
    "LlmsimError",
    "QualityEstimate",
    "SearchOptions",
    "SearchSpace",
    "ServingPlan",
    "ServingResult",
    "TracedModule",
    "TrainingExplanation",
    "TrainingJob",
    "TrainingPlan",
    "TrainingPlanning",
    "TrainingResult",
    "UnsupportedError",
    "Workload",
    "WorkloadResult",
    "__version__",
    "calibrate_with",
    "compare",
    "estimate_quality",
    "explain_serving",
    "explain_training",
    "plan_cluster",
    "plan_compression",
    "plan_model",
    "plan_training",
    "simulate_serving",
    "simulate_traced",
    "simulate_training",
    "simulate_workload",
    "trace",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return _needs_torch(name)
    globals()[name] = value
    return value


def _needs_torch(name: str) -> Callable[..., NoReturn]:
    """What stands in for a function where torch is not installed, so that all names can be imported."""

    def absent(*_: object, **__: object) -> NoReturn:
        from .core.errors import InputError

        raise InputError(name, "", "pip install 'llmsim[torch]'", why="needs torch, which is not installed")

    return absent


def __dir__() -> list[str]:
    return sorted(__all__)
