"""From a command line to the pages about data sets."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from ..data import register_datasets
from ..data.classes import require_registered
from ..errors import abbreviate
from .browser import write_browser
from .findings import Findings
from .inspection_sections import inspection_sections
from .making import check_folder, empty_folder, load_source, refuse_lvis
from .records import read_truth
from .writing import write_pages

__all__ = ["InspectOptions", "inspect_data"]


@dataclass
class InspectOptions:
    """What the command line says."""

    datasets: list
    output: str
    config_file: str = ""
    opts: list = field(default_factory=list)  # KEY VALUE pairs; with MODEL.WEIGHTS, a model is used
    allow_unsafe: bool = False
    max_images: int = 5000
    picture_size: int = 640


def inspect_data(options):
    """Write pages about data sets.

    Args:
        options (InspectOptions): what is asked for.

    Returns:
        Path: of `index.html`.

    Raises:
        ConfigError: the output folder holds other files, or the model cannot be loaded.
        DataError: a data set cannot be read, or has other classes than the model, or is
            LVIS's and there is a model.
    """
    folder = Path(options.output)
    check_folder(folder)
    register_datasets(options.datasets)
    asks_model = options.config_file or "MODEL.WEIGHTS" in options.opts
    for name in options.datasets:
        require_registered(name)
        if asks_model:
            refuse_lvis(name, "Inspect it without a model.")
    truths = [read_truth(name) for name in options.datasets]
    findings = Findings(truths)
    if asks_model:
        source = load_source(options, options.config_file, options.opts, options.datasets[0])
        findings.ask(source.predictor)
    title = f"What is in {', '.join(options.datasets)}"
    sections, tables = list(inspection_sections(findings)), findings.tables()
    browser = findings.browser(title)
    empty_folder(folder)
    write_pages(title, sections, tables, folder)
    unreadable = write_browser(browser, folder, options.max_images, options.picture_size)
    if unreadable:
        logging.getLogger(__name__).warning(
            f"{len(unreadable)} images cannot be read: {abbreviate(unreadable)}"
        )
    return folder / "index.html"
