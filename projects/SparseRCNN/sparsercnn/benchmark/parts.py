"""Times of the parts of one pass of a model: backbone, neck, proposals, stages, and so on."""

import contextlib
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import torch

__all__ = ["PartTimer"]

# The part of a module by its name; a group is the index of the stage. A part is without the parts
# inside of it. Prefixes are those of wrappers.
_MODULES = (
    ("backbone", r"(.+\.)?backbone\.(?:bottom_up|body)"),
    ("neck", r"(.+\.)?backbone"),  # what is left of it; without a module inside, the backbone
    ("proposals", r"(.+\.)?(?:proposals|proposal_generator|rpn)"),
    ("pooling", r"(.+\.)?head\.box_pooler"),
    ("attention", r"(.+\.)?head\.head_series\.(?P<stage>\d+)\.self_attn"),
    ("interaction", r"(.+\.)?head\.head_series\.(?P<stage>\d+)\.inst_interact"),
    ("rest of stage", r"(.+\.)?head\.head_series\.(?P<stage>\d+)"),
    ("masks", r"(.+\.)?mask_branch\.mask_head\.\d+"),
    ("criterion", r"(.+\.)?criterion"),
    ("matcher", r"(.+\.)?criterion\.matcher"),
    ("roi heads", r"(.+\.)?roi_heads"),
    ("sem seg head", r"(.+\.)?sem_seg_head"),
    ("encoder", r"detector\.model\.encoder"),  # of the peer DETR, whose ResNet has an encoder too
    ("decoder", r"detector\.model\.decoder"),
)


@dataclass
class _Span:
    """A part from its begin to its end, with the spans inside of it."""

    part: str
    stage: int | None
    begin: object  # marks, see PartTimer._mark
    end: object = None
    inside: list = field(default_factory=list)


class PartTimer:
    """Times the parts of one pass: processor time on the CPU; on CUDA, time between events of the
    current stream, for which the host does not wait before :meth:`seconds`.

    Use it for one pass: ``with timer.watch(model), timer.span("other"): ...``
    """

    def __init__(self, device):
        """
        Args:
            device (str): device of the model.
        """
        self.device = device
        self.whole = None
        self._open = []
        self._calls = Counter()

    @contextlib.contextmanager
    def watch(self, model):
        """Within the block, times the forward pass of `model` (nn.Module) and of its parts.

        Modules inside of a compiled one are left out: hooks would compile them anew, in pieces.
        """
        modules = dict(_eager_modules(model))
        handles = []
        for name, module in modules.items():
            part, stage = _part_of(name, modules)
            if part is not None:
                handles.append(module.register_forward_pre_hook(self._opener(part, stage)))
                handles.append(module.register_forward_hook(self._closer()))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def span(self, part):
        """Times the block as `part`, without the parts inside of it."""
        self.begin(part)
        try:
            yield
        finally:
            self.end()

    def begin(self, part, stage=None):
        """Opens a span, inside of the one that is open."""
        span = _Span(part, stage, self._mark())
        if self._open:
            self._open[-1].inside.append(span)
        else:
            self.whole = span
        self._open.append(span)

    def end(self):
        """Closes the span that was opened last."""
        self._open.pop().end = self._mark()

    def seconds(self, is_inference):
        """
        Args:
            is_inference (bool): name what follows the last part of a forward pass
                "post-processing"; False: it is "other".

        Returns:
            tuple: seconds of the whole; seconds by part (dict[str, float]), which sum to the whole;
            and those of the stages (list[dict[str, float]]) by part, which are among the former.
        """
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        parts, stages = Counter(), defaultdict(Counter)
        for span in _descend(self.whole):
            gaps = self._gaps(span)
            if span.part == "forward":
                if len(gaps) > 1:
                    parts["preprocessing"] += gaps.pop(0)
                    parts["post-processing" if is_inference else "other"] += gaps.pop()
                parts["other"] += sum(gaps)
                continue
            parts[span.part] += sum(gaps)
            if span.stage is not None:
                stages[span.stage][span.part] += sum(gaps)
        whole = self._between(self.whole.begin, self.whole.end)
        return whole, dict(parts), [dict(stages[i]) for i in sorted(stages)]

    def _opener(self, part, stage):
        def begin(module, args):
            if part == "forward":
                self.begin(part)
            elif self._in_forward():
                index = stage
                if part == "pooling":  # one module for all stages, called before each
                    index = self._calls[part]
                    self._calls[part] += 1
                self.begin(part, index)

        return begin

    def _closer(self):
        def end(module, args, output):
            if self._in_forward():
                self.end()

        return end

    def _in_forward(self):
        # Not while the backward pass recomputes activations.
        return any(span.part == "forward" for span in self._open)

    def _gaps(self, span):
        """Seconds before, between and after the spans inside of a span."""
        marks = [span.begin]
        for inner in span.inside:
            marks += [inner.begin, inner.end]
        marks.append(span.end)
        pairs = zip(marks[::2], marks[1::2], strict=True)
        return [self._between(begin, end) for begin, end in pairs]

    def _mark(self):
        if not self.device.startswith("cuda"):
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _between(self, begin, end):
        if self.device.startswith("cuda"):
            return begin.elapsed_time(end) / 1e3  # from milliseconds
        return end - begin


def _eager_modules(module, name=""):
    """Names and modules; without those whose code, with any hooks, is inside of a compiled one."""
    if module._compiled_call_impl is not None:
        return
    yield name, module
    if not isinstance(module, torch._dynamo.OptimizedModule):
        for child_name, child in module.named_children():
            yield from _eager_modules(child, f"{name}.{child_name}" if name else child_name)


def _part_of(name, modules):
    """Part and index of the stage of the module called `name`; None for what there is not."""
    if not name:
        return "forward", None
    for part, pattern in _MODULES:
        found = re.fullmatch(pattern, name)
        if found:
            if part == "neck" and not {f"{name}.bottom_up", f"{name}.body"} & modules.keys():
                part = "backbone"
            stage = found.groupdict().get("stage")
            return part, None if stage is None else int(stage)
    return None, None


def _descend(span):
    yield span
    for inner in span.inside:
        yield from _descend(inner)
