"""Renaming of weights by rules; a weight that no rule covers is an error.

A rule pairs two templates of names, and works in both directions:

    Rule("layer{i}.{j}.bn{k}.{leaf}", "res{i+1}.{j}.conv{k}.norm.{leaf}")

A field stands for a number, except {leaf}, a word without digits such as "weight" or
"running_mean", and {rest}, any text. With an offset, as in {i+1}, the number in the name is larger
by it.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from torch import Tensor

from ..errors import ConversionError

__all__ = ["ConversionError", "Converted", "Drop", "Rule", "convert"]

_FIELD = re.compile(r"\{(\w+?)([+-]\d+)?\}")
# Patterns of fields that are not just numbers. A pyramid has levels p2 to p5, a cascade three
# stages.
_PATTERNS = {"leaf": "[a-z_]+", "rest": ".+", "level": "[0-3]", "stage": "[0-2]"}
_NUMBER = r"\d+"


class _Template:
    def __init__(self, text):
        self.text = text
        pattern, *literals = map(re.escape, _FIELD.split(text)[::3])
        self.fields = [(name, int(offset or 0)) for name, offset in _FIELD.findall(text)]
        for (name, offset), literal in zip(self.fields, literals, strict=True):
            group = _NUMBER if offset else _PATTERNS.get(name, _NUMBER)
            pattern += f"({group}){literal}"
        self.regex = re.compile(pattern)

    def parse(self, name):
        """The values of the fields in a name, or None if the name does not match."""
        match = self.regex.fullmatch(name)
        if match is None:
            return None
        values = {}
        for (key, offset), text in zip(self.fields, match.groups(), strict=True):
            value = str(int(text) - offset) if offset else text
            if not re.fullmatch(_PATTERNS.get(key, _NUMBER), value):
                return None
            values[key] = value
        return values

    def fill(self, values):
        """The name with these values in its fields."""

        def value_of(match):
            value, offset = values[match[1]], match[2]
            return str(int(value) + int(offset)) if offset else value

        return _FIELD.sub(value_of, self.text)


_template = lru_cache(maxsize=None)(_Template)


@dataclass
class Rule:
    """Two names of one weight, as templates with the same fields."""

    theirs: str
    ours: str
    # Convert the tensor, given the values of the fields as text; inverse to each other.
    to_ours: Callable[[Tensor, dict], Tensor] | None = None
    to_theirs: Callable[[Tensor, dict], Tensor] | None = None

    def apply(self, name, tensor, reverse):
        """The converted name and tensor, or None if the rule does not cover the name."""
        source, target = (self.ours, self.theirs) if reverse else (self.theirs, self.ours)
        fields = _template(source).parse(name)
        if fields is None:
            return None
        change = self.to_theirs if reverse else self.to_ours
        return _template(target).fill(fields), change(tensor, fields) if change else tensor


@dataclass
class Drop:
    """Weights that are left out in both directions."""

    name: str  # template of their names
    reason: str  # short text for the summary

    def apply(self, name, tensor, reverse):
        """As :meth:`Rule.apply`, but with None as the converted name."""
        return None if _template(self.name).parse(name) is None else (None, tensor)


@dataclass
class Converted:
    """What :func:`convert` gives."""

    weights: dict[str, Tensor] = field(default_factory=dict)  # by their new names
    dropped: Counter = field(default_factory=Counter)  # number of weights left out, by reason


def convert(weights, rules, reverse=False):
    """Convert each weight by the first rule that covers its name.

    Args:
        weights (dict[str, Tensor]): a state dict.
        rules (list[Rule | Drop]): in the order in which to try them.
        reverse (bool): convert from our names to theirs.

    Raises:
        ConversionError: no rule covers some names (all are in the message), or two weights would
            get the same name.
    """
    result, uncovered, origin = Converted(), [], {}
    for name, tensor in weights.items():
        for rule in rules:
            renamed = rule.apply(name, tensor, reverse)
            if renamed is not None:
                break
        else:
            uncovered.append(name)
            continue
        new_name, new_tensor = renamed
        if new_name is None:
            result.dropped[rule.reason] += 1
        elif new_name in origin:
            both = [origin[new_name], name]
            raise ConversionError(f"{' and '.join(both)} would both become {new_name}.", both)
        else:
            origin[new_name] = name
            result.weights[new_name] = new_tensor
    if uncovered:
        lines = "\n".join(f"  {name} {tuple(weights[name].shape)}" for name in uncovered)
        raise ConversionError(
            f"No rule covers {len(uncovered)} of {len(weights)} weights. To convert only a part, "
            f"select it by the beginning of its names (--only).\n{lines}",
            uncovered,
        )
    return result
