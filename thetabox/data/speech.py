"""``speech``: yes, no, other words and background noise, from Google's Speech Commands, speakers kept apart."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import wave
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int16

from thetabox.data.arrays import from_arrays
from thetabox.data.dataset import SPLITS, Dataset
from thetabox.data.files import download, first_file, missing, processed, search_folders
from thetabox.data.task import Task
from thetabox.errors import InputError

CLASSES = ("yes", "no", "_unknown_", "_silence_")
SOURCE = "https://storage.googleapis.com/download.tensorflow.org/data/"
ARCHIVE = "speech_commands_test_set_v0.02.tar.gz"
SHA256 = {ARCHIVE: "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df"}
FOLDERS = ("speech-commands", "speech_commands_test_set_v0.02", "speech_commands", "speech")

RATE, LENGTH = 16000, 16000
COEFFICIENTS, FRAME_MS, SHIFT_MS = 40, 40.0, 20.0
STEPS = 49
# Shares of the speakers; a speaker's place follows from a hash of the name alone.
TEST, VALIDATION = 0.32, 0.10
# Renderings of every training clip, the original among them: 960 clips are few.
COPIES = 6


def split_of(group: str) -> str:
    """The split that a speaker belongs to."""
    share = int(hashlib.sha256(f"speech:{group}".encode()).hexdigest()[:12], 16) / 16**12
    return "test" if share < TEST else "validation" if share < TEST + VALIDATION else "train"


def group_of(label: str, name: str) -> str:
    """Speaker of a clip by its file name: ``SPEAKER_nohash_N.wav``, ``WORD_SPEAKER_nohash_N.wav.wav``.

    Background noise has no speaker: each clip is a group of its own.
    """
    if label == "_silence_":
        return f"noise {name.split('.')[0]}"
    return name.split("_nohash_")[0].split("_")[-1]


def read_wav(content: bytes, name: str) -> Int16[np.ndarray, " samples"]:
    """One clip, 16-bit mono at 16 kHz, cut or padded with silence to a second.

    Raises:
        InputError: not such a file.
    """
    try:
        with wave.open(io.BytesIO(content)) as clip:
            form = (clip.getnchannels(), clip.getsampwidth(), clip.getframerate())
            frames = clip.readframes(clip.getnframes())
    except (wave.Error, EOFError) as error:
        raise InputError(f"{name} is not a WAV file ({error})") from error
    if form != (1, 2, RATE):
        raise InputError(
            f"{name} must be mono, 16 bit, {RATE} Hz; it has {form[0]} channels, {form[1]} bytes, {form[2]} Hz"
        )
    samples = np.frombuffer(frames[: len(frames) // 2 * 2], dtype="<i2")[:LENGTH]
    return np.pad(samples, (0, LENGTH - len(samples)))


def variant(clip: Int16[np.ndarray, " samples"], key: str) -> Int16[np.ndarray, " samples"]:
    """Another rendering of a training clip: speed 0.85 to 1.15, shift up to ±100 ms, both fixed by ``key``."""
    digest = hashlib.sha256(key.encode()).digest()
    speed = 0.85 + 0.3 * int.from_bytes(digest[:4], "big") / 2**32
    shift = 0.1 * RATE * (2 * int.from_bytes(digest[4:8], "big") / 2**32 - 1)
    middle = LENGTH / 2
    position = (np.arange(LENGTH) - middle) * speed + middle + shift
    return np.interp(position, np.arange(LENGTH), clip, left=0, right=0).round().astype(np.int16)


def mfcc(clip: Int16[np.ndarray, " samples"]) -> Float32[np.ndarray, "steps 40"]:
    """40 mel-frequency cepstral coefficients of frames of 40 ms, every 20 ms (Kaldi's definition, without dither).

    Raises:
        InputError: the package kaldi-native-fbank is not installed.
    """
    try:
        import kaldi_native_fbank as kaldi
    except ImportError as error:
        raise InputError("task speech needs kaldi-native-fbank: pip install 'thetabox[audio]'") from error
    options = kaldi.MfccOptions()
    options.frame_opts.samp_freq = RATE
    options.frame_opts.dither = 0.0
    options.frame_opts.frame_length_ms = FRAME_MS
    options.frame_opts.frame_shift_ms = SHIFT_MS
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = COEFFICIENTS
    options.num_ceps = COEFFICIENTS
    options.use_energy = False
    options.cepstral_lifter = 0.0
    computer = kaldi.OnlineMfcc(options)
    computer.accept_waveform(RATE, clip.astype(np.float32))
    computer.input_finished()
    return np.stack([computer.get_frame(index) for index in range(computer.num_frames_ready)])


def _sources(data_dir: Path | None) -> list[Path]:
    """One tar a class, else the official archive of all, else a folder of WAV files a class, else the download."""
    folders = search_folders(data_dir, FOLDERS)
    tars = [first_file(folders, [f"{label}.tar{end}" for end in (".xz", ".gz", "")]) for label in CLASSES]
    if all(tars):
        return [path for path in tars if path is not None]
    archive = first_file(folders, [ARCHIVE])
    if archive is not None:
        return [archive]
    for folder in folders:
        if all((folder / label).is_dir() for label in CLASSES):
            return sorted(path for label in CLASSES for path in (folder / label).glob("*.wav"))
    if data_dir is not None:
        raise missing(TASK.name, data_dir, f"{', '.join(CLASSES)} (.tar.xz or folders of WAV files) or {ARCHIVE}")
    return [download(TASK.name, SOURCE, SHA256)[ARCHIVE]]


def _clips(sources: list[Path]) -> Iterator[tuple[str, str, bytes]]:
    """Class, file name and content of every clip."""
    for source in sources:
        if source.suffix == ".wav":
            yield source.parent.name, source.name, source.read_bytes()
            continue
        try:
            with tarfile.open(source) as archive:
                for member in archive:
                    place = Path(member.name)
                    content = archive.extractfile(member) if member.isfile() and place.suffix == ".wav" else None
                    if content is not None and place.parent.name in CLASSES:
                        yield place.parent.name, place.name, content.read()
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
            raise InputError(f"{source} is damaged ({error})") from error


def _make(sources: list[Path]) -> dict[str, np.ndarray]:
    clips = sorted(_clips(sources), key=lambda clip: (CLASSES.index(clip[0]), clip[1]))
    if {label for label, _, _ in clips} != set(CLASSES):
        raise InputError(f"{sources[0].parent} holds no clips of some of the classes {', '.join(CLASSES)}")
    features: list[Float32[np.ndarray, "steps 40"]] = []
    labels, groups, splits = [], [], []
    for label, name, content in clips:
        clip, group = read_wav(content, f"{label}/{name}"), group_of(label, name)
        split = split_of(group)
        copies = COPIES if split == "train" else 1
        features.append(mfcc(clip))
        features += [mfcc(variant(clip, f"{label}/{name} {number}")) for number in range(1, copies)]
        labels += [CLASSES.index(label)] * copies
        groups += [group] * copies
        splits += [SPLITS.index(split)] * copies
    x, chosen = np.stack(features), np.asarray(splits) == SPLITS.index("train")
    if not chosen.any():
        raise InputError(f"{sources[0].parent} holds no clip of a training speaker")
    mean, deviation = (
        np.asarray(part) for part in (x[chosen].mean((0, 1), np.float64), x[chosen].std((0, 1), np.float64))
    )
    return {
        "x": ((x - mean) / deviation).astype(np.float32),
        "y": np.asarray(labels, dtype=np.int64),
        "groups": np.asarray(groups),
        "split": np.asarray(splits),
    }


def read(split: str, data_dir: Path | None = None) -> Dataset:
    """Clips as coefficients ``[N, 49, 40]``; the speaker is the group."""
    sources = _sources(data_dir)
    recipe = f"speech 1 {RATE} {LENGTH} {COEFFICIENTS} {FRAME_MS} {SHIFT_MS} {TEST} {VALIDATION} {COPIES}"
    arrays = processed(TASK.name, recipe, sources, lambda: _make(sources))
    chosen = arrays["split"] == SPLITS.index(split)
    return from_arrays(
        arrays["x"][chosen],
        arrays["y"][chosen],
        name=TASK.name,
        split=split,
        classes=list(TASK.classes),
        groups=arrays["groups"][chosen].tolist(),
    )


TASK = Task(
    name="speech",
    title="Speech Commands: yes, no, other words, noise",
    shape=(STEPS, COEFFICIENTS),
    classes=("yes", "no", "unknown", "silence"),
    licence="CC BY 4.0",
    source="https://arxiv.org/abs/1804.03209",
    citation="Warden: Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, arXiv 1804.03209, 2018",
    description="Four classes of the official test set v0.02, divided anew by speaker (about 58 / 10 / 32 %), so that "
    "accuracies do not compare with published ones. 40 MFCC of 40 ms frames every 20 ms, normalised by mean and "
    "standard deviation of the training split; a training clip comes in six renderings (speed ±15 %, shift ±100 ms).",
    embedded=False,
    read=read,
)
