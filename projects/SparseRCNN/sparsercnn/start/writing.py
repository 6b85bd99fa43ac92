"""The config of a run as a short YAML file with a reason by each key."""

import textwrap

from ..engine.overrides import as_argument

__all__ = ["explain", "to_yaml"]

_WIDTH = 98


def to_yaml(choices, title, base):
    """
    Args:
        choices (list[Choice]): keys, in any order; those of a section are put together.
        title (str): what the file is, for its first lines.
        base (str): the file that it is laid over, absolute.

    Returns:
        str: the file's content.
    """
    tree = {}
    for choice in choices:
        *sections, name = choice.key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = choice
    lines = [*_comment(title, ""), f"_BASE_: {_scalar(base)}", *_lines(tree, "")]
    return "\n".join(lines) + "\n"


def explain(choices):
    """
    Args:
        choices (list[Choice]): as for :func:`to_yaml`.

    Returns:
        str: the figures behind each choice that has some.
    """
    blocks = []
    for choice in choices:
        if choice.figures:
            text = textwrap.fill(
                choice.figures, 92, initial_indent="    ", subsequent_indent="    "
            )
            blocks.append(f"  {choice.key} {_scalar(choice.value)}\n{text}")
    return "\n".join(blocks)


def _lines(tree, indent):
    for name, node in tree.items():
        if isinstance(node, dict):
            yield f"{indent}{name}:"
            yield from _lines(node, f"{indent}  ")
        else:
            yield from _comment(node.why, indent)
            yield f"{indent}{name}: {_scalar(node.value)}"


def _comment(text, indent):
    prefix = f"{indent}# "
    width = _WIDTH - len(indent)
    return textwrap.wrap(text, width, initial_indent=prefix, subsequent_indent=prefix)


def _scalar(value):
    """A value as YAML that the config reads back as it is; a text always in quotes."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_scalar, value))}]"
    return as_argument(value)
