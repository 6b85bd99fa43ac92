"""What a config key may be set to: the vocabulary of the table in ``config_schema.py``."""

import math
from dataclasses import dataclass

__all__ = [
    "Anything",
    "Choice",
    "Device",
    "Either",
    "Flag",
    "Named",
    "Number",
    "Registered",
    "Sequence",
    "Text",
    "Unset",
    "Whole",
    "as_text",
]


def as_text(value, limit=60):
    """`value` as a message shows it (str): as Python writes it, cut to about `limit` characters."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class _Values:
    """A set of values.

    Subclasses have `accepts(value)` (bool), `allowed` (str), which completes "it must be", and
    `type` (str), as the table of ``docs/config.md`` names it.
    """

    def convert(self, value):
        """The value of the type that is wanted, if `value` has another that says the same."""
        return value


@dataclass(frozen=True)
class Whole(_Values):
    """A whole number, from `low` to `high`; None: no limit."""

    low: int | None = None
    high: int | None = None
    type = "int"

    def accepts(self, value):
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def allowed(self):
        return f"a whole number{_span(self.low, self.high)}"


@dataclass(frozen=True)
class Number(_Values):
    """A number from `low` to `high`, or `above` a limit, or `below` one; never NaN."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    finite: bool = True
    type = "float"

    def accepts(self, value):
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond all floats
            return False
        if math.isnan(number) or (self.finite and math.isinf(number)):
            return False
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def convert(self, value):
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        try:
            return float(value)
        except OverflowError:  # beyond all floats; it is refused as it is
            return value

    @property
    def allowed(self):
        if self.low is not None and self.low == self.high:
            return f"{self.low:g}"
        if self.low is not None and self.high is not None:
            return f"a number{_span(self.low, self.high)}"
        words = [f"above {self.above:g}"] if self.above is not None else []
        words += [f"of {self.low:g} or more"] if self.low is not None else []
        words += [f"below {self.below:g}"] if self.below is not None else []
        words += [f"at most {self.high:,g}"] if self.high is not None else []
        return " ".join(["a number", " and ".join(words)]).strip()


@dataclass(frozen=True)
class Flag(_Values):
    """True or False."""

    allowed = "True or False"
    type = "bool"

    def accepts(self, value):
        return isinstance(value, bool)


@dataclass(frozen=True)
class Text(_Values):
    """A text on one line, without control characters."""

    what: str = "a text"
    type = "str"

    def accepts(self, value):
        return isinstance(value, str) and value.isprintable()

    @property
    def allowed(self):
        return f"{self.what} on one line"


@dataclass(frozen=True)
class Choice(_Values):
    """One of some values."""

    values: tuple

    def __init__(self, *values):
        object.__setattr__(self, "values", values)

    def accepts(self, value):
        # True is 1 to Python.
        return any(type(value) is type(x) and value == x for x in self.values)

    @property
    def allowed(self):
        shown = ["''" if x == "" else str(x) for x in self.values]
        return " or ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)

    @property
    def type(self):
        return type(self.values[0]).__name__


@dataclass(frozen=True)
class Registered(_Values):
    """The name of an entry in a registry, or one of `others`.

    This module knows no registry: :func:`~sparsercnn.engine.config_check.check_config` does, and
    refuses names that are not there.
    """

    registry: str
    others: tuple = ()
    type = "str"

    def accepts(self, value):
        return isinstance(value, str)

    @property
    def allowed(self):
        others = "".join(f", or '{x}'" for x in self.others)
        return f"a name in the {self.registry} registry{others}"


@dataclass(frozen=True)
class Device(_Values):
    """The name of a device, as torch has it."""

    names = "cpu, cuda, or one GPU such as cuda:0"
    allowed = f"auto, {names}"
    type = "str"

    def accepts(self, value):
        import torch  # the table is read without it, too

        if value == "auto":
            return True
        try:
            return isinstance(value, str) and bool(torch.device(value).type)
        except RuntimeError:
            return False


@dataclass(frozen=True)
class Anything(_Values):
    """Whatever YAML can say."""

    allowed = "anything"
    type = "any"

    def accepts(self, value):
        return True


@dataclass(frozen=True)
class Named(_Values):
    """A mapping of a `name` and arguments."""

    allowed = "a mapping with a name and arguments, such as {'name': 'Rotate', 'limit': 10}"
    type = "mapping"

    def accepts(self, value):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            return False
        return isinstance(value.get("name"), str)


@dataclass(frozen=True)
class Unset(_Values):
    """No value."""

    allowed = "None"
    type = "None"

    def accepts(self, value):
        return value is None


@dataclass(frozen=True)
class Either(_Values):
    """What one of several accepts."""

    kinds: tuple

    def __init__(self, *kinds):
        object.__setattr__(self, "kinds", kinds)

    def accepts(self, value):
        return any(kind.accepts(value) for kind in self.kinds)

    def convert(self, value):
        for kind in self.kinds:
            if kind.accepts(value):
                return kind.convert(value)
        return value

    @property
    def allowed(self):
        return ", or ".join(kind.allowed for kind in self.kinds)

    @property
    def type(self):
        return " or ".join(dict.fromkeys(kind.type for kind in self.kinds))


@dataclass(frozen=True)
class Sequence(_Values):
    """A list or tuple of `shortest` to `longest` items, each of which `item` accepts."""

    item: object
    shortest: int = 0
    longest: int = 1000

    def accepts(self, value):
        if not isinstance(value, list | tuple):
            return False
        return self.shortest <= len(value) <= self.longest and all(map(self.item.accepts, value))

    def convert(self, value):
        if not isinstance(value, list | tuple):
            return value
        return type(value)(map(self.item.convert, value))

    @property
    def allowed(self):
        if self.shortest == self.longest:
            number = f"{self.shortest} items"
        else:
            number = f"{self.shortest} or more items" if self.shortest else "any number of items"
        return f"a list of {number}, each {self.item.allowed}"

    @property
    def type(self):
        return f"list of {self.item.type}"


def _span(low, high):
    if low is None and high is None:
        return ""
    if high is None:
        return f" of {low:,} or more"
    return f" from {low:,} to {high:,}" if low is not None else f" of {high:,} or less"
