"""The adapter to lm-eval: the harness itself, run on a tiny model and a local task."""

import json

import numpy as np
import pytest
import tiny

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

# pylint: disable=wrong-import-position
import lm_eval
from lm_eval import tasks as lm_tasks
from lm_eval.api import instance

from mdx import lm_harness as harness
from mdx import modes
from mdx.data import chat
from mdx.data import tokenizer as tokenizer_lib

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


@pytest.fixture(scope="module", params=["diffusion", "ar"])
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
  assert harness._until("ab\n\ncd Q: x", ["Q:", "\n\n"]) == "ab"
  assert harness._until("ab", None) == "ab" and harness._until("ab cd", " ") == "ab"


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
    (dict(batch_size="auto"), "batch_size must be a positive number, got 'auto'"),
    (dict(name="nucleus"), "choose from"),
])
def test_bad_arguments_are_one_line(adapter, changes, message):
  with pytest.raises(ValueError, match=message):
    harness.HarnessModel(adapter.model.source, **changes)
