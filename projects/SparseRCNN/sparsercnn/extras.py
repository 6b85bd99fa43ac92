"""Packages that only a part of this one needs."""

from importlib.util import find_spec

__all__ = ["require_extra"]


def require_extra(extra, *modules):
    """Check that an extra is installed, before what needs it imports it.

    Args:
        extra (str): its name, as in setup.py.
        modules (str): top-level modules that its packages provide.

    Raises:
        ImportError: some of them are not there; the message names them and the extra.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{', '.join(missing)} cannot be imported, and is in the extra '{extra}': "
            f"pip install 'sparsercnn[{extra}]'",
            name=missing[0],
        )
