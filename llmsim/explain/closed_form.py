"""The closed form of a step in the regime that a plan is in: the formulas of the simulation, run on symbols.

Between one formula and the next results are given names, so that what comes out is a ladder of short definitions: a
step is passes through stages, a pass is layers, a layer is classes of kernels and exposed transfers, a class is
kernels, and a kernel is degrees, sizes and rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from ..architecture import model_kinds
from ..core.numeric import Number, maximum, total
from ..core.symbolic import Switch, recorded_switches
from ..core.work import Work
from ..hardware.constants import WORK_CLASSES
from ..hardware.network import NO_TRAFFIC, WireTime
from ..timing.columns import Columns
from ..timing.kernel_times import KindRates, KindSeconds, PhaseSeconds
from ..timing.layer_time import KindTime, LayerTime, UnitTraffic, kind_time
from ..timing.model_rates import keyed, shape_factor
from ..timing.step_constants import StepConstants
from ..training.build_load import kind_parameters, model_seconds, offloading, recomputed_layers, step_load
from ..training.compose import StageLoad, StepLoad, StepTime, compose_step
from ..training.orders import paired_passes
from ..training.pipeline_time import Chunk, Passes, pipeline_chunks, saved_seconds
from ..training.problem import Problem
from ..training.saved_activations import model_memory
from ..training.sharding import LocalParameters
from ..training.split import pair_share, pass_seconds
from ..training.stages import Stage
from .critical_path import critical_path
from .quantities import busiest_stage
from .symbol_table import SymbolTable
from .symbols import (
    counted,
    kind_labels,
    letters,
    symbolic_architecture,
    symbolic_columns,
    symbolic_rates,
    symbolic_shape,
)

_PHASES = {"forward": ("fwd", "forward pass"), "backward": ("bwd", "backward pass"),
           "recompute": ("again", "recomputation"), "weight": ("dw", "gradients of weights")}  # fmt: skip
_WORKS = {"forward": ("fwd", "forward"), "input_gradient": ("dx", "gradient of the input"),
          "weight_gradient": ("dw", "gradient of the weight")}  # fmt: skip
SLOWEST = "slowest stage"
"""Where it is chosen which stage sets the pace."""
AXES = {"tp": "tensor-parallel", "cp": "context-parallel", "ep": "expert-parallel"}


@dataclass
class Form:
    """A step in symbols.

    Attributes
    ----------
    table
        All named quantities.
    quantities
        Name that a user asks for -> quantity.
    switches
        Where a choice was made -> the choices.
    columns, constants, problem
        In symbols.
    global_batch
        Sequences of a step.
    parameters, runs
        Of one layer of each kind; the stages.
    slowest
        Symbol of both passes of the slowest stage.
    """

    table: SymbolTable
    quantities: dict[str, Number]
    switches: list[tuple[str, Switch]]
    columns: Columns
    constants: StepConstants
    problem: Problem
    global_batch: int
    parameters: list[LocalParameters] = field(default_factory=list)
    runs: Sequence[Stage] = ()
    slowest: str = ""

    @contextmanager
    def choices(self, where: str) -> Iterator[None]:
        """Remember choices that are made inside the block."""
        with recorded_switches() as found:
            yield
        self.switches += [(where, switch) for switch in found]


def step_form(problem: Problem, columns: Columns, constants: StepConstants, global_batch: int) -> Form:
    """The closed form of a step.

    Parameters
    ----------
    problem, columns, constants
        Of a single plan, in numbers.
    global_batch
        Sequences of a step.
    """
    table = SymbolTable()
    symbolic = replace(problem, architecture=symbolic_architecture(table, problem.architecture))
    own = Form(
        table,
        {},
        [],
        symbolic_columns(table, columns),
        symbolic_rates(table, constants),
        symbolic,
        global_batch,
    )
    labels = kind_labels(problem.architecture)
    own.parameters = [_parameters(own, p, *labels[i]) for i, p in enumerate(kind_parameters(symbolic, own.columns))]
    own.runs = problem.stages(columns)
    slower = symbolic_shape(table, shape_factor(problem.architecture, columns, constants))
    seconds = _seconds(own, labels, slower)
    load = step_load(symbolic, own.columns, own.runs, own.parameters, seconds, own.constants)
    load = offloading(symbolic, load, model_memory(symbolic, own.columns), own.constants)
    load = replace(
        load,
        units=[_unit(own, unit, *labels[i]) for i, unit in enumerate(load.units)],
        stages=[_stage(own, stage, i) for i, stage in enumerate(load.stages)],
        hop=_wire(own, load.hop, "X_hop", "one hop to the next stage"),
    )
    times = [
        _kind_time(own, kind, unit, labels[i])
        for i, (kind, unit) in enumerate(zip(load.kinds, load.units, strict=True))
    ]
    time = _composed(own, load, times)
    pipeline = _pipeline(own, load, times, time)
    _step(own, load, time, pipeline)
    table.share()
    return own


def _parameters(own: Form, p: LocalParameters, label: str, words: str) -> LocalParameters:
    names = {"dense": "parameters", "expert": "parameters of experts", "dense_shard": "parameters kept of",
             "expert_shard": "parameters kept of experts"}  # fmt: skip
    symbols = {"dense": "P", "expert": "P_exp", "dense_shard": "S", "expert_shard": "S_exp"}
    named = {
        part: own.table.define(f"{symbols[part]}_{label}", getattr(p, part), f"{text}, {words}, one rank", "elements")
        for part, text in names.items()
    }
    return replace(p, **named)


def _seconds(own: Form, labels: dict[int, tuple[str, str]], slower: Number | None) -> list[KindSeconds]:
    """Isolated seconds of each layer kind by phase and class, from those of its kernels."""
    problem, plans = own.problem, keyed(own.columns)
    rates = []
    for i, kind in enumerate(model_kinds(problem.architecture)):
        with own.choices(f"kernels of {labels[i][1]}"):
            naming = _kernel_names(own, *labels[i])
            rates.append(KindRates(kind, problem.structure, plans, plans, own.constants, naming, slower))
    found = model_seconds(problem, rates)
    return [
        KindSeconds({name: _phase(own, phase, name, *labels[i]) for name, phase in kind.phases.items()}, kind.is_moe)
        for i, kind in enumerate(found)
    ]


def _kernel_names(own: Form, label: str, words: str) -> Callable[[str, Sequence[Work], Number], Number]:
    """Gives the seconds of each kernel a name."""

    def named(group: str, members: Sequence[Work], seconds: Number) -> Number:
        result = np.empty(len(members), dtype=object)
        for i, work in enumerate(members):
            short, phase = _WORKS[work.phase]
            text, tail = ", ".join(dict.fromkeys(work.operators)), ""
            if group == "memory" and work.kind == "attention":
                text, tail = f"{text}, merging the steps of a ring", "_merge"
            elif group in ("convert", "grouped"):
                tail = f"_{group}"
            name = f"k_{short}_{label}_{_plain(work.name)}{tail}"
            result[i] = own.table.define(name, seconds[i], f"{text}: {phase}, {words}")
        return result

    return named


def _plain(name: str) -> str:
    return name.replace("_", "").replace(".", "")


def _phase(own: Form, phase: PhaseSeconds, passes: str, label: str, words: str) -> PhaseSeconds:
    short, what = _PHASES[passes]
    classes: dict[str, Number] = {}
    for work, seconds in phase.classes.items():
        name = f"t_{short}_{label}_{work.replace('_', '')}"
        classes[work] = own.table.define(name, seconds, f"{WORK_CLASSES[work]} alone: {what}, {words}")
    wires = {
        axis: _wire(own, wire, f"X_{short}_{label}_{axis}", f"{AXES[axis]} transfers alone: {what}, {words}")
        for axis, wire in phase.wires.items()
    }
    return PhaseSeconds(classes, phase.launches, wires)


def _wire(own: Form, wire: WireTime, name: str, meaning: str) -> WireTime:
    if wire is NO_TRAFFIC:
        return wire
    define = own.table.define
    return WireTime(
        define(f"{name}_lat", wire.latency_s, f"{meaning}: latencies"),
        define(f"{name}_up", wire.inner_s, f"{meaning}: bytes over scale-up bandwidth"),
        define(f"{name}_out", wire.outer_s, f"{meaning}: bytes over scale-out bandwidth"),
    )


def _unit(own: Form, unit: UnitTraffic, label: str, words: str) -> UnitTraffic:
    return UnitTraffic(
        _wire(own, unit.forward, f"X_fwd_{label}_fsdp", f"sharded parameters: forward pass, {words}"),
        _wire(own, unit.backward, f"X_bwd_{label}_fsdp", f"sharded parameters and gradients: backward pass, {words}"),
    )


def _stage(own: Form, stage: StageLoad, index: int) -> StageLoad:
    run = own.runs[index]
    words, label = stage_words(run), str(run.first)
    define = own.table.define
    return replace(
        stage,
        gather=_wire(own, stage.gather, f"X_param_{label}", f"parameter gathering alone, {words}"),
        reduce=_wire(own, stage.reduce, f"X_grad_{label}", f"gradient exchange alone, {words}"),
        whole=_wire(own, stage.whole, f"X_whole_{label}", f"gathering of whole matrices, {words}"),
        update_s=define(f"t_update_{label}", stage.update_s, f"memory traffic of the update, {words}"),
        host_s=define(f"t_host_{label}", stage.host_s, f"update on the host, {words}"),
    )


def stage_words(run: Stage) -> str:
    """Stages of a run as text."""
    last = int(run.first) + int(run.repeats) - 1
    return f"stage {run.first}" if last == run.first else f"stages {run.first} to {last}"


def _kind_time(own: Form, kind: KindSeconds, unit: UnitTraffic, label: tuple[str, str]) -> KindTime:
    """The passes of one layer, their parts named and summed; exposed expert transfers stay apart where passes pair."""
    with own.choices(label[1]):
        time = kind_time(kind, unit, own.constants)

    def named(layer: LayerTime, phase: str) -> LayerTime:
        short, what = _PHASES[phase]
        parts = {
            name: own.table.define(f"T_{short}_{label[0]}_{name}", seconds, f"{PARTS[name]}: {what}, {label[1]}")
            for name, seconds in layer.parts.items()
        }
        apart = {"ep": parts.pop("ep")} if own.problem.facts.paired and "ep" in parts else {}
        meaning = f"{what}, one {label[1]}" if not label[1].startswith("the ") else f"{what}, {label[1]}"
        return LayerTime({"layer": own.table.define(f"T_{short}_{label[0]}", total(parts.values()), meaning), **apart})

    passes = named(time.forward, "forward"), named(time.backward, "backward"), named(time.recompute, "recompute")
    return KindTime(*passes, own.table.define(f"T_dw_{label[0]}", time.weight_s, f"gradients of weights, {label[1]}"))


PARTS = {
    "gemm": "matrix products", "grouped": "grouped products", "attention": "attention", "scan": "scans",
    "memory": "elementwise kernels", "permute": "routing and permutation", "convert": "conversion",
    "tp": "tensor-parallel transfers, exposed", "cp": "context-parallel transfers, exposed",
    "ep": "expert all-to-all, exposed", "fsdp": "sharded parameters, exposed", "host": "waiting for the host",
}  # fmt: skip


def _composed(own: Form, load: StepLoad, times: Sequence[KindTime]) -> StepTime:
    """What a step has beside its pipeline, stage by stage; the bound of the pipeline that comes with it is not used."""
    with own.choices("once a step"):
        time = compose_step(replace(load, pp=int(load.pp), chunks=int(load.chunks)), own.constants, times)
    define = own.table.define
    stages = []
    for run, stage in zip(own.runs, time.stages, strict=True):
        label, words = str(run.first), stage_words(run)
        named = replace(
            stage,
            gradients=define(f"T_grad_{label}", stage.gradients, f"gradient exchange, exposed, {words}"),
            parameters=define(f"T_param_{label}", stage.parameters, f"parameter gathering, exposed, {words}"),
            optimizer=define(f"T_opt_{label}", stage.optimizer, f"update, {words}"),
            saved_s=define(f"T_saved_{label}", stage.saved_s, f"what a pair of passes saves, {words}"),
        )
        stages.append(named)
    return replace(time, stages=stages, hop_s=define("T_hop", time.hop_s, "one hop to the next stage, exposed"))


def _pipeline(own: Form, load: StepLoad, times: Sequence[KindTime], time: StepTime) -> Number:
    """Seconds of the critical path: its passes and hops, as often as they are on it."""
    problem = own.problem
    rows = pipeline_chunks(problem, int(load.pp), int(load.chunks))
    distinct = list(dict.fromkeys(chunk for row in rows for chunk in row))
    passes = {
        chunk: _passes(own, load, times, chunk, letter)
        for chunk, letter in zip(distinct, letters(len(distinct)), strict=True)
    }
    saved = saved_seconds(problem, own.runs, time)
    path = critical_path(
        problem.schedule, [[passes[chunk] for chunk in row] for row in rows], saved, time.hop_s, int(load.micro_batches)
    )
    together: dict[tuple[Fraction, Fraction], Number] = {}
    for on in path:
        key = on.slope, on.count - on.slope * int(load.micro_batches)
        together[key] = together.get(key, 0) + on.time
    seconds = total((_whole(slope) * load.micro_batches + _whole(rest)) * t for (slope, rest), t in together.items())
    return own.table.define("T_pipeline", seconds, "passes and hops on the critical path of the pipeline")


def _whole(count: Fraction) -> Number:
    return int(count) if count.denominator == 1 else float(count)


def _passes(
    own: Form,
    load: StepLoad,
    times: Sequence[KindTime],
    chunk: Chunk,
    letter: str,
) -> Passes:
    counts, share = chunk
    labels = kind_labels(own.problem.architecture)
    again = recomputed_layers(own.problem, counts, share)
    with own.choices(f"chunk {letter}"):
        forward, inputs, weights = pass_seconds(counts, again, times, load.kept)
    place = counted({labels[i][1]: n for i, n in enumerate(counts)})
    if share:
        place += f", of which {share:.0%} recompute"
    forward = own.table.define(f"F_{letter}", forward, f"forward pass of {place}")
    if not own.problem.facts.split:
        return forward, own.table.define(f"B_{letter}", inputs + weights, f"backward pass of {place}"), 0.0
    inputs = own.table.define(f"I_{letter}", inputs, f"gradients of inputs of {place}")
    return forward, inputs, own.table.define(f"W_{letter}", weights, f"gradients of weights of {place}")


def _stage_passes(own: Form, time: StepTime) -> list[Number]:
    """Seconds of both passes of one micro-batch on each run of stages."""
    return [
        own.table.define(
            f"T_stage_{run.first}", s.forward_s + s.backward_s, f"both passes of one micro-batch, {stage_words(run)}"
        )
        for run, s in zip(own.runs, time.stages, strict=True)
    ]


def _step(own: Form, load: StepLoad, time: StepTime, pipeline: Number) -> None:
    """The step, and what else can be asked for."""
    define, m = own.table.define, load.micro_batches
    with own.choices("slowest exchange and update"):
        once = maximum(*(s.once_s for s in time.stages))
    last = max(time.stages, key=lambda s: float(s.once_s))
    once = define("T_once", once, "exposed exchange of gradients and parameters, and update")
    fixed = define("T_fixed", time.fixed_s, "fixed host time of a step and of its micro-batches")
    with own.choices(SLOWEST):
        stage = maximum(*_stage_passes(own, time))
    index = busiest_stage(time)
    own.slowest = f"T_stage_{own.runs[index].first}"
    busy, rank = time.stages[index], int(own.runs[index].first)
    pairs = paired_passes(load.schedule, rank, int(load.pp), int(m)) * pair_share(load.schedule)
    forward = define("T_forward", busy.forward_s, "forward pass of one micro-batch, slowest stage")
    backward = define("T_backward", busy.backward_s, "backward pass of one micro-batch, slowest stage")
    idle = pipeline - m * stage + pairs * busy.saved_s if int(load.pp) > 1 else 0.0
    bubble = define("T_bubble", idle, "pipeline bubble and hops")
    step = define("T_step", pipeline + once + fixed, "one step")
    devices = define("N", own.columns.devices, "devices", "")
    tokens = own.table.base("G", own.global_batch, "sequences of a step") * own.columns.sequence
    own.quantities |= {
        "step": step,
        "pipeline": pipeline,
        "bubble": bubble,
        "forward": forward,
        "backward": backward,
        "gradients": last.gradients,
        "parameters": last.parameters,
        "optimizer": last.optimizer,
        "fixed": fixed,
        "hop": time.hop_s,
        "tokens_per_s": define("tokens_per_s", tokens / (step * devices), "throughput of a device", "tokens/s"),
    }
