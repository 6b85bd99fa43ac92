"""Optional dependencies, needed by only a part of the package."""

from importlib.util import find_spec

__all__ = ["require_extra"]


def require_extra(extra, *modules):
    """Check that an extra is installed, before importing modules that need it.

    Args:
        extra (str): name of the extra in setup.py.
        modules (str): top-level modules that its packages provide.

    Raises:
        ImportError: some modules are missing; the message names them and the extra.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{', '.join(missing)} cannot be imported. Install the extra '{extra}': "
            f"pip install 'sparsercnn[{extra}]'",
            name=missing[0],
        )
