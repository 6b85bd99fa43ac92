"""Reading of YAML that nobody vouches for: in bounded time and memory, with errors of one line."""

import os

import yaml
from detectron2.utils.file_io import PathManager

from .errors import ConfigError

__all__ = ["parse_yaml", "read_yaml"]

_MAX_BYTES = 10**6  # of a file; the largest config here has 3 kB
_MAX_NODES = 10**5  # keys, values and lists, each counted as often as it is referred to
_MAX_DEPTH = 50
_MAX_DIGITS = 100  # of a number


def read_yaml(path, allow_unsafe=False):
    """The content of a YAML file.

    Args:
        path (str | Path): a regular file, or a URL, which is downloaded.
        allow_unsafe (bool): let Python tags run code; None: no, and the program has no option for
            it.

    Raises:
        ConfigError: see :func:`parse_yaml`; or the file is missing, no regular file, or too large.
    """
    path = os.fspath(path)
    try:
        local = PathManager.get_local_path(path) if "://" in path else path
        if not os.path.isfile(local):  # a pipe would be waited for
            problem = "is no regular file" if os.path.exists(local) else "does not exist"
            raise ConfigError(f"{path} {problem}. Give a YAML file.")
        with open(local, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read: {reason}. Give a YAML file.") from error
    return parse_yaml(content, path, allow_unsafe)


def parse_yaml(text, name, allow_unsafe=False):
    """The content of YAML.

    Args:
        text (str | bytes): bytes may be UTF-8 or UTF-16, with a byte-order mark.
        name (str): of the file, for messages.
        allow_unsafe (bool): see :func:`read_yaml`.

    Raises:
        ConfigError: the text is no YAML; has Python tags, a key twice, a value that contains
            itself, or a number of more than 100 digits; or is larger than 1 MB or 100,000 values,
            or nested deeper than 50. The message names the line.
    """
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{name} is larger than {_MAX_BYTES // 10**6} MB; is it a YAML file?")
    try:
        loader = (_UnsafeLoader if allow_unsafe else _SafeLoader)(text)
        loader.name = name
        return loader.get_single_data()
    except yaml.YAMLError as error:
        if "could not determine a constructor" in str(error):
            trust = " If you trust the author of the file, use --allow-unsafe."
            raise ConfigError(
                f"{_position(error, name)} is refused: {error.problem}. A Python tag can run code "
                f"on this machine.{'' if allow_unsafe is None else trust}"
            ) from error
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{_position(error, name)}: invalid YAML: {problem}.") from error
    # Of values that have not the form that their tag says.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{name}: invalid YAML: {error}.") from error


class _Checked:
    """What the loaders of PyYAML accept in silence, and configs should not have."""

    _depth = 0

    def compose_node(self, parent, index):
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(None, None, "it is nested too deeply", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_document(self, node):
        self._sizes = {}
        self._measure(node)
        return super().construct_document(node)

    def _measure(self, node):
        """Number of nodes in `node`, with aliases written out."""
        size = self._sizes.get(id(node), 1)
        if size is None:
            self._refuse(node, "the value contains itself")
        if id(node) in self._sizes:
            return size
        if isinstance(node, yaml.ScalarNode):
            is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
            if is_number and len(node.value) > _MAX_DIGITS:
                self._refuse(node, f"a number of more than {_MAX_DIGITS} digits")
            return 1
        self._sizes[id(node)] = None
        if isinstance(node, yaml.MappingNode):
            self._require_unique(node)
            children = [part for pair in node.value for part in pair]
        else:
            children = node.value
        for child in children:
            size += self._measure(child)
            if size > _MAX_NODES:
                self._refuse(node, f"with its aliases written out it has over {_MAX_NODES:,} parts")
        self._sizes[id(node)] = size
        return size

    def _require_unique(self, node):
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if (key.tag, key.value) in seen:
                self._refuse(key, f"the key '{key.value}' is there twice")
            seen.add((key.tag, key.value))

    def _refuse(self, node, problem):
        raise yaml.MarkedYAMLError(None, None, problem, node.start_mark)


class _SafeLoader(_Checked, yaml.SafeLoader):
    pass


class _UnsafeLoader(_Checked, yaml.UnsafeLoader):
    pass


def _position(error, name):
    mark = getattr(error, "problem_mark", None)
    return f"{mark.name}, line {mark.line + 1}" if mark else name
