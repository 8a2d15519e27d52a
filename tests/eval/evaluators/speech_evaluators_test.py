"""Measures of models of speech, and their runs."""

import dataclasses
import json

import numpy as np
import pytest
import tiny

from mdx import modes
from mdx.data.toys import phones
from mdx.eval.evaluators import speech


def _config(name, **changes):
  return tiny.config(name, **dict(
      tokenizer__path=phones.TOKENIZER, data__length=16, data__channels=12, batch_size=16,
      data__source=dict(name="phones", length=16, num_train=40, num_validation=20),
      network__num_layers=2, eval_steps=0, objective__frontend=dict(channels=4, strides=(1,)),
      log_steps=1, ema_decay=0.0, init__params="raw") | changes)


def test_fields_of_the_probe_are_checked():
  with pytest.raises(ValueError, match="num_recordings 9 exceeds its pool 8"):
    speech.Probe(num_recordings=9, pool=8)
  with pytest.raises(ValueError, match="ridge must lie in"):
    speech.probe_of({"eval": {"frame_probe": dict(ridge=0.0)}})
  assert speech.probe_of({"eval": {}}) == speech.Probe()
  assert len(dataclasses.fields(speech.Probe)) == 5


@pytest.mark.slow
def test_masked_speech_trains_alike_with_microbatches_and_its_figures_are_in_the_results(tmp_path):
  losses = {}
  for number in (1, 2):
    config = _config("w2v_bert", microbatches=number, objective__codes=dict(num_codes=8))
    config.eval.evaluators = ("frame_probe",) if number == 1 else ()
    with config.unlocked():
      config.eval.frame_probe = dict(num_recordings=5, num_draws=1, pool=10)
    results = modes.run("train", config, str(tmp_path / str(number)))
    lines = [json.loads(x) for x in (tmp_path / str(number) / "metrics.jsonl").read_text()
             .splitlines()]
    losses[number] = [x["loss"] for x in lines if x["kind"] == "train"]
    if number == 1:
      assert 0 < results["probe_accuracy"] <= results["frame_probe_best"] <= 1
      assert 1 <= results["held_out_code_perplexity"] <= 8
      assert results["held_out_masked_share"] > 0.1
  assert len(losses[1]) == 2
  np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)


@pytest.mark.release
@pytest.mark.slow
def test_a_recogniser_starts_from_masked_speech_and_guides_the_masks_of_another(tmp_path):
  base = _config("w2v_bert", objective__codes=dict(num_codes=8), data__transcript_length=9)
  modes.run("train", base, str(tmp_path / "base"))
  config = _config("ctc", data__transcript_length=9, steps=2)
  config.network = base.network
  config.init.checkpoint = str(tmp_path / "base")
  results = modes.run("train", config, str(tmp_path / "ctc"))
  assert results["char_error_rate"] > 0 and 0 <= results["probe_accuracy"] <= 1
  start, end = (tiny.stored(tmp_path / name)[1]["params"] for name in ("base", "ctc"))
  kernel = lambda params: params["frontend"]["conv_0"]["kernel"]
  assert 0 < np.abs(kernel(start) - kernel(end)).max() < 0.1
  asked = _config("w2v_bert", objective__codes=dict(num_codes=8), data__transcript_length=9,
                  objective__ask=dict(scorer="it", temperature=0.1, weighted=True))
  asked.frozen = dict(it=dict(checkpoint=str(tmp_path / "ctc"), params="raw"))
  results = modes.run("train", asked, str(tmp_path / "asked"))
  rate = 1 - (1 - asked.objective.mask_rate) ** asked.objective.span
  assert results["held_out_masked_share"] == pytest.approx(round(16 * rate) / 16)
