"""How a text begins and ends: the ids that a tokenizer puts around it, and every end token."""

import json
import pathlib
import shutil

import hf_numbers
import tiny
import numpy as np
import pytest
import tokenizers

import mdx
from mdx import interop
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import tasks
from mdx.samplers import batching

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "b", "c", "d"]


def _directory(path, name, *, around="", **settings):
  """The golden directory of a name with a tokenizer of words; `around` as in "<s> $A"."""
  shutil.copytree(GOLDEN / f"{name}-tiny", path)
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(
      {word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  backend.add_special_tokens(WORDS[:4])
  if around:
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", 1), ("</s>", 2)])
  backend.save(str(path / "tokenizer.json"))
  template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
  (path / "chat_template.jinja").write_text(template)
  for file, values in settings.items():
    (path / f"{file}.json").write_text(json.dumps(values))
  return path


@pytest.mark.parametrize("around, prefix", tiny.first([("", []), ("<s> $A", [1])], 1),
                         ids=["none", "bos"])
@pytest.mark.slow
def test_a_causal_model_reads_what_its_tokenizer_gives_once(tmp_path, around, prefix):
  path = _directory(tmp_path / "model", "qwen2", around=around)
  model = mdx.load(str(path))
  prompt, chat = model.prompt_ids("a b c"), model.prompt_ids([{"role": "user", "content": "a b"}])
  assert prompt.tolist() == [*prefix, 4, 5, 6] and chat.tolist() == [1, 4, 5]
  law, start = hf_numbers.causal_law(path, 8), model.objective.start_id
  score = lambda given, ids: sum(law([*given, *ids[:i]])[x] for i, x in enumerate(ids))
  scored = [(prompt, [7, 4]), (chat, [7, 4]), ([], [4, 5])]
  want = [score(given if len(given) else [start], ids) for given, ids in scored]
  np.testing.assert_allclose(model.score_pairs(scored), want, rtol=1e-5)
  np.testing.assert_allclose(model.log_likelihood("a b"), want[2:], rtol=1e-5)
  rows = [prompt, chat, np.zeros(0, np.int32), prompt[:1]]
  sampler = model.sampler(gen_length=3, temperature=0.0)
  for i, row in model.decode(rows, sampler, batch_size=4):
    seen = rows[i].tolist() or [start]
    for token in row.tokens.tolist():
      assert law(seen)[token] >= law(seen).max() - 1e-5
      seen.append(token)
    assert row.prompt_tokens.tolist() == rows[i].tolist()


def test_the_ids_around_a_text_can_be_left_out(tmp_path):
  path = str(_directory(tmp_path / "model", "qwen2", around="<s> $A"))
  model = mdx.load(path, init=dict(special_tokens="never"))
  assert model.prompt_ids("a b").tolist() == [4, 5]
  with pytest.raises(ValueError, match="special_tokens is 'often'; choose never"):
    mdx.load(path, init=dict(special_tokens="often"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  path = _directory(tmp_path_factory.mktemp("bert") / "model", "bert", around="<s> $A </s>")
  config = interop.load_config(path)
  (path / "config.json").write_text(json.dumps(config | {"mask_token_id": 42}))
  return mdx.load(str(path))


def test_an_encoder_reads_cls_and_sep_around_a_text(encoder):
  assert encoder.prompt_ids("a [MASK] b").tolist() == [1, 4, 42, 5, 2]
  assert encoder.prompt_ids("a b").tolist() == [1, 4, 5]  # the answer stands before </s>
  row, = batching.batches([encoder.prompt_ids("a b")], gen_length=2, batch_size=1, max_length=64, mask_id=42,
                          pad_id=0, closing=encoder.tokenizer.suffix_ids)
  assert row.canvas[0, -6:].tolist() == [1, 4, 5, 42, 42, 2] and row.num_closing == 1
  assert not row.segment_ids[0, :-6].any()


@pytest.mark.slow
def test_what_stands_behind_an_answer_is_read_and_is_no_part_of_it(encoder):
  model, mask = encoder, 42
  filled, going_on = model.sample(["a [MASK] b", "a b"], gen_length=2, steps=1, temperature=0.0)
  exact, = model.sample([[1, 4, 5, mask, mask, 2]], steps=1, gen_length=2, temperature=0.0)
  assert going_on.tokens.tolist() == exact.tokens[3:5].tolist() and len(filled.tokens) == 5
  assert model.sample(["a b"], gen_length=2, steps=1, record="canvas")[0].trace.frames.shape[1] == 2


@pytest.mark.slow
def test_every_end_token_ends_a_text(tmp_path):
  path = _directory(tmp_path / "model", "qwen2", generation_config={"eos_token_id": [2, 7, 5]})
  config = interop.load_config(path)
  (path / "config.json").write_text(json.dumps(config | {"eos_token_id": [2, 6]}))
  model = mdx.load(str(path))
  tokenizer = model.tokenizer
  assert tokenizer.eos_ids == (2, 6, 7, 5) and interop.special_ids(path)["eos_id"] == 2
  assert tasks.completions(np.array([[4, 4, 7, 4], [6, 4, 4, 4], [4, 4, 4, 4]]), tokenizer) == [
      "a a", "", "a a a a"]
  sampler = model.sampler(eos="forbid", gen_length=16, temperature=5.0)
  tokens = np.concatenate([row.tokens for _, row in model.decode([np.array([4])] * 8, sampler)])
  assert not np.isin(tokens, [2, 5, 6, 7]).any()
  stopping = model.sampler(eos_stop="row", gen_length=24, temperature=9.0)
  ended = 0
  for _, row in model.decode([np.array([4])] * 16, stopping):
    ends = np.flatnonzero(np.isin(row.tokens, [2, 5, 6, 7]))
    if ends.size:
      ended += row.tokens[ends[0]] != 2
      assert (row.tokens[ends[0] + 1:] == 2).all() and row.nfe == ends[0] + 1
      assert row.text == tokenizer.decode(row.tokens[:ends[0]])
  assert ended
  again = tokenizer_lib.from_json(tokenizer.to_json())
  assert again.eos_ids == tokenizer.eos_ids and again.fingerprint == tokenizer.fingerprint


def test_a_wrong_end_token_is_one_line(tmp_path):
  for value in (99, "x", [2, True]):
    path = _directory(tmp_path / str(value), "qwen2", generation_config={"eos_token_id": value})
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id .* is not among"):
      mdx.load(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("around", ["", "<s> $A"], ids=["none", "bos"])
def test_scores_and_texts_are_those_of_transformers_and_of_the_harness(tmp_path, around):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("lm_eval")
  from lm_eval.api import instance  # pylint: disable=g-import-not-at-top
  from lm_eval.models import huggingface  # pylint: disable=g-import-not-at-top
  from mdx import lm_harness  # pylint: disable=g-import-not-at-top
  path = str(_directory(
      tmp_path / "model", "qwen2", around=around, generation_config={"eos_token_id": [2, 7]},
      tokenizer_config=dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="</s>",
                            pad_token="<pad>", unk_token="<unk>")))
  theirs = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
  ours, words = mdx.load(path), transformers.AutoTokenizer.from_pretrained(path)
  for prompt in ("a b c", "d", "c c a a b"):
    ids = torch.tensor([words.encode(prompt)])
    assert ours.prompt_ids(prompt).tolist() == ids[0].tolist()
    want = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8,
                           do_sample=False)[0, ids.shape[1]:]
    have = ours.sample([prompt], gen_length=8, temperature=0.0)[0]
    ended = [i for i in want.tolist() if i not in (2, 7)]
    assert have.text == ours.tokenizer.decode(ended)
  one = huggingface.HFLM(pretrained=path, device="cpu", dtype="float32", batch_size=2)
  two = lm_harness.HarnessModel(path, batch_size=2)
  ask = lambda kind, *args: [instance.Instance(kind, {}, a, i) for i, a in enumerate(args)]
  pairs = ask("loglikelihood", ("a b", " c d"), ("", "d a"), ("c b c ", "b"))
  np.testing.assert_allclose([x for x, _ in two.loglikelihood(pairs)],
                             [x for x, _ in one.loglikelihood(pairs)], rtol=1e-5)
  assert [x for _, x in two.loglikelihood(pairs)] == [x for _, x in one.loglikelihood(pairs)]
  whole = ask("loglikelihood_rolling", ("a b c",), ("a b c d " * 60,))
  np.testing.assert_allclose(two.loglikelihood_rolling(whole), one.loglikelihood_rolling(whole),
                             rtol=1e-4)


def test_an_export_of_ours_is_read_with_the_start_token_of_its_training(tmp_path):
  path = _directory(tmp_path / "model", "qwen2")
  tokenizer = mdx.load(str(path)).tokenizer
  assert mdx.load(str(path)).objective.start == "never"
  tokenizer.save(path)  # as mode export does
  assert mdx.load(str(path)).objective.start == "always"
