"""The task speech: clips, speakers and files on made-up recordings, the real set where it is at hand."""

import io
import lzma
import tarfile
import wave

import numpy as np
import pytest

from thetabox.data import load, speech
from thetabox.errors import InputError

NO_FBANK = "kaldi_native_fbank is not installed: pip install '.[audio]'"


def _wav(seed: int, *, rate: int = 16000, channels: int = 1, length: int = 16000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as clip:
        clip.setnchannels(channels)
        clip.setsampwidth(2)
        clip.setframerate(rate)
        noise = np.random.default_rng(seed).normal(0, 1000, length * channels)
        clip.writeframes(noise.astype("<i2").tobytes())
    return buffer.getvalue()


def _clips() -> dict[str, dict[str, bytes]]:
    """Sixteen clips of eight speakers a class."""
    made: dict[str, dict[str, bytes]] = {}
    for place, label in enumerate(speech.CLASSES):
        made[label] = {}
        for number in range(16):
            speaker = f"{number // 2:08x}"
            names = {
                "_silence_": f"{number}.wav",
                "_unknown_": f"cat_{speaker}_nohash_{number}.wav.wav",
            }
            made[label][names.get(label, f"{speaker}_nohash_{number}.wav")] = _wav(100 * place + number)
    return made


def _tar(path, clips: dict[str, bytes], mode: str, prefix: str = "") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in clips.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _write(folder, form: str) -> None:
    folder.mkdir(parents=True)
    clips = _clips()
    if form == "tar a class":
        for label, content in clips.items():
            _tar(folder / f"{label}.tar.xz", content, "w:xz", f"{label}/")
    elif form == "official":
        every = {f"./{label}/{name}": wav for label, content in clips.items() for name, wav in content.items()}
        every |= {"./up/00000001_nohash_0.wav": _wav(1), "./README.md": b"text"}
        _tar(folder / speech.ARCHIVE, every, "w:gz")
    else:
        for label, content in clips.items():
            (folder / label).mkdir()
            for name, wav in content.items():
                (folder / label / name).write_bytes(wav)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THETABOX_CACHE", str(tmp_path / "cache"))


def test_speakers():
    assert speech.group_of("yes", "022cd682_nohash_0.wav") == "022cd682"
    assert speech.group_of("_unknown_", "backward_0c540988_nohash_0.wav.wav") == "0c540988"
    assert speech.group_of("_silence_", "1024.wav") == "noise 1024"
    assert speech.split_of("022cd682") == speech.split_of("022cd682")
    shares = [[speech.split_of(str(n)) for n in range(4000)].count(split) / 4000 for split in ("test", "validation")]
    assert shares == pytest.approx([speech.TEST, speech.VALIDATION], abs=0.02)


def test_wav():
    assert len(speech.read_wav(_wav(0, length=15000), "a")) == 16000
    assert not speech.read_wav(_wav(0, length=15000), "a")[15000:].any()
    with pytest.raises(InputError, match="must be mono"):
        speech.read_wav(_wav(0, rate=8000), "a")
    with pytest.raises(InputError, match="must be mono"):
        speech.read_wav(_wav(0, channels=2), "a")
    with pytest.raises(InputError, match="a is not a WAV file"):
        speech.read_wav(b"nothing", "a")


def test_variants_are_fixed_and_different():
    clip = speech.read_wav(_wav(3), "a")
    one, two = speech.variant(clip, "1"), speech.variant(clip, "2")
    assert one.dtype == np.int16
    assert (one == speech.variant(clip, "1")).all()
    assert (one != two).any()


def test_mfcc_of_a_louder_clip_differs_in_the_first_coefficient_only():
    pytest.importorskip("kaldi_native_fbank", reason=NO_FBANK)  # the audio extra may be absent
    clip = speech.read_wav(_wav(3), "a")
    features = speech.mfcc(clip)
    assert features.shape == speech.TASK.shape
    change = speech.mfcc(4 * clip) - features
    # Energies are 16 times as large: c0 of an orthonormal cosine transform of 40 logarithms grows by √40·ln 16.
    np.testing.assert_allclose(change[:, 0], np.sqrt(40) * np.log(16), rtol=1e-3)
    np.testing.assert_allclose(change[:, 1:], 0, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tar a class", "official", "folders"])
def test_forms_of_the_files(tmp_path, form, monkeypatch):
    monkeypatch.setattr(speech, "COPIES", 2)
    pytest.importorskip("kaldi_native_fbank", reason=NO_FBANK)  # the audio extra may be absent
    _write(tmp_path / "data" / "speech-commands", form)
    parts = {split: load("speech", split, tmp_path / "data") for split in ("train", "validation", "test")}
    groups = [set(part.groups) for part in parts.values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert len(parts["train"]) / 2 + len(parts["validation"]) + len(parts["test"]) == 64
    assert parts["train"].x.mean((0, 1)).abs().max() < 1e-4


def test_bad_files(tmp_path):
    folder = tmp_path / "data" / "speech-commands"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match="does not hold the files of task speech"):
        load("speech", "test", tmp_path / "data")
    for label in speech.CLASSES:
        (folder / f"{label}.tar.xz").write_bytes(lzma.compress(b"no tar"))
    with pytest.raises(InputError, match="is damaged"):
        load("speech", "test", tmp_path / "data")
    for label in speech.CLASSES:
        (folder / f"{label}.tar.xz").unlink()
        _tar(folder / f"{label}.tar.xz", {}, "w:xz")
    with pytest.raises(InputError, match="holds no clips of some of the classes"):
        load("speech", "test", tmp_path / "data")


@pytest.mark.long
def test_the_real_set(shared_data, monkeypatch):
    pytest.importorskip("kaldi_native_fbank", reason=NO_FBANK)  # the audio extra may be absent
    monkeypatch.setattr(speech, "COPIES", 1)
    parts = [load("speech", split, shared_data) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [962, 174, 504]
    assert not set(parts[0].groups) & set(parts[2].groups)
    assert parts[2].class_counts == [135, 115, 139, 115]
