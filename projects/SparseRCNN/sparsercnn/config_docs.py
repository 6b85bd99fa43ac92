"""``python -m sparsercnn.config_docs FILE``: write the page of all config keys, docs/config.md."""

import sys
from pathlib import Path

from detectron2.config import get_cfg

from .config import add_sparsercnn_config
from .config_schema import TABLE
from .engine.overrides import flatten

__all__ = ["main", "make_page"]

_HEAD = """# Config keys

Made by `python -m sparsercnn.config_docs docs/config.md` from
[config_schema.py](../projects/SparseRCNN/sparsercnn/config_schema.py).

These are the keys that the models of this project read, its own (**bold**) and detectron2's, with
their defaults. Values are checked before anything is built; a whole number is right wherever a
number is wanted. Keys that are not here, such as those of another project, are not checked.
Relations between keys are checked too: `engine/config_check.py`.
"""


def make_page():
    """The page (str), in Markdown."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    defaults = dict(flatten(cfg))
    lines = [_HEAD]
    for title, group in TABLE.items():
        lines += [f"## {title}", "", "| key | type | default | allowed | meaning |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for key, row in group.items():
            name = f"**{key}**" if row.is_own else key
            default = f"`{defaults[key]!r}`"
            cells = (name, row.allowed.type, default, row.allowed.allowed, row.meaning)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(argv=None):
    """Write the page to the file that `argv` names, None for the arguments of the process."""
    (path,) = sys.argv[1:] if argv is None else argv
    Path(path).write_text(make_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
