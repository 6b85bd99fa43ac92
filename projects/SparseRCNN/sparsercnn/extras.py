"""Optional dependencies, needed by only a part of the package."""

from importlib.util import find_spec

from .errors import UserError

__all__ = ["MissingExtraError", "require_extra"]


class MissingExtraError(UserError, ImportError):
    """Packages of an extra are not installed."""


def require_extra(extra, *modules):
    """Check that an extra is installed, before importing modules that need it.

    Args:
        extra (str): name of the extra in setup.py.
        modules (str): top-level modules that its packages provide.

    Raises:
        MissingExtraError: some modules are missing; the message names them and the extra.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        error = MissingExtraError(
            f"{', '.join(missing)} cannot be imported. Install the extra '{extra}', in the folder "
            f"of this project: pip install -e '.[{extra}]'"
        )
        error.name = missing[0]
        raise error
