"""The web page: inputs and controls on the left, what was found on the right."""

import contextlib
import html
import os
import shutil
import tempfile
from typing import NamedTuple

import gradio as gr
from PIL import Image

from ..data.shapes import draw_scene
from ..errors import UserError
from .uploads import Upload, short_stem
from .video import draw_video
from .view import Choice, choose, describe, draw, entries, table, to_csv, to_json

__all__ = ["build_page", "page_options"]

_NONE = "(none)"
_IMAGE_HINT = "Drop, paste or take an image, or click an example."
_VIDEO_HINT = "Choose a video and press Start."
_EXAMPLES = ((7, 0), (7, 1), (7, 2), (7, 3))  # seeds
_EXAMPLE_SIZE = 320
# Handlers get what the browser sends, since Gradio would decode an image, however large it is.
_RAW = {"preprocess": False, "api_visibility": "private"}
_CSS = """
.gradio-container > main { width: 100%; max-width: 1500px; margin: auto; }
.gallery-item, .gallery-item img { width: 68px !important; height: 68px !important; }
[id$="-table"] { --text-md: 12px; --input-text-size: 12px; --size-2: 5px; }
[id$="-table"] td, [id$="-table"] th { font-size: 12px; font-family: var(--font); }
.problem { border-left: 4px solid #b91c1c; background: #fef2f2; color: #7f1d1d;
  padding: 0.7em 1em; border-radius: 4px; overflow-wrap: anywhere; }
footer { display: none !important; }
"""


class _Panel(NamedTuple):
    """What shows the result of one model."""

    column: gr.Column
    title: gr.Markdown
    picture: gr.Image
    table: gr.Dataframe
    picture_file: gr.DownloadButton
    json_file: gr.DownloadButton
    csv_file: gr.DownloadButton


class _Controls(NamedTuple):
    first: gr.Dropdown
    second: gr.Dropdown
    threshold: gr.Slider
    stage: gr.Slider
    classes: gr.Dropdown


def page_options(limits):
    """Keyword arguments of :func:`gradio.mount_gradio_app` for the page.

    Args:
        limits (Limits): `video_bytes` is read.

    Returns:
        dict: without fonts, links and functions that need other machines.
    """
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {
        "theme": gr.themes.Default(primary_hue="blue", **fonts),
        "css": _CSS,
        "footer_links": [],
        "run_history": False,
        "allowed_paths": [],
        "max_file_size": limits.video_bytes,
        "show_error": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "pwa": False,
    }


def build_page(models, folder):
    """Build the page.

    Args:
        models (Models): these, whose limits apply.
        folder (str): for the examples and all that is drawn; that of GRADIO_TEMP_DIR.

    Returns:
        gradio.Blocks: to be mounted with :func:`page_options`.
    """
    limits, handlers = models.limits, _Handlers(models, folder)
    cache = (limits.file_seconds // 6 or 1, limits.file_seconds)
    with gr.Blocks(
        title="Detections", analytics_enabled=False, delete_cache=cache, fill_width=True
    ) as page:
        gr.Markdown("# Detections")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                with gr.Tabs():
                    with gr.Tab("Image") as image_tab:
                        image = gr.Image(
                            label="Image",
                            sources=["upload", "clipboard", "webcam"],
                            height=240,
                            buttons=[],
                            elem_id="image",
                        )
                        examples = [[x] for x in _draw_examples(folder)]
                        gr.Examples(examples, image, label="Examples", api_visibility="private")
                    with gr.Tab("Video") as video_tab:
                        video = gr.File(
                            label=f"Video: the first {limits.video_frames} frames are used",
                            file_types=[".mp4", ".mov", ".webm", ".mkv", ".avi"],
                            height=140,
                            elem_id="video",
                        )
                        with gr.Row():
                            start = gr.Button(
                                "Start", variant="primary", elem_id="start", min_width=100
                            )
                            stop = gr.Button("Stop", elem_id="stop", min_width=100)
                controls = _add_controls(models)
            with gr.Column(scale=3, min_width=320):
                with gr.Column() as image_results:
                    message = gr.Markdown(_IMAGE_HINT, elem_id="message")
                    with gr.Row():
                        panels = [_add_panel("first"), _add_panel("second")]
                with gr.Column(visible=False) as video_results:
                    video_outputs = _add_video_results()
        _connect_image(handlers, image, controls, message, panels)
        inputs = [video, controls.first, controls.threshold, controls.stage, controls.classes]
        running = start.click(
            handlers.show_video,
            inputs,
            video_outputs,
            concurrency_id="video",
            show_progress="hidden",
            **_RAW,
        )
        stop.click(None, cancels=running, api_visibility="private")
        tabs = [image_results, video_results, controls.second]
        # One after the other: when the page is loaded, the first tab is selected, too.
        options = {"concurrency_id": "tabs", "show_progress": "hidden", "api_visibility": "private"}
        image_tab.select(lambda: _switch(False), None, tabs, **options)
        video_tab.select(lambda: _switch(True), None, tabs, **options)
    page.queue(max_size=limits.waiting, default_concurrency_limit=1, api_open=False)
    return page


def _add_controls(models):
    first = models.names[0]
    with gr.Group():
        with gr.Row():
            model = gr.Dropdown(
                models.names, value=first, label="Model", elem_id="model", min_width=140
            )
            second = gr.Dropdown(
                [_NONE, *models.names],
                value=_NONE,
                label="Beside it",
                elem_id="second",
                min_width=140,
                visible=len(models.names) > 1,
            )
        threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Lowest score", elem_id="threshold")
        stage, classes = _stage_and_classes(models, first, _NONE)
        return _Controls(
            model,
            second,
            threshold,
            gr.Slider(minimum=1, step=1, elem_id="stage", **stage),
            gr.Dropdown(multiselect=True, elem_id="classes", **classes),
        )


def _stage_and_classes(models, first, second):
    """What the controls for stage and classes are for these models."""
    chosen = [name for name in (first, second) if name != _NONE]
    last = max(models.num_stages(name) for name in chosen)
    names = [x for name in chosen for x in models.class_names(name)]
    stage = {
        "maximum": max(last, 2),
        "value": last,
        "label": "Stage",
        "info": "How proposals become boxes, from the first stage to the last.",
        "visible": last > 1,
    }
    classes = {
        "choices": list(dict.fromkeys(names)),
        "value": [],
        "label": "Classes, none for all",
        "visible": bool(names),
    }
    return stage, classes


def _add_panel(name):
    with gr.Column(min_width=320, visible=False) as column:
        title = gr.Markdown(elem_id=f"{name}-title")
        picture = gr.Image(
            show_label=False,
            interactive=False,
            buttons=["fullscreen"],
            elem_id=f"{name}-picture",
        )
        with gr.Row(elem_classes="downloads"):
            files = [
                gr.DownloadButton(
                    f"Save {kind}", size="sm", min_width=100, elem_id=f"{name}-save-{kind}".lower()
                )
                for kind in ("picture", "JSON", "CSV")
            ]
        found = gr.Dataframe(interactive=False, max_height=400, buttons=[], elem_id=f"{name}-table")
    return _Panel(column, title, picture, found, *files)


def _add_video_results():
    message = gr.Markdown(_VIDEO_HINT, elem_id="video-message")
    picture = gr.Video(
        show_label=False, interactive=False, buttons=[], height=560, elem_id="video-result"
    )
    with gr.Row(elem_classes="downloads"):
        files = [
            gr.DownloadButton(
                f"Save {kind}", size="sm", min_width=100, elem_id=f"video-save-{kind}".lower()
            )
            for kind in ("video", "JSON", "CSV")
        ]
    return [message, picture, *files]


def _connect_image(handlers, image, controls, message, panels):
    inputs = [image, *controls]
    outputs = [message, *(x for panel in panels for x in panel)]
    options = {"concurrency_id": "image", **_RAW}
    image.change(handlers.show, inputs, outputs, **options)
    # `input` is what a user does; a change by this page must not start another computation.
    for control in (controls.threshold, controls.stage, controls.classes):
        control.input(
            handlers.show,
            inputs,
            outputs,
            trigger_mode="always_last",
            show_progress="hidden",
            **options,
        )
    for control in (controls.first, controls.second):
        control.input(
            handlers.update_controls,
            [controls.first, controls.second],
            [controls.stage, controls.classes],
            show_progress="hidden",
            api_visibility="private",
        ).then(handlers.show, inputs, outputs, **options)


class _Handlers:
    """What happens on the page's events."""

    def __init__(self, models, folder):
        self.models = models
        self.folder = folder

    def update_controls(self, first, second):
        stage, classes = _stage_and_classes(self.models, first, second)
        return gr.Slider(**stage), gr.Dropdown(**classes)

    def show(self, image, first, second, threshold, stage, classes):
        """The message, and the contents of both panels."""
        if image is None:
            return [_IMAGE_HINT, *_HIDDEN * 2]
        choice = Choice(float(threshold), int(stage), tuple(classes or ()))
        try:
            with contextlib.ExitStack() as unfinished, self.models.slot():
                upload = Upload.from_file(*_path_and_name(image), self.models.limits)
                shown = [
                    self._show_one(upload, name, choice, unfinished) for name in (first, second)
                ]
                unfinished.pop_all()
        except UserError as error:
            return [_problem(error), *_HIDDEN * 2]
        return ["", *shown[0], *shown[1]]

    def _show_one(self, upload, name, choice, unfinished):
        if name == _NONE:
            return _HIDDEN
        result = choose(self.models.find(name, upload), choice)
        found = entries(result, choice)
        headers, rows = table(result, choice)
        folder, file_name = self._make_folder(unfinished), upload.name or "image"
        picture = os.path.join(folder, f"{short_stem(file_name)}-detections.png")
        Image.fromarray(draw(result, choice)).save(picture, compress_level=1)
        return [
            gr.Column(visible=True),
            f"**{_plain(name)}**: {describe(result, choice)}",
            picture,
            {"headers": headers, "data": rows},
            picture,
            *_write_texts(folder, file_name, found),
        ]

    def show_video(self, video, name, threshold, stage, classes):
        """Yields the message and the results of a video, as far as it is."""
        nothing = [None] * 4
        if video is None:
            yield [_problem("Choose a video first."), *nothing]
            return
        choice = Choice(float(threshold), int(stage), tuple(classes or ()))
        path, file_name = _path_and_name(video)
        try:
            with contextlib.ExitStack() as unfinished, self.models.slot():
                folder = self._make_folder(unfinished)
                states = draw_video(self.models, name, path, file_name, folder, choice)
                # Closed before its folder is deleted.
                for state in unfinished.enter_context(contextlib.closing(states)):
                    yield [_progress(state), *nothing]
                texts = _write_texts(folder, file_name, state.entries)
                unfinished.pop_all()
        except UserError as error:
            yield [_problem(error), *nothing]
            return
        yield [_progress(state, done=True), state.path, state.path, *texts]

    def _make_folder(self, unfinished):
        """A folder for what is drawn, which is deleted when `unfinished` (ExitStack) is closed.

        Gradio deletes what it has shown, but does not know the files of an event that fails or is
        stopped.
        """
        folder = tempfile.mkdtemp(dir=self.folder)
        unfinished.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder


_HIDDEN = [gr.Column(visible=False), "", None, None, None, None, None]


def _write_texts(folder, file_name, found):
    stem = short_stem(file_name)
    paths = [os.path.join(folder, f"{stem}-detections.{ending}") for ending in ("json", "csv")]
    for path, text in zip(paths, (to_json(found), to_csv(found)), strict=True):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    return paths


def _progress(state, done=False):
    frames = f"{state.frames} of {state.total} frames" if state.total else f"{state.frames} frames"
    if not done:
        return f"{frames} …"
    cut = f"; the rest of the video is left out (--max-frames {state.frames})" if state.cut else ""
    return f"{state.frames} frames, {len(state.entries)} detections{cut}"


def _switch(to_video):
    """What is shown for the tab of images or of videos."""
    visible = gr.Column(visible=not to_video), gr.Column(visible=to_video)
    return [*visible, gr.Dropdown(interactive=not to_video)]


def _draw_examples(folder):
    """Write the example images; returns their paths."""
    folder = os.path.join(folder, "examples")
    os.makedirs(folder)
    paths = [os.path.join(folder, f"shapes-{i}.png") for i, _ in enumerate(_EXAMPLES, start=1)]
    for path, seed in zip(paths, _EXAMPLES, strict=True):
        Image.fromarray(draw_scene(seed, _EXAMPLE_SIZE).image).save(path)
    return paths


def _path_and_name(uploaded):
    path = uploaded["path"]
    return path, os.path.basename(uploaded.get("orig_name") or path)


def _problem(error):
    return f'<div class="problem" role="alert">{html.escape(str(error))}</div>'


def _plain(text):
    """Text that neither Markdown nor HTML changes."""
    return "".join(f"\\{x}" if x in "\\`*_{}[]<>()#+-.!|" else x for x in html.escape(text))
