"""Numbers as a report's tables have them; what is not known is an empty cell."""

import statistics

__all__ = ["difference", "interval", "mean_and_deviation", "number", "probability"]


def number(value, digits=2):
    """
    Args:
        value (float): or None.
        digits (int): after the point.

    Returns:
        str:
    """
    return "" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def difference(value, digits=2):
    """
    Returns:
        str: with its sign.
    """
    if value is None:
        return ""
    text = number(abs(value), digits)
    if not text.strip("0."):
        return text  # what rounds to zero has no sign
    return f"{'−' if value < 0 else '+'}{text}"


def interval(low, high):
    """
    Returns:
        str: "+0.10 to +2.30".
    """
    return "" if low is None else f"{difference(low)} to {difference(high)}"


def probability(p):
    """
    Returns:
        str: three digits; "< 0.001".
    """
    if p is None:
        return ""
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def mean_and_deviation(values, digits=2):
    """
    Args:
        values (sequence[float]): of the seeds.
        digits (int): after the point.

    Returns:
        str: "40.12 ± 0.50", the sample's standard deviation (n - 1); the mean alone of one value.
    """
    if not values:
        return ""
    mean = number(statistics.fmean(values), digits)
    if len(values) < 2:
        return mean
    return f"{mean} ± {number(statistics.stdev(values), digits)}"
