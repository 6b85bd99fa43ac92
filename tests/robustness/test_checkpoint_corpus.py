"""Checkpoints that are broken or made to do harm: each ends in one line, and none is believed.

A case writes a file and names what its message must say.
"""

import pickle
import struct
import zipfile
from pickle import BUILD, EMPTY_DICT, GLOBAL, MARK, PROTO, REDUCE, SETITEM, STOP

import numpy as np
import pytest
import torch
from torch import nn

from sparsercnn.engine.checkpoint import load_for_inference
from sparsercnn.engine.checkpoint_files import read_metadata
from sparsercnn.errors import CheckpointError

MODEL = {"trunk": (4, 5), "class_logits": (5, 3)}
PLAIN_STATE = (3, "<", None, None, None, -1, -1, 0)


def make_model():
    return nn.Sequential(*()).append(nn.ModuleDict({k: nn.Linear(*v) for k, v in MODEL.items()}))


def weights(**changes):
    found = dict(make_model().state_dict())
    found.update({f"0.{name.replace('__', '.')}": value for name, value in changes.items()})
    return {name: value for name, value in found.items() if value is not None}


class Pickled:
    """A pickle of numbers and dicts, of which any part can be something else."""

    def __init__(self):
        self.parts = [PROTO + b"\x02"]

    def name(self, module, name):
        self.parts.append(GLOBAL + f"{module}\n{name}\n".encode())
        return self

    def plain(self, value):
        """Any value, without the frame and the end of its pickle."""
        self.parts.append(pickle.dumps(value, protocol=2)[2:-1])
        return self

    def code(self, *codes):
        self.parts.extend(codes)
        return self

    def dtype(self, name="f4", state=PLAIN_STATE):
        self.name("numpy", "dtype").plain((name, False, True)).code(REDUCE)
        return self.plain(state).code(BUILD)

    def array(self, shape=(5,), data=b"\0" * 20, name="f4", state=PLAIN_STATE, more=()):
        """As numpy 1 pickles one: made empty, and then given a state."""
        self.name("numpy.core.multiarray", "_reconstruct").code(MARK).name("numpy", "ndarray")
        self.plain((0,)).plain(b"b").code(pickle.TUPLE, REDUCE)
        self.code(MARK).plain(1).plain(shape).dtype(name, state).plain(False).plain(data)
        for value in more:
            self.plain(value)
        return self.code(pickle.TUPLE, BUILD)


def in_pickle(write_value, key="0.trunk.bias"):
    """A .pkl whose weight of that name is what `write_value` adds to a :class:`Pickled`."""

    def write(path):
        content = Pickled().code(EMPTY_DICT).plain(key)
        write_value(content)
        path.write_bytes(b"".join([*content.parts, SETITEM, STOP]))

    return write


def in_archive(write_value):
    """The same as the data.pkl of a .pth."""

    def write(path):
        torch.save({"0.trunk.bias": torch.zeros(5)}, path)
        bare = path.with_suffix(".bare")
        in_pickle(write_value)(bare)
        replace_in_archive(path, "data.pkl", bare.read_bytes())

    return write


def replace_in_archive(path, name, content, **options):
    with zipfile.ZipFile(path) as archive:
        entries = {x.filename: archive.read(x.filename) for x in archive.infolist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for entry, old in entries.items():
            archive.writestr(entry, content if entry.endswith(name) else old)


def saved(**changes):
    return lambda path: torch.save({"model": weights(**changes)}, path)


def content(value):
    return lambda path: torch.save(value, path)


def raw(data):
    return lambda path: path.write_bytes(data)


def bomb(path):
    """64 KiB on the disk, 64 MiB in memory."""
    saved()(path)
    replace_in_archive(path, "data/0", bytes(2**26), compression=zipfile.ZIP_DEFLATED)


def long_pickle(path):
    saved()(path)
    replace_in_archive(path, "data.pkl", bytes(2**26 + 1))


def shorter(path):
    saved()(path)
    path.write_bytes(path.read_bytes()[:-100])


NAN = torch.tensor([0, 0, float("nan"), 0, 0])
CHANGED_STATES = {
    "an object type": ("f4", (3, "|", None, None, None, -1, -1, 63)),
    "a size of its own": ("f4", (3, "<", None, None, None, 10**9, 4, 0)),
    "fields": ("f4", (3, "<", None, ("a",), {"a": 1}, -1, -1, 0)),
    "a subtype": ("f4", (3, "<", ("f8", (9,)), None, None, -1, -1, 0)),
    "a state that is short": ("f4", (3, "<")),
    "objects": ("O8", (3, "|", None, None, None, -1, -1, 63)),
    "records": ("V8", PLAIN_STATE),
}
CASES = {
    # Damaged.
    "empty.pth": (raw(b""), "damaged"),
    "empty.pkl": (raw(b""), "damaged"),
    "text.pth": (raw(b"<!DOCTYPE html>"), "damaged"),
    "text.pkl": (raw(b"version https://git-lfs"), "damaged"),
    "short.pth": (shorter, "damaged"),
    "signature.pth": (raw(b"PK\3\4"), "damaged"),
    "zeros.pth": (raw(bytes(1000)), "damaged"),
    # No dict of weights.
    "list.pth": (content([1]), "holds a list"),
    "number.pkl": (raw(pickle.dumps(5)), "holds a int"),
    "model of text.pth": (content({"model": "x"}), "has a str as its weights"),
    "model of none.pth": (content({"model": None}), "has a NoneType as its weights"),
    "name of number.pth": (content({"model": {3: torch.zeros(1)}}), "its name is no text"),
    "nested.pth": (content({"meta": {}, "state_dict": {}}), "of 'meta', the value is a dict"),
    "text as weight.pth": (saved(trunk__bias="x"), "of '0.trunk.bias', the value is a str"),
    "sparse.pth": (saved(trunk__bias=torch.zeros(5).to_sparse()), "sparse, quantized or nested"),
    "meta.pth": (saved(trunk__bias=torch.zeros(5, device="meta")), "has no content"),
    # Of other types, shapes and values.
    "int8.pth": (saved(trunk__bias=torch.zeros(5, dtype=torch.int8)), "bias is int8 in the file"),
    "bool.pth": (saved(trunk__bias=torch.zeros(5, dtype=torch.bool)), "is bool in the file and f"),
    "complex.pth": (saved(trunk__bias=torch.zeros(5) * 1j), "is complex64 in the file"),
    "int8.pkl": (in_pickle(lambda x: x.array(data=b"\0" * 5, name="i1")), "is int8 in the file"),
    "nan.pth": (saved(trunk__bias=NAN), "infinite or NaN: 0.trunk.bias"),
    "inf.pth": (saved(trunk__bias=NAN.nan_to_num(torch.inf)), "infinite or NaN: 0.trunk.bias"),
    "half nan.pth": (saved(trunk__bias=NAN.bfloat16()), "infinite or NaN: 0.trunk.bias"),
    "classes.pth": (
        saved(class_logits__weight=torch.zeros(7, 5), class_logits__bias=torch.zeros(7)),
        r"class_logits.weight is \(7, 5\) in the file and \(3, 5\) in the model "
        r"\(set by MODEL.SparseRCNN.NUM_CLASSES\)",
    ),
    "part.pth": (saved(trunk__bias=None), "the file lacks 0.trunk.bias"),
    # Sizes that are not due.
    "bomb.pth": (bomb, "would unpack to 67,1.* from"),
    "long.pth": (long_pickle, "its data.pkl.* has 67,108,865 bytes"),
    "huge bytes.pkl": (in_pickle(lambda x: x.code(b"\x8e", struct.pack("<Q", 2**45))), "damaged"),
    "huge bytearray.pkl": (
        in_pickle(lambda x: x.code(b"\x96", struct.pack("<Q", 2**36))),
        "damaged",
    ),
    "huge memo.pkl": (in_pickle(lambda x: x.code(b"r", struct.pack("<I", 2**32 - 2))), "damaged"),
    "bytes of a number.pkl": (
        in_pickle(lambda x: x.name("builtins", "bytes").plain((2**36,)).code(REDUCE)),
        "builtins.bytes of a number",
    ),
    # Arrays that are not what they say.
    "more numbers than data.pkl": (in_pickle(lambda x: x.array(shape=(2**40,))), "does not fit"),
    "numbers that overflow.pkl": (
        in_pickle(lambda x: x.array(shape=(2**32, 2**32), data=b"")),
        "does not fit",
    ),
    "negative.pkl": (in_pickle(lambda x: x.array(shape=(-1, -5))), "does not fit"),
    "objects as numbers.pkl": (in_pickle(lambda x: x.array(data=[1])), "than numbers"),
    "array of six.pkl": (in_pickle(lambda x: x.array(more=(1,))), "not that of an array"),
    **{
        f"{case}{ending}": (
            write(lambda x, name=name, state=state: x.array(name=name, state=state)),
            "type has a changed state|of another type than bool",
        )
        for case, (name, state) in CHANGED_STATES.items()
        for ending, write in ((".pkl", in_pickle), (".pth", in_archive))
    },
    **{
        f"{module}.{name}.pkl": (in_pickle(lambda x, m=module, n=name: x.name(m, n)), f"{name}'")
        for module, name in (
            ("builtins", "list"),  # from bytes, eight times their size
            ("builtins", "str"),  # of nested references, any size
            ("numpy", "load"),
            ("numpy.core.multiarray", "fromstring"),
            ("torch", "load"),
            ("functools", "partial"),
            ("copyreg", "_reconstructor"),
        )
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_checkpoint_is_refused_in_one_line(case, tmp_path):
    write, expected = CASES[case]
    path = tmp_path / case
    write(path)
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=expected) as error:
        load_for_inference(model, str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    if "does not fit" not in str(error.value):
        assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


@pytest.mark.parametrize("case", [x for x in CASES if "damaged" in CASES[x][1]])
def test_its_metadata_is_not_read_either(case, tmp_path):
    path = tmp_path / case
    CASES[case][0](path)
    with pytest.raises(CheckpointError, match="damaged"):
        read_metadata(str(path))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("write", [in_pickle, in_archive])
def test_honest_arrays_are_read(write, kind, order, tmp_path):
    values = np.arange(5, dtype=f"{order}{kind}")
    state = (3, order, *PLAIN_STATE[2:])
    path = tmp_path / f"a.{'pkl' if write is in_pickle else 'pth'}"
    write(lambda x: x.array(data=values.tobytes(), name=kind, state=state))(path)
    model = nn.ModuleDict({"0": nn.ModuleDict({"trunk": nn.Linear(4, 5)})})
    with pytest.raises(CheckpointError, match="lacks 0.trunk.weight"):
        load_for_inference(model, str(path))
    assert model["0"]["trunk"].bias.tolist() == [0, 1, 2, 3, 4]


def test_arrays_of_this_numpy_in_every_layout_are_read(tmp_path):
    array = np.arange(20, dtype="float32").reshape(5, 4)
    for protocol in (2, 3, 4, 5):
        for given in (array, np.asfortranarray(array), array[::-1]):
            path = tmp_path / "a.pkl"
            path.write_bytes(pickle.dumps({"0.trunk.weight": given}, protocol=protocol))
            model = nn.ModuleDict({"0": nn.ModuleDict({"trunk": nn.Linear(4, 5, bias=False)})})
            load_for_inference(model, str(path))
            assert np.array_equal(model["0"]["trunk"].weight.detach().numpy(), given)
