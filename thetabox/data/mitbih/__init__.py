"""Reader of MIT-BIH records: header, signal in format 212, annotations in MIT format.

The formats are those of the WFDB applications guide (PhysioNet): header(5), signal(5), annot(5). Only what the
MIT-BIH Arrhythmia Database uses is read; every signal is checked against the checksum in its header.
``SHA256SUMS.txt`` lists the files as PhysioNet distributes them (mitdb 1.0.0).
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from thetabox.data.files import download, first_file, missing, search_folders
from thetabox.errors import InputError

SOURCE = "https://physionet.org/files/mitdb/1.0.0/"
HOME = "https://physionet.org/content/mitdb/1.0.0/"
LICENCE = "ODC-BY 1.0 (PhysioNet)"
CITATION = (
    "Moody, Mark: The impact of the MIT-BIH Arrhythmia Database, IEEE Eng Med Biol 20(3):45-50, 2001; "
    "Goldberger et al.: PhysioBank, PhysioToolkit, and PhysioNet, Circulation 101(23):e215, 2000"
)
FOLDERS = ("ecg/mitdb", "mitdb", "mit-bih-arrhythmia-database-1.0.0", "physionet.org/files/mitdb/1.0.0", "ecg")

# Annotation codes of annot(5) that MIT-BIH uses, and the letters that WFDB prints for them.
SYMBOLS = {
    1: "N", 2: "L", 3: "R", 4: "a", 5: "V", 6: "F", 7: "J", 8: "A", 9: "S", 10: "E", 11: "j", 12: "/", 13: "Q",
    14: "~", 16: "|", 18: "s", 19: "T", 20: "*", 21: "D", 22: '"', 23: "=", 24: "p", 25: "B", 26: "^", 27: "t",
    28: "+", 29: "u", 30: "?", 31: "!", 32: "[", 33: "]", 34: "e", 35: "n", 36: "@", 37: "x", 38: "f", 39: "(",
    40: ")", 41: "r",
}  # a table  # fmt: skip
_SKIP, _AUX, _LONGEST_BEAT_CODE = 59, 63, 49


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        name: its number, such as ``"100"``.
        rate: samples a second.
        leads: name of each lead, such as ``"MLII"``.
        signal: in millivolt, ``[leads, samples]``.
        sample: sample number of every annotation.
        symbol: letter of every annotation, such as ``"N"``.
    """

    name: str
    rate: float
    leads: tuple[str, ...]
    signal: Float[np.ndarray, "leads samples"]
    sample: Int64[np.ndarray, " annotations"]
    symbol: tuple[str, ...]


def decode_212(content: bytes, leads: int) -> Int64[np.ndarray, "leads samples"]:
    """Format 212: three bytes hold two 12-bit two's complement samples, low byte, both high nibbles, low byte."""
    triples = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3).astype(np.int64)
    first = triples[:, 0] | (triples[:, 1] & 0x0F) << 8
    second = triples[:, 2] | (triples[:, 1] & 0xF0) << 4
    samples = np.stack([first, second], axis=1).reshape(-1)
    samples -= (samples & 0x800) << 1
    return samples.reshape(-1, leads).T


def decode_annotations(content: bytes) -> tuple[Int64[np.ndarray, " annotations"], tuple[str, ...]]:
    """MIT annotation format: little-endian words, type in the upper 6 bits, time since the last one in the lower 10."""
    words = np.frombuffer(content[: len(content) // 2 * 2], dtype="<u2").tolist()
    time, position = 0, 0
    samples, symbols = [], []
    while position < len(words):
        code, interval = words[position] >> 10, words[position] & 0x3FF
        position += 1
        if code == 0 and interval == 0:
            break
        if code == _SKIP:
            # A long interval: 32 bits, the upper word first.
            long = words[position] << 16 | words[position + 1]
            time += long - (long >> 31 << 32)
            position += 2
        elif code == _AUX:
            position += (interval + 1) // 2
        elif code <= _LONGEST_BEAT_CODE:
            time += interval
            samples.append(time)
            symbols.append(SYMBOLS.get(code, "?"))
    return np.asarray(samples, dtype=np.int64), tuple(symbols)


def read_record(header: Path, data: Path, annotations: Path) -> Record:
    """Reads one record from its ``.hea``, ``.dat`` (or ``.dat.xz``) and ``.atr`` files.

    Raises:
        InputError: a file is damaged, or of a format that MIT-BIH does not use.
    """
    try:
        lines = [line for line in header.read_text("ascii").splitlines() if line and not line.startswith("#")]
        name, leads, rate, length = lines[0].split()[:4]
        specification = [line.split() for line in lines[1 : 1 + int(leads)]]
        formats = {fields[1] for fields in specification}
        gain = np.asarray([float(fields[2].split("(")[0].split("/")[0]) for fields in specification])
        zero = np.asarray([int(fields[4]) for fields in specification])
        checksum = [int(fields[6]) for fields in specification]
        names = tuple(fields[8] for fields in specification)
        if formats != {"212"}:
            raise InputError(f"{header} describes signals of format {', '.join(sorted(formats))}; only 212 is read")
        content = lzma.decompress(data.read_bytes()) if data.suffix == ".xz" else data.read_bytes()
        digital = decode_212(content, int(leads))
        sample, symbol = decode_annotations(annotations.read_bytes())
    except InputError:
        raise
    except (ValueError, IndexError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"record {header.stem} in {header.parent} is damaged ({error})") from error
    if digital.shape[1] != int(length):
        raise InputError(f"{data} is truncated: {digital.shape[1]} samples of {length}")
    if [(total + 0x8000) % 0x10000 - 0x8000 for total in digital.sum(1).tolist()] != checksum:
        raise InputError(f"{data} is damaged: its checksum is not the one in {header.name}")
    signal = (digital - zero[:, None]) / gain[:, None]
    return Record(name, float(rate.split("/")[0]), names, signal, sample, symbol)


@cache
def _sha256() -> dict[str, str]:
    lines = (files(__package__) / "SHA256SUMS.txt").read_text("ascii").split("\n")
    return {name: digest for digest, name in (line.split() for line in lines if line)}


def all_records() -> list[str]:
    """The numbers of the 48 records, in order."""
    return sorted({name.partition(".")[0] for name in _sha256()})


def record_files(task: str, records: Sequence[str], data_dir: Path | None) -> dict[str, tuple[Path, Path, Path]]:
    """Header, signal and annotation file of each record, from a folder or downloaded from PhysioNet."""
    folders = search_folders(data_dir, FOLDERS)
    paths: dict[str, tuple[Path, Path, Path]] = {}
    for record in records:
        header = first_file(folders, [f"{record}.hea"])
        data = first_file(folders, [f"{record}.dat", f"{record}.dat.xz"])
        annotations = first_file(folders, [f"{record}.atr"])
        if header is None or data is None or annotations is None:
            if data_dir is not None:
                raise missing(task, data_dir, f"record {record} (.hea, .dat or .dat.xz, .atr)")
            paths.clear()
            break
        paths[record] = (header, data, annotations)
    if not paths:
        names = [f"{record}{suffix}" for record in records for suffix in (".hea", ".dat", ".atr")]
        fetched = download(task, SOURCE, {name: _sha256()[name] for name in names})
        paths = {r: (fetched[f"{r}.hea"], fetched[f"{r}.dat"], fetched[f"{r}.atr"]) for r in records}
    return paths
