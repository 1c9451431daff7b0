"""The reader of MIT-BIH records, on records built byte by byte from the format's description."""

import lzma
import struct

import numpy as np
import pytest

from thetabox.data.mitbih import decode_212, decode_annotations, read_record, record_files
from thetabox.errors import InputError


def encode_212(samples: np.ndarray) -> bytes:
    pairs = (samples.T.reshape(-1, 2) & 0xFFF).tolist()
    return b"".join(bytes([a & 0xFF, a >> 8 | b >> 8 << 4, b & 0xFF]) for a, b in pairs)


def word(code: int, interval: int) -> bytes:
    return struct.pack("<H", code << 10 | interval)


def write_record(folder, name, samples, annotations, *, packed=False):
    """A record of two leads: gain 200 a millivolt, zero at 1024."""
    sums = [(int(total) + 0x8000) % 0x10000 - 0x8000 for total in samples.sum(1)]
    lines = [f"{name} 2 360 {samples.shape[1]}"]
    lines += [
        f"{name}.dat 212 200 11 1024 {lead[0]} {total} 0 {label}"
        for lead, total, label in zip(samples, sums, ("MLII", "V1"), strict=True)
    ]
    (folder / f"{name}.hea").write_text("\n".join([*lines, "# a comment", ""]))
    content = encode_212(samples)
    if packed:
        (folder / f"{name}.dat.xz").write_bytes(lzma.compress(content))
    else:
        (folder / f"{name}.dat").write_bytes(content)
    (folder / f"{name}.atr").write_bytes(annotations)


@pytest.fixture
def samples():
    return np.random.default_rng(0).integers(-2048, 2048, (2, 50))


ANNOTATIONS = (
    word(28, 18) + word(63, 3) + b"(N\x00\x00"  # a rhythm change at 18, its text padded to an even length
    + word(1, 59) + word(59, 0) + struct.pack("<HH", 1, 2) + word(5, 0)  # N at 77; V 65,538 samples later
    + word(62, 1) + word(8, 1023) + word(0, 0) + word(1, 5)
)  # an annotation a line  # fmt: skip


def test_format_212_by_hand():
    # 0x7FF and −1; −2048 and 1: low byte, high nibbles (second, first), low byte.
    content = bytes([0xFF, 0xF7, 0xFF, 0x00, 0x08, 0x01])
    assert decode_212(content, 2).tolist() == [[2047, -2048], [-1, 1]]


def test_format_212_inverts_its_encoding(samples):
    assert (decode_212(encode_212(samples), 2) == samples).all()


def test_annotations_by_hand():
    times, symbols = decode_annotations(ANNOTATIONS)
    assert times.tolist() == [18, 77, 77 + 65538, 77 + 65538 + 1023]
    assert symbols == ("+", "N", "V", "A")


@pytest.mark.parametrize("packed", [False, True])
def test_a_record(tmp_path, samples, packed):
    (tmp_path / "mitdb").mkdir()
    write_record(tmp_path / "mitdb", "100", samples, ANNOTATIONS, packed=packed)
    record = read_record(*record_files("ecg", ["100"], tmp_path)["100"])
    assert (record.name, record.rate, record.leads) == ("100", 360.0, ("MLII", "V1"))
    np.testing.assert_array_equal(record.signal, (samples - 1024) / 200)
    assert record.symbol == ("+", "N", "V", "A")


def test_damaged_records(tmp_path, samples):
    write_record(tmp_path, "100", samples, ANNOTATIONS)
    paths = record_files("ecg", ["100"], tmp_path)["100"]
    header, data, annotations = paths
    good = {path: path.read_bytes() for path in paths}

    def fails(path, content, message):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_record(*paths)
        assert "\n" not in str(caught.value)
        path.write_bytes(good[path])

    fails(data, good[data][:-3], "truncated")
    fails(data, good[data][:-1], "damaged")
    fails(data, bytes([good[data][0] ^ 1]) + good[data][1:], "checksum")
    fails(header, b"", "damaged")
    fails(header, good[header][:20], "damaged")
    fails(header, good[header].replace(b" 212 ", b" 16 "), "format 16")
    fails(annotations, word(59, 0), "damaged")
    read_record(*paths)


def test_missing_records(tmp_path, samples):
    write_record(tmp_path, "100", samples, ANNOTATIONS)
    with pytest.raises(InputError, match="record 101"):
        record_files("ecg", ["100", "101"], tmp_path)


@pytest.mark.long
def test_the_real_records_hold_the_published_number_of_beats(shared_data):
    found = record_files("ecg", ["100", "208"], shared_data)
    record = read_record(*found["100"])
    # Record 100 of the database's directory: 2239 normal beats, 33 atrial and 1 ventricular premature.
    assert [record.symbol.count(letter) for letter in "NAV"] == [2239, 33, 1]
    assert record.signal.shape == (2, 650000)
    assert read_record(*found["208"]).symbol.count("F") == 373
