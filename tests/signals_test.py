"""Loaded models of signals: what the evaluation of their runs says, and what is refused."""

import json

import numpy as np
import pytest
from scipy.io import wavfile

import mdx
from mdx import modes
from mdx.data import pipeline

import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(name="speech", scope="module")
def _speech(tmp_path_factory):
  workdir = str(tmp_path_factory.mktemp("ctc"))
  config = tiny.config("ctc", eval__evaluators=(), data__length=132, data__transcript_length=5,
                       tokenizer__path="symbols:e f g h i n o r s t u v w x z")
  modes.run("train", config, workdir)
  return workdir, mdx.load(workdir)


def test_transcripts_are_those_of_the_evaluation_in_any_batch(speech):
  workdir, model = speech
  records = pipeline.labelled_records(model.data, "validation")[:5]
  with open(f"{workdir}/transcripts.jsonl") as file:
    wanted = [json.loads(line)["transcript"] for line in file][:5]
  frames = [record["x"] for record in records]
  assert model.transcribe(frames) == model.transcribe(frames, batch_size=2) == wanted
  assert model.transcribe([]) == []
  vectors = model.encode(frames, batch_size=2)
  assert vectors.shape == (5, 16) and np.isfinite(vectors).all()
  np.testing.assert_allclose(model.encode(frames[3:4]), vectors[3:4], rtol=1e-4, atol=1e-5)


def test_a_saved_model_still_knows_how_its_rows_are_made(speech, tmp_path):
  _, model = speech
  frames = [pipeline.labelled_records(model.data, "validation")[0]["x"]]
  model.save(str(tmp_path / "saved"))
  assert mdx.load(str(tmp_path / "saved")).transcribe(frames) == model.transcribe(frames)


@pytest.mark.parametrize("given, message", [
    ([np.zeros((9, 3), np.float32)], "3 channels, but data.channels is 24"),
    ([np.zeros((0, 24), np.float32)], "recording 0: an array of shape (0, 24)"),
    ([np.zeros((140, 24), np.float32)], "140 frames, more than data.length 132"),
    (["no.wav"], "no.wav"), ("a.wav", "are given in a list"),
    ([(np.ones(800), 8000)], "frames that mdx did not make of sound; give frames float32 [n, 24]")])
def test_bad_recordings_are_one_line(speech, given, message):
  with pytest.raises(ValueError) as error:
    speech[1].transcribe(given)
  assert message in str(error.value) and "\n" not in str(error.value)


def test_files_and_samples_are_read_as_in_training(tmp_path):
  draw = np.random.default_rng(0)
  folder = tmp_path / "audio"
  folder.mkdir()
  for i in range(8):
    wave = (8000 * np.sin(np.arange(1600) * (i + 1) / 20) * draw.uniform(0.5, 1, 1600))
    wavfile.write(folder / f"{i % 2}_{i}.wav", 8000, wave.astype(np.int16))
  config = tiny.config("ctc", eval__evaluators=(), data__length=24, data__transcript_length=2,
                       tokenizer__path="symbols:0 1")
  config.data.source = dict(name="speech", path=str(folder), labels="name", num_mels=8,
                            holdout_every=4)
  config.data.channels = 8
  modes.run("train", config, str(tmp_path / "run"))
  model = mdx.load(str(tmp_path / "run"))
  path = str(folder / "1_3.wav")
  rate, wave = wavfile.read(path)
  both = [path, (wave / 32768, rate)]
  vectors = model.encode(both, rate=8000)
  np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-3, atol=1e-4)
  assert len(model.transcribe(both, rate=8000)) == 2
  with pytest.raises(ValueError, match="does not say the rate of its recordings"):
    model.transcribe(both)
  for given, message in (((np.zeros(800), 8000), "an empty recording"),
                         ((np.ones(800), 8000), "100.0% of the samples are clipped"),
                         ((wave / 32768, 16000), "16000 samples a second, but training had 8000")):
    with pytest.raises(ValueError, match=message):
      model.transcribe([path, given], rate=8000)


@pytest.fixture(name="words", scope="module")
def _words(tmp_path_factory):
  workdir = str(tmp_path_factory.mktemp("words"))
  config = tiny.config("mdiff4str", data__length=9, eval__evaluators=("words",),
                       tokenizer__path="symbols:" + " ".join("abcdefghijklmnopqrstuvwxyz"))
  config.eval.rules = dict(mean_confidence=dict(steps=(2,), eos_stop="row"))
  config.data.source.num_validation = 6
  modes.run("train", config, workdir)
  return workdir, mdx.load(workdir)


def test_texts_of_images_are_those_of_the_evaluation(words):
  workdir, model = words
  with open(f"{workdir}/words.json") as file:
    rows = json.load(file)["rows"]
  with np.load(f"{workdir}/words.npz") as file:
    images = list(file["original"])
  fields = dict(name="mean_confidence", steps=2, eos_stop="row")
  found = model.read_images(images, record="canvas", **fields)
  assert [row.text for row in found] == [row["steps"][-1] for row in rows]
  assert found[0].trace is not None and "<iframe" in found._repr_html_()
  alone = model.read_images(images[4:5], **fields)
  assert alone[0].text == found[4].text and alone[0].nfe == found[4].nfe


@pytest.mark.parametrize("images, fields, message", [
    ([np.zeros((8, 64), np.uint8)], {}, "image 0: an image of 8 x 64 pixels, but data.source has 16"),
    ([np.zeros((16, 64), np.float32)], {}, "image 0: float32 of shape (16, 64); expected uint8"),
    ([np.zeros((16, 64), np.uint8)], dict(prompts="what?"), "takes no prompt"),
    ([np.zeros((16, 64), np.uint8)], dict(gen_length=3), "have the 9 tokens of the rows"),
    (np.zeros((16, 64), np.uint8), {}, "are given in a list")])
def test_bad_images_are_one_line(words, images, fields, message):
  with pytest.raises(ValueError) as error:
    words[1].read_images(images, **fields)
  assert message in str(error.value) and "\n" not in str(error.value)
  with pytest.raises(ValueError, match="transcribe needs a run of configs/ctc.py"):
    words[1].transcribe([])
  with pytest.raises(ValueError, match="reads texts beside images"):
    words[1].encode([np.zeros((16, 64), np.uint8)])
