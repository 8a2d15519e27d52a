"""Recordings as log-mel frames."""

import importlib.util
import shutil
import zipfile

import numpy as np
import pytest
from scipy.io import wavfile

from mdx.data import log_mel
from mdx.data import pipeline
from mdx.data import prepare
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.sources import speech

_RATE = 8000


def _tone(seconds=0.2, hertz=440.0, rate=_RATE):
  return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def _write(path, wave, rate=_RATE, dtype=np.int16):
  path.parent.mkdir(parents=True, exist_ok=True)
  wavfile.write(path, rate, wave.astype(np.float32) if dtype == np.float32 else
                np.rint(wave * 32767).astype(dtype))


def _source(path, **fields):
  return speech.Speech(path=str(path), **dict(holdout_every=0, num_mels=8) | fields)


def test_log_mel_equals_that_of_transformers():
  audio = pytest.importorskip("transformers.audio_utils")
  draw = np.random.default_rng(0)
  wave = (_tone(0.3) + 0.1 * draw.normal(size=int(0.3 * _RATE))).astype(np.float32)
  filters = audio.mel_filter_bank(129, 20, 0.0, _RATE / 2, _RATE, mel_scale="htk")
  np.testing.assert_allclose(log_mel.mel_filters(20, 129, _RATE), filters, atol=1e-9)
  wanted = audio.spectrogram(wave, audio.window_function(200, "hann"), 200, 80, fft_length=256,
                             power=2.0, center=False, mel_filters=filters, mel_floor=1e-10,
                             log_mel="log")
  found = log_mel.log_mel(wave, _RATE, num_mels=20)
  assert found.shape == (1 + (len(wave) - 200) // 80, 20)
  np.testing.assert_allclose(found, wanted.T, atol=2e-4)


def test_a_tone_is_loudest_in_the_channel_of_its_frequency():
  peaks = [log_mel.log_mel(_tone(hertz=f), _RATE, num_mels=20).mean(axis=0).argmax()
           for f in (300, 1000, 3000)]
  filters = log_mel.mel_filters(20, 129, _RATE)
  assert peaks == [filters[round(f / (_RATE / 256))].argmax() for f in (300, 1000, 3000)]


def test_labels_come_from_names_folders_and_tables_and_a_zip_reads_alike(tmp_path):
  for name in ("b_1", "a_1", "a_2"):
    _write(tmp_path / "wavs" / f"{name}.wav", _tone())
  records = _source(tmp_path / "wavs", labels="name", words=("one", "two")).records("train")
  assert [(one["label"], one["text"]) for one in records] == [(0, "one"), (0, "one"), (1, "two")]
  assert _source(tmp_path, labels="folder").records("train")[0]["text"] == "wavs"
  (tmp_path / "t.tsv").write_text("a_1.wav\thi\na_2.wav\tho\nb_1.wav\the\n")
  table = _source(tmp_path / "wavs", labels=str(tmp_path / "t.tsv")).records("train")
  assert [one["text"] for one in table] == ["hi", "ho", "he"]
  with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
    for path in sorted((tmp_path / "wavs").iterdir()):
      file.write(path, path.name)
  zipped = _source(tmp_path / "all.zip", labels="name").records("train")
  np.testing.assert_array_equal(zipped[2]["x"], records[2]["x"])
  assert abs(zipped[0]["x"].mean()) < 1e-5


def test_kinds_of_samples_agree(tmp_path):
  _write(tmp_path / "a.wav", _tone())
  _write(tmp_path / "b.wav", _tone(), dtype=np.float32)
  _write(tmp_path / "c.wav", np.stack([_tone()] * 2, 1))
  waves = [speech.read_audio(p.read_bytes(), p.name)[0] for p in sorted(tmp_path.iterdir())]
  assert len(waves) == 3
  for wave in waves:
    np.testing.assert_allclose(wave, _tone(), atol=1e-4)


@pytest.mark.skipif(not importlib.util.find_spec("soundfile"), reason="needs the extra audio")
def test_flac_reads_like_wav(tmp_path):
  import soundfile
  soundfile.write(tmp_path / "a.flac", _tone(), _RATE)
  wave, rate = speech.read_audio((tmp_path / "a.flac").read_bytes(), "a.flac")
  assert rate == _RATE
  np.testing.assert_allclose(wave, _tone(), atol=1e-4)


@pytest.mark.skipif(bool(importlib.util.find_spec("soundfile")), reason="has the extra audio")
def test_flac_without_its_library_names_the_extra():
  with pytest.raises(ValueError, match="install the extra audio"):
    speech.read_audio(b"fLaC", "a.flac")


@pytest.mark.parametrize("wave, rate, message", [
    (_tone(rate=16000), 16000, "16000 samples a second, but .* says 8000; resample"),
    (np.zeros(2000), _RATE, "an empty recording; leave it out"),
    (np.ones(2000), _RATE, "100.0% of the samples are clipped, .* raise it"),
    (_tone(0.01), _RATE, "80 samples, less than a window of 200")])
def test_bad_recordings_are_one_line_with_the_file(wave, rate, message, tmp_path):
  _write(tmp_path / "a.wav", _tone())
  _write(tmp_path / "b.wav", wave, rate)
  records = _source(tmp_path).records("train")
  assert records[0]["x"].shape[1] == 8
  with pytest.raises(ValueError, match=f"b.wav: {message}") as error:
    records[1]  # pylint: disable=pointless-statement
  assert "\n" not in str(error.value)


def test_bad_labels_and_files_are_one_line(tmp_path):
  _write(tmp_path / "a_1.wav", _tone())
  with pytest.raises(ValueError, match="words has 2 transcripts for the 1 labels a"):
    _source(tmp_path, labels="name", words=("x", "y")).records("train")
  (tmp_path / "t.tsv").write_text("b.wav\thi\n")
  with pytest.raises(ValueError, match="no transcript of a_1.wav"):
    _source(tmp_path, labels=str(tmp_path / "t.tsv")).records("train")
  (tmp_path / "same.tsv").write_text("a_1.wav\thi\nother/a_1.wav\tho\n")
  with pytest.raises(ValueError, match="line 2: a_1.wav has another transcript above"):
    _source(tmp_path, labels=str(tmp_path / "same.tsv")).records("train")
  folder = tmp_path / "wavs" / "more"
  folder.mkdir(parents=True)
  for path in (folder, folder.parent):
    _write(path / "b.wav", _tone())
  with pytest.raises(ValueError, match="b.wav names recordings in two folders"):
    _source(folder.parent, labels=str(tmp_path / "t.tsv")).records("train")
  shutil.rmtree(folder.parent)
  with pytest.raises(ValueError, match="labels is 'what'; choose name"):
    _source(tmp_path, labels="what")
  with pytest.raises(ValueError, match="not a "):
    speech.read_audio(b"RIFF", "a.wav")
  cfg = dict(length=40, channels=8, packing="pad", transcript_length=4,
             source=dict(name="speech", path=str(tmp_path), labels="name", num_mels=8,
                         words=("ab1",), holdout_every=0))
  with pytest.raises(ValueError, match="character '1' .* is not in the alphabet"):
    pipeline.check(cfg, tokenizer_lib.build("char", ["abc"]))


def test_prepared_arrays_are_the_recordings_in_eighths(tmp_path):
  for name in ("a_1", "b_1"):
    _write(tmp_path / f"{name}.wav", _tone())
  prepare.main(["speech", f"--input={tmp_path}", "--labels=name", "--num_mels=8", "--words=x yz",
                f"--output={tmp_path / 'out.npz'}"])
  cfg = dict(length=20, channels=8, packing="pad", layout="speech", transcript_length=3,
             source=dict(name="arrays", path=str(tmp_path / "out.npz"), holdout_every=0))
  batch = next(iter(pipeline.build(cfg, tokenizer_lib.build("byte"), split="train", batch_size=2,
                                   seed=0, shuffle=False)))
  wanted = _source(tmp_path).records("train")[0]["x"]
  np.testing.assert_allclose(batch["frames"][0, :len(wanted)], wanted, atol=1 / 16 + 1e-6)
  assert batch["label"].tolist() == [0, 1]
  pad = tokenizer_lib.build("byte").pad_id
  assert batch["transcript"].tolist() == [[ord("x"), pad, pad], [ord("y"), ord("z"), pad]]
  assert batch["frame_mask"].sum() == 2 * len(wanted) and (batch["frame_labels"] == -1).all()
  prepare.main(["frame_clusters", f"--input={tmp_path / 'out.npz'}", "--num_clusters=3", "--span=2",
                "--holdout_every=0", f"--output={tmp_path / 'c.npy'}"])
  assert np.load(tmp_path / "c.npy").shape == (3, 16)
