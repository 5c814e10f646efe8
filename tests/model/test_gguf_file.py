"""The container of a .gguf: equal to the gguf package's reading; a damaged one is a sentence, never a hang."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from gguf_fixture import write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny

from midstream.errors import ModelError
from midstream.model.gguf_file import read_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", tiny("llama", intermediate_size=64), kind="Q8_0")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
def test_fields_and_values_equal_the_gguf_package(tmp_path, kind):
    path = write_gguf(tmp_path / "m.gguf", tiny("llama", intermediate_size=64), kind=kind)
    ours, theirs = read_gguf(path), GGUFReader(path)
    assert list(ours.fields) == [name for name in theirs.fields if not name.startswith("GGUF.")]
    for name, value in ours.fields.items():
        expected = theirs.fields[name].contents()
        assert list(value) == expected if isinstance(expected, list) else value == expected
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        values = ours.values(tensor.name)
        expected = dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type))
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_a_sentence(whole, tmp_path_factory, data):
    """Cut anywhere, or with bytes changed: either it still reads within its bounds, or ModelError."""
    content = bytearray(whole.read_bytes())
    header = 12000  # where counts, lengths and offsets are
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        at = data.draw(st.integers(0, header))
        patch = data.draw(st.sampled_from([b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f", struct.pack("<Q", 1 << 62)]))
        content[at : at + len(patch)] = patch
    path = tmp_path_factory.mktemp("damaged") / "m.gguf"
    path.write_bytes(content)
    said = str(path)
    try:
        file = read_gguf(path)
        for name in file.tensors:
            file.values(name)
    except ModelError as error:
        said = str(error)
    assert str(path) in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot read"),
        (b"GGUF", "truncated"),
        (b"PK\x03\x04" + b"\x00" * 64, "not 'GGUF'"),
        (b"GGUF" + struct.pack("<I", 1) + b"\x00" * 64, "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + b"\x00" * 64, "at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60) + b"\x00" * 64, "at most"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62) + b"\x00" * 64, "at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sI", 1, b"a", 77) + b"\x00" * 64, "unknown type 77"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sII", 1, b"a", 9, 9) + b"\x00" * 64,
            "array of type 9",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 4, 1 << 40) + b"\x00" * 8,
            "at most",
        ),
    ],
)
def test_stated_sizes_are_checked_before_memory_is_taken(tmp_path, content, said):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        read_gguf(path)


def test_tensors_that_lie_over_each_other_are_refused(tmp_path):
    """A small file whose thousand tensors all name the same bytes would ask for a thousand times its size."""
    names = [f"t{index}".encode() for index in range(50)]
    tensors = b"".join(struct.pack(f"<Q{len(n)}sIQIQ", len(n), n, 1, 256, 0, 0) for n in names)
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 50, 0) + tensors + b"\x00" * 2048)
    with pytest.raises(ModelError, match="overlap"):
        read_gguf(path)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(ModelError, match="cannot read"):
        read_gguf(tmp_path / "none.gguf")
