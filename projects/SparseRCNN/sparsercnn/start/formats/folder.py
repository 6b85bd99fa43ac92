"""What a reader gets: the files of a folder; and what it gives: the splits of a data set."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...data.files import files_below, read_bytes
from ...errors import DataError, abbreviate
from ...image_files import IMAGE_SUFFIXES
from ..earlier_runs import without_runs

__all__ = ["Folder", "Source", "Split", "has_keys", "searchable"]


@dataclass
class Split:
    """A part of a data set."""

    image_root: str  # absolute folder from which "file_name" of `load` counts
    load: Callable  # gives its content, as in a file of COCO's format
    entry: str | None = None  # of DATASETS, if the project reads the files themselves


@dataclass
class Source:
    """A data set that was recognised."""

    format: str  # for people, such as "Pascal VOC"
    splits: dict  # name -> Split; a single one if the data is not split
    notes: list = field(default_factory=list)  # sentences on what was taken how


class Folder:
    """The files of a data set.

    Args:
        path (str | Path): a folder, or one file of annotations in it.
        leave_out (str | Path): a folder inside that is not part of the data, such as that of the
            run; None: none.

    Raises:
        DataError: there is no such file or folder.
    """

    def __init__(self, path, leave_out=None):
        self.given = Path(os.path.abspath(os.path.expanduser(path)))
        if not self.given.exists():
            raise DataError(f"{path}: there is no such file or folder.")
        self.path = self.given if self.given.is_dir() else self.given.parent
        self._leave_out = leave_out

    @cached_property
    def files(self):
        """list[Path]: those of :func:`~sparsercnn.data.files.files_below`, without earlier runs."""
        return self._files_and_runs[0]

    @property
    def notes(self):
        """list[str]: sentences on what is not taken for data."""
        runs = self._files_and_runs[1]
        if not runs:
            return []
        return [f"Left out is what an earlier `start` has written: {abbreviate(runs)}."]

    @cached_property
    def _files_and_runs(self):
        return without_runs(files_below(self.path, self._leave_out), self.path)

    @cached_property
    def images(self):
        """list[Path]: the image files."""
        return [x for x in self.files if x.suffix.lower() in IMAGE_SUFFIXES]

    @cached_property
    def _by_name(self):
        return _group(self.images, lambda path: path.name)

    @cached_property
    def _by_stem(self):
        return _group(self.images, lambda path: path.stem)

    def with_suffix(self, *suffixes):
        """Files (list[Path]) with one of these endings; of a file that was given, that one."""
        files = self.files if self.given.is_dir() else [self.given]
        return [x for x in files if x.suffix.lower() in suffixes]

    def split_names(self, files):
        """Names of the splits of annotation files (dict: str -> Path): the files' stems, or where
        some are the same, the paths from the folder."""
        names = [path.name.split(".")[0] for path in files]
        if len(set(names)) < len(names):
            names = [path.relative_to(self.path).with_suffix("").as_posix() for path in files]
        return dict(zip(names, files, strict=True))

    def find_image(self, name, beside):
        """Where an image is that an annotation file names.

        Args:
            name (str): as it is written there, perhaps with folders of another machine, or
                without its ending.
            beside (Path): the annotation file.

        Returns:
            str: path relative to the folder; `name` itself if there is no such file, which the
            check of the data set reports.

        Raises:
            DataError: several files have the name, and its folder does not tell which.
        """
        name = name.replace("\\", "/")
        for place in (beside.parent, self.path):
            path = Path(os.path.abspath(place / name))
            if path.is_relative_to(self.path) and path.is_file():
                return path.relative_to(self.path).as_posix()
        last = name.rpartition("/")[2]
        found = self._by_name.get(last, [])
        if not last.lower().endswith(IMAGE_SUFFIXES):
            found = self._by_stem.get(last, [])
            wanted = [Path(os.path.abspath(x / name)) for x in (beside.parent, self.path)]
            found = [x for x in found if x.with_suffix("") in wanted][:1] or found
        if len(found) > 1:
            raise DataError(
                f"{beside}: '{name}' may be {found[0]} or {found[1]}. Give the path from "
                f"{self.path}."
            )
        return found[0].relative_to(self.path).as_posix() if found else name


def _group(paths, key):
    groups = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def searchable(path):
    """The content (bytes) of a text file in which names of keys can be looked for, whether it is in
    UTF-8, UTF-16 or an encoding of one byte per character.

    Raises:
        DataError: the file cannot be read.
    """
    return read_bytes(path).replace(b"\0", b"")


def has_keys(content, *keys):
    """Whether all `keys` (str) of json, or of the outermost level of YAML, are in a file that does
    not parse, so that it is probably one of annotations, whose reader says what is wrong.

    Args:
        content (bytes): from :func:`searchable`.
    """
    return all(
        # The first test is much faster, and annotations may have hundreds of megabytes.
        key.encode() in content
        and re.search(rf'("{key}"|^{key})\s*:'.encode(), content, re.MULTILINE)
        for key in keys
    )
