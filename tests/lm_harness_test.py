"""The adapter to lm-eval: the harness itself, run on a tiny model and a local task."""

import json
import warnings

import numpy as np
import pytest
import tiny

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

# pylint: disable=wrong-import-position
import lm_eval
from lm_eval import tasks as lm_tasks
from lm_eval.api import instance

import mdx
from mdx import lm_harness as harness
from mdx import modes
from mdx.data import chat
from mdx.data import tokenizer as tokenizer_lib
from mdx.report import samples

_TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
"""
_CHOICE = """doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
_UNTIL = """doc_to_target: "{{answer}}"
generation_kwargs: {until: [" "], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module", params=tiny.first(["diffusion", "ar"], 1))
def adapter(request, tmp_path_factory):
  """A hardly trained model as the harness sees it."""
  workdir = str(tmp_path_factory.mktemp(request.param))
  modes.run("train", tiny.config(request.param, sampler__num_samples=0, network__max_length=40), workdir)
  return harness.HarnessModel(workdir, batch_size=4, num_samples=4)


def _requests(kind, *args):
  return [instance.Instance(kind, {}, a, i) for i, a in enumerate(args)]


def test_the_scores_are_those_of_the_model_whatever_the_order(adapter):
  asked = [("It was", " the best"), ("It was the age of", " wisdom"), ("", "worst")]
  found = adapter.loglikelihood(_requests("loglikelihood", *asked), disable_tqdm=True)
  encode = adapter.tok_encode
  pairs = [(encode("It was"), encode(" the best")), (encode("It was the age of"),
                                                     encode(" wisdom")), ([], encode("worst"))]
  expected = adapter.model.score_pairs(pairs, num_samples=4)
  np.testing.assert_allclose([x for x, _ in found], expected, rtol=1e-6)
  alone = adapter.model.score_pairs(pairs, num_samples=4, batch_size=1)
  np.testing.assert_allclose(alone, expected, rtol=1e-5)


def test_an_answer_is_greedy_if_decoding_gives_it(adapter):
  context = "It was the"
  is_causal = adapter.model.objective.reader().sampler == "autoregressive"
  name = "autoregressive" if is_causal else "confidence"
  text = adapter.model.sample(context, gen_length=4, steps=4, temperature=0.0, name=name)[0]
  greedy = text.tokens.tolist()
  other = [(greedy[0] + 1) % 10] + greedy[1:]
  pairs = [(adapter.tok_encode(context), ids) for ids in (greedy, other, greedy[:3])]
  expected = [True, False, True] if is_causal else [True, False]
  assert adapter._are_greedy(pairs)[:len(expected)] == expected


def test_long_texts_are_scored_in_windows_that_cover_every_token_once(adapter):
  text = "It was the best of times, it was the worst of times; it was the age of wisdom. It was."
  assert len(adapter.tok_encode(text)) > 80
  found = adapter.loglikelihood_rolling(_requests("loglikelihood_rolling", (text,), ("It",)),
                                        disable_tqdm=True)
  tokens = adapter.tok_encode(text)
  windows = [([], tokens[:40]), ([tokens[39]], tokens[40:79]), ([tokens[78]], tokens[79:])]
  scores = adapter.model.score_pairs(windows + [([], adapter.tok_encode("It"))], num_samples=4)
  np.testing.assert_allclose(found, [scores[:3].sum(), scores[3]], rtol=1e-5)


def test_generation_ends_before_the_first_stop():
  assert samples.until("ab\n\ncd Q: x", ["Q:", "\n\n"]) == "ab"
  assert samples.until("ab", None) == "ab" and samples.until("ab cd", " ") == "ab"


def test_the_harness_runs_on_a_local_task(adapter, tmp_path):
  data = tmp_path / "data.jsonl"
  data.write_text("".join(json.dumps({"question": "It was the", "choices": [" best", " worst"],
                                      "answer": i % 2}) + "\n" for i in range(4)))
  for name, kind, rest in (("choose", "multiple_choice", _CHOICE),
                           ("write", "generate_until", _UNTIL)):
    (tmp_path / f"{name}.yaml").write_text(
        _TASK.format(name=name, data=data, kind=kind) + rest)
  results = lm_eval.simple_evaluate(
      model=adapter, tasks=["choose", "write"], bootstrap_iters=0,
      task_manager=lm_tasks.TaskManager(include_path=str(tmp_path), include_defaults=False))
  # The two choices get the same scores in all four problems, so exactly half are right.
  assert results["results"]["choose"]["acc,none"] == 0.5
  assert results["results"]["write"]["exact_match,none"] == 0.0
  outs = [sample["resps"][0][0] for sample in results["samples"]["write"]]
  assert len(outs) and all(isinstance(out, str) and " " not in out for out in outs)


def test_a_chat_keeps_its_special_tokens_and_quotes_none(adapter, monkeypatch):
  chatty = tokenizer_lib.build("asset:chat_bpe512.json", chat_template="asset:chat.jinja")
  monkeypatch.setattr(harness.HarnessModel, "model", None, raising=False)
  special = next(iter(chatty.special_texts))
  talk = [{"role": "user", "content": f"Say {special}."}]
  fake = harness.HarnessModel.__new__(harness.HarnessModel)
  fake.model, fake._chats = type("M", (), {"tokenizer": chatty}), {}
  text = fake.apply_chat_template(talk)
  assert fake._context(text) == chat.encode_prompt(chatty, talk).tolist()
  assert fake._context("Say this.") == chatty.encode("Say this.").tolist()


@pytest.mark.parametrize("changes, message", [
    (dict(stepz=3), "unknown model argument 'stepz'"),
    (dict(max_new_tokens=3), "unknown model argument 'max_new_tokens'.*Did you mean 'gen_length'"),
    (dict(batch_size="many"), "batch_size must be a positive number or auto, got 'many'"),
    (dict(estimator="exactly"), "choose from stratified"),
    (dict(name="nucleus"), "choose from"),
])
def test_bad_arguments_are_one_line(adapter, changes, message):
  with pytest.raises(ValueError, match=message):
    harness.HarnessModel(adapter.model.source, **changes)


def test_the_batch_size_may_be_chosen_by_the_harness(adapter):
  for given, most, size in (("auto", None, 8), ("auto:4", 3, 3), ("2", None, 2), (4, 1, 4)):
    assert harness.HarnessModel(adapter.model.source, batch_size=given,
                                max_batch_size=most)._batch_size == size


@pytest.mark.parametrize("asked, wanted", [
    (dict(max_new_tokens=3), dict(gen_length=3, steps=3, temperature=0.0)),
    (dict(max_tokens=5, until="x"), dict(gen_length=5, temperature=0.0)),
    (dict(max_completion_tokens=5), dict(gen_length=5)),
    (dict(max_gen_toks=4, temperature=0.7), dict(gen_length=4, temperature=0.7)),
    (dict(do_sample=False, temperature=0.7), dict(gen_length=9, temperature=0.0)),
    (dict(do_sample=True, top_p=0.9, top_k=5), dict(temperature=1.0, top_p=0.9, top_k=5)),
    (dict(temperature=0.5, top_p=0.8), dict(temperature=0.5, top_p=0.8)),
    (dict(top_p=0.8), dict(temperature=0.0, top_p=1.0))])
def test_a_requests_generation_arguments_are_read(adapter, monkeypatch, asked, wanted):
  seen = []
  monkeypatch.setattr(type(adapter.model), "decode",
                      lambda self, rows, sampler, **k: seen.append(sampler) or iter(()))
  monkeypatch.setattr(harness, "_DEFAULT_GEN_TOKENS", 9)
  adapter.generate_until(_requests("generate_until", ("It was", asked)), disable_tqdm=True)
  assert {name: getattr(seen[0], name) for name in wanted} == wanted


def test_generation_arguments_without_effect_are_named(adapter, monkeypatch):
  monkeypatch.setattr(type(adapter.model), "decode", lambda self, rows, sampler, **k: iter(()))
  with pytest.warns(UserWarning, match="without effect here: num_beams"):
    adapter.generate_until(_requests("generate_until", ("It", dict(max_tokens=3, num_beams=2))))


def test_the_beginning_of_an_answer_stays_open():
  chatty = tokenizer_lib.build("asset:chat_bpe512.json", chat_template="asset:chat.jinja")
  fake = harness.HarnessModel.__new__(harness.HarnessModel)
  fake.model, fake._chats = type("M", (), {"tokenizer": chatty}), {}
  talk = [{"role": "user", "content": "Why?"}]
  begun = [*talk, {"role": "assistant", "content": "Because"}]
  asked = fake.apply_chat_template(talk)
  text = fake.apply_chat_template(begun, add_generation_prompt=False)
  assert text == asked + "Because"  # no token ends the answer behind it
  assert fake._context(text) == fake._context(asked) + chatty.encode("Because").tolist()
  assert fake.apply_chat_template(talk, add_generation_prompt=False) != asked


def test_a_warning_counts_questions_that_the_draws_do_not_decide():
  question = ["a", "a", "b", "b", "c"]
  log_prob, stderr = np.array([-1, -1.2, -1, -3, -1]), np.full(5, 0.2)
  with pytest.warns(UserWarning, match="in 1 of 2 questions"):
    harness._warn_of_ties(question, log_prob, stderr)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    harness._warn_of_ties(question, log_prob, 0 * stderr)


def test_choices_of_a_task_are_told_by_its_question(adapter, monkeypatch):
  seen = []
  monkeypatch.setattr(type(adapter.model), "estimate_pairs",
                      lambda self, pairs, questions, **k: seen.append(questions) or
                      harness.subsets.Estimates(np.zeros(len(pairs)), np.zeros(len(pairs))))
  monkeypatch.setattr(harness.HarnessModel, "_are_greedy", lambda self, pairs: [False] * len(pairs))
  asked = [instance.Instance("loglikelihood", {}, args, i, metadata=("task", doc, 1))
           for i, (doc, args) in enumerate([(0, ("It", " was")), (0, ("It is", " was")),
                                            (0, ("", " was")), (1, ("It", " was"))])]
  adapter.loglikelihood(asked, disable_tqdm=True)
  first, second, alone, other = seen[0]
  assert first == second and len({first, alone, other}) == 3


def test_batches_of_few_sizes_are_compiled(adapter):
  model = mdx.load(adapter.model.source)
  for num in (3, 4):
    model.sample(["It was"] * num, gen_length=2, steps=1)
  for num in (1, 5, 7, 8):
    model.score_pairs([([0, 1], [2])] * num)
  assert len(model._compiled) == 2
  assert all(f._cache_size() <= 2 for f in model._compiled.values() if hasattr(f, "_cache_size"))
