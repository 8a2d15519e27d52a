"""Quality of texts: closed forms of a model that can be enumerated, and values by hand."""

import math
import sys

import jax
import numpy as np
import pytest
import tiny

from mdx import model as model_lib
from mdx import modes
from mdx import sharding
from mdx.configs import sample as sample_config
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import generative
from mdx.eval import hf_causal
from mdx.objectives.causal import ar
from mdx.objectives.tokens import mlm

import oracle

TOKENIZER = tokenizer_lib.build("symbols:A B C")
JOINT = oracle.random_joint(real=(0, 1, 2), mask_id=TOKENIZER.mask_id,
                            vocab_size=TOKENIZER.vocab_size)


def _scorer(devices=1):
  objective = ar.AutoRegressive(network=JOINT.causal_network(), mask_id=JOINT.mask_id)
  return model_lib.Model(
      objective=objective, params={"model": {}}, tokenizer=TOKENIZER, max_length=JOINT.length,
      mesh=sharding.make_mesh({"data": devices}, jax.devices()[:devices]), source="", config={})


def test_perplexity_under_a_model_that_can_be_enumerated_is_its_closed_form():
  texts = [TOKENIZER.decode(row) for row in JOINT.sequences]
  for devices, batch_size in ((1, 7), (8, 30)):  # neither divides the 81 texts
    scores = _scorer(devices).score(texts, max_length=1024, batch_size=batch_size)
    np.testing.assert_allclose(scores.nll, JOINT.nll, rtol=1e-5)
  found = generative.evaluate(texts, scores)
  total = JOINT.nll.sum()
  assert found["generative_perplexity"] == pytest.approx(math.exp(total / 81 / 4), rel=1e-5)
  assert found["generative_bits_per_char"] == pytest.approx(total / 81 / 4 / math.log(2), rel=1e-5)
  # A corpus's standard error: rows are of equal length.
  error = (JOINT.nll / 4).std(ddof=1) / 9
  assert found["generative_nats_per_token_stderr"] == pytest.approx(error, rel=1e-4)
  # 3 texts of one letter, 3 x 2 x 4 of 3 + 1, 3 x 6 of 2 + 2, 36 of 2 + 1 + 1.
  three, two, all_three = (-sum(p * math.log(p) for p in law)
                           for law in ((3 / 4, 1 / 4), (1 / 2, 1 / 2), (1 / 2, 1 / 4, 1 / 4)))
  assert found["unigram_entropy"] == pytest.approx((24 * three + 18 * two + 36 * all_three) / 81)
  assert (found["num_texts"], found["num_scored"], found["num_cut"]) == (81, 81, 0)


def test_long_texts_are_cut_and_empty_ones_are_counted_but_not_scored():
  texts = ["ABCA", "", "AB"]
  scores = _scorer().score(texts, max_length=2, batch_size=8)
  prefix = JOINT.probs[(JOINT.sequences[:, :2] == [0, 1]).all(axis=1)].sum()
  np.testing.assert_allclose(scores.nll, [-math.log(prefix), 0, -math.log(prefix)], rtol=1e-5)
  found = generative.evaluate(texts, scores)
  assert (found["num_texts"], found["num_scored"], found["num_cut"]) == (3, 2, 1)
  assert found["generative_perplexity"] == pytest.approx(prefix ** -0.5, rel=1e-5)
  found = generative.evaluate(["", ""], _scorer().score(["", ""], max_length=2, batch_size=8))
  assert found == {"num_texts": 2, "num_scored": 0, "num_cut": 0, "self_bleu": 0.0}


def test_entropy_is_log_v_of_uniform_text_and_0_of_constant_text():
  assert generative.unigram_entropy(np.arange(50).repeat(3)) == pytest.approx(math.log(50))
  assert generative.unigram_entropy([7] * 9) == 0
  # Of each text, not of all together.
  scores = generative.Scores(np.ones(2), np.full(2, 3.0), np.full(2, 3.0),
                             [np.full(3, 1), np.full(3, 2)], np.zeros(2, bool))
  assert generative.evaluate(["aaa", "bbb"], scores)["unigram_entropy"] == 0


def test_distinct_n_grams_are_counted_over_all_texts():
  texts = ["a b a b".split(), "a b c".split()]
  assert generative.distinct(texts, 1) == pytest.approx(3 / 7)
  assert generative.distinct(texts, 2) == pytest.approx(3 / 5)  # ab, ba, bc of ab ba ab ab bc
  assert math.isnan(generative.distinct(texts, 5))


@pytest.mark.parametrize("texts, order, wanted", [
    (("a b c", "a b d"), 2, math.sqrt(2 / 3 * 1 / 2)),
    (("a b c d e",) * 3, 4, 1.0),
    # aa: clipped at the one a of another text; b: shorter than its nearest, aa.
    (("a a", "a b c", "b"), 1, (1 / 2 + 2 / 3 + math.exp(-1)) / 3),
    (("a b", "b a"), 2, math.sqrt(0.1)),  # no pair is shared
    (("a", "b", ""), 1, 0.0)])
def test_self_bleu_by_hand(texts, order, wanted):
  found = generative.self_bleu([text.split() for text in texts], order)
  assert found == pytest.approx(wanted)


def test_a_scorer_that_cannot_be_is_refused_before_anything_is_written(tmp_path, monkeypatch):
  cfg = tiny.changed(sample_config.get_config(), {"quality.scorer": "nowhere"})
  with pytest.raises(ValueError, match="nowhere does not exist"):
    modes.run("sample", cfg, str(tmp_path / "run"))
  cfg.quality.scorer = "hf:gpt2"
  monkeypatch.setitem(sys.modules, "transformers", None)
  with pytest.raises(ValueError, match=r"hf:gpt2 needs torch and transformers; pip install -e '\.\["):
    modes.run("sample", cfg, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()
  model = model_lib.Model(objective=mlm.MaskedLM(network=JOINT.network(), mask_id=1), params={},
                          tokenizer=TOKENIZER, mesh=None, max_length=4, source="", config={})
  with pytest.raises(ValueError, match="trained with MaskedLM gives no likelihood"):
    model.score(["A"], max_length=4)


def test_a_causal_model_of_hugging_face_scores_all_tokens_but_the_first(tmp_path):
  torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
  tokenizers = pytest.importorskip("tokenizers")
  words = {word: i for i, word in enumerate("[UNK] the cat sat on mat".split())}
  fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
  fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  transformers.PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(tmp_path)
  torch.manual_seed(0)
  model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=6, n_positions=8, n_embd=8, n_layer=1, n_head=2, initializer_range=1.0)).eval()
  model.save_pretrained(tmp_path)
  texts = ["the cat sat", "the", "on the mat the cat sat on", "the cat " * 6, ""]
  scorer = hf_causal.load(str(tmp_path))
  scores = scorer.score(texts, max_length=1024, batch_size=2)
  ids = [[words[w] for w in text.split()][:8] for text in texts]
  for row, nll, count in zip(ids, scores.nll, scores.count):
    row = torch.tensor([row], dtype=torch.long)
    with torch.no_grad():
      wanted = model(row, labels=row).loss.item() * (row.shape[1] - 1) if row.shape[1] > 1 else 0
    assert nll == pytest.approx(wanted, rel=1e-5) and count == max(row.shape[1] - 1, 0)
  np.testing.assert_array_equal(scores.is_cut, [False, False, False, True, False])
  np.testing.assert_array_equal(scores.chars, [8, 0, 23, 28, 0])  # cut: 8 words are 31 characters
  assert [x.tolist() for x in scores.tokens] == ids
  found = generative.evaluate(texts, scores)
  assert found["num_scored"] == 3 and found["generative_perplexity"] == pytest.approx(
      math.exp(scores.nll.sum() / scores.count.sum()))
  with pytest.raises(ValueError, match="hf:.*nowhere cannot be read"):
    hf_causal.load(str(tmp_path / "nowhere"))
