"""Tables of the figures of :mod:`sparsercnn.benchmark.detector`."""

from ..analysis import markdown_table
from . import common

__all__ = ["format_report"]

_STAGE_PARTS = ("pooling", "attention", "interaction", "rest of stage")
_ORDER = ("preprocessing", "backbone", "neck", "proposals", *_STAGE_PARTS, "encoder", "decoder")
_ORDER += (
    "masks",
    "roi heads",
    "sem seg head",
    "post-processing",
    "criterion",
    "matcher",
    "backward",
)
_ORDER += ("gradient norm", "optimizer", "other")


def format_report(report):
    """
    Args:
        report (dict): from :func:`~sparsercnn.benchmark.detector.measure`.

    Returns:
        str: for inference and for training, a table of the models, and one of the parts of each
        config with its variants and of each peer.
    """
    settings = report["settings"]
    height, width = settings["size"]
    blocks = [
        f"Batch of {settings['images']} at {height}x{width}, {settings['dtype']}, "
        f"{settings['place']}; shortest of {settings['rounds']} rounds, models in turn.",
        *report["notes"],
    ]
    for mode in ("inference", "training"):
        results = [x for x in report["results"] if x["mode"] == mode]
        if results:
            blocks += [f"### {mode.capitalize()}", _compare(results)]
            for group in _by_config(results):
                loading = report["loading"].get(group[0]["config"])
                blocks += [f"#### {group[0]['model']}: parts of {mode}", _parts(group, loading)]
                if group[0]["stages"]:
                    blocks.append(_stages(group))
    return "\n\n".join([*blocks, _LEGEND])


def _compare(results):
    """A row for each model, with the ratios to the first."""
    first = results[0]
    with_variants = any(x["variant"] for x in results)
    header = ["model", "ms", "ratio", *(["of config"] if with_variants else [])]
    header += ["peak MiB", "ratio", "operators", "ratio", "launches", "waits"]
    rows = []
    for group in _by_config(results):
        for result in group:
            least = min(result["seconds"])
            row = [result["model"]]
            row += common.with_ratio(least, min(first["seconds"]), ",.1f", 1e-3)
            if with_variants:
                is_peer = not result["config"]
                row.append("-" if is_peer else f"{least / min(group[0]['seconds']):.2f}")
            row += common.with_ratio(result["peak"], first["peak"], ",.0f", 2**20)
            row += common.with_ratio(result["operators"], first["operators"], ",.0f")
            row += ["-" if n is None else f"{n:,}" for n in (result["launches"], result["waits"])]
            rows.append(row)
    return markdown_table(header, rows)


def _parts(group, loading):
    """A row for each part; for each model, milliseconds and per cent of the whole."""
    header = ["part"]
    for result in group:
        header += [f"{result['variant']} ms".strip(), "%"]
    rows = []
    for part in _ORDER:
        if any(part in result["parts"] for result in group):
            row = [part]
            for result in group:
                whole = sum(result["parts"].values())
                seconds = result["parts"].get(part)
                row += _cells(seconds, whole)
            rows.append(row)
    wholes = [sum(result["parts"].values()) for result in group]
    rows.append(["whole", *(cell for whole in wholes for cell in _cells(whole, whole))])
    if loading is not None:
        rows.append(["loading, per image", *([f"{1e3 * loading:,.1f}", "-"] * len(group))])
    return markdown_table(header, rows)


def _cells(seconds, whole):
    if seconds is None:
        return ["-", "-"]
    return [f"{1e3 * seconds:,.1f}", f"{100 * seconds / whole:.1f}"]


def _stages(group):
    """A row for each stage and model, milliseconds of its parts."""
    rows = []
    for index in range(max(len(result["stages"]) for result in group)):
        for result in group:
            if index < len(result["stages"]):
                stage = result["stages"][index]
                cells = [f"{1e3 * stage[x]:,.1f}" if x in stage else "-" for x in _STAGE_PARTS]
                cells.append(f"{1e3 * sum(stage.values()):,.1f}")
                variant = [result["variant"]] if len(group) > 1 else []
                rows.append([index + 1, *variant, *cells])
    header = ["stage", *(["variant"] if len(group) > 1 else [])]
    header += [f"{part} ms" for part in _STAGE_PARTS] + ["all ms"]
    return markdown_table(header, rows, text_columns=2 if len(group) > 1 else 1)


def _by_config(results):
    """Lists of the results of a config and its variants, or of one peer."""
    groups = {}
    for result in results:
        groups.setdefault(result["config"] or result["model"], []).append(result)
    return list(groups.values())


_LEGEND = """\
Weights are random, which times hardly depend on, except those of NMS and masks: the score threshold
of RoI heads is 0, so that there are as many detections as the config allows; that of the peer is
its default, and it detects nothing. The learning rate is 0. Ratios are to the first row; **of
config**, to the config without the variant.

- **ms**: elapsed time on a GPU, processor time of all threads on the CPU. Parts are timed in passes
  of their own, the fastest of which is shown: their sum is near the time of the whole, not equal to
  it. A part is without the parts inside of it: the criterion without its matcher, and the rest of a
  stage is the feed-forward network, class logits and boxes. "preprocessing" is what a model does
  before its backbone: normalising, padding, and resizing in a peer. "other" is outside of all parts
  and what a compiler has put together.
- **loading**: processor time of reading a JPEG of 480 pixels (the shorter side) and resizing it.
- **peak**: weights and buffers, in training the optimizer's state, and what the pass allocates at
  its peak, without the buffers of libraries and of CUDA graphs. Of an exported model, the file and
  what PyTorch allocates around it: what the runtime allocates is not known.
- **operators**: dispatched by the pass, in training including the backward pass and the optimizer,
  without views; kernels that a compiler has generated or a runtime has are not among them.
- **launches**: kernels and CUDA graphs launched on a GPU.
- **waits**: how often the host waits for the GPU, as `torch.cuda.set_sync_debug_mode` reports."""
