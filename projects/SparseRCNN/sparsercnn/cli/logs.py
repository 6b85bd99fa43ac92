"""Logs of programs that do not train."""

__all__ = ["start_logs"]


def start_logs():
    """Print what this package and fvcore log."""
    from detectron2.utils.logger import setup_logger  # slow, see the programs

    setup_logger(name="sparsercnn")
    setup_logger(name="fvcore")
