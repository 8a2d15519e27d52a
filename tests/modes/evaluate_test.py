"""Mode eval on a task: every problem once, every generation kept, nothing done twice."""

import json
import math
import types

import numpy as np
import pytest
import tiny

from mdx import modes
from mdx.configs import eval as eval_config
from mdx.configs import mdpo
from mdx.data import chat
from mdx.modes import evaluate as evaluation
from mdx.utils import files


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A hardly trained model of Sudoku filled in where it stands."""
  cfg = tiny.changed(mdpo.get_config().init.base, {
      "steps": 2, "batch_size": 8, "network.num_layers": 1, "network.width": 16,
      "network.num_heads": 2, "network.mlp_width": 16, "eval.final_samples": 1,
      "data.source.task.num_train": 200, "data.source.task.num_test": 20,
      "data.source.task.num_validation": 20})
  workdir = str(tmp_path_factory.mktemp("base"))
  modes.run("train", cfg, workdir)
  return workdir


def _config(checkpoint, **changes):
  small = {"init.checkpoint": checkpoint, "task.num_train": 200, "task.num_test": 20,
           "task.num_validation": 20, "batch_size": 8, "sampler.steps": 2}
  return tiny.changed(eval_config.get_config(),
                      small | {k.replace("__", "."): v for k, v in changes.items()})


def _lines(workdir):
  return [json.loads(x) for x in (workdir / "generations.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_generation_is_kept_with_the_score_that_the_task_gives_it(base, tmp_path):
  cfg = _config(base)
  results = modes.run("eval", cfg, str(tmp_path))
  rows, task = _lines(tmp_path), evaluation.tasks.build(cfg.task)
  examples = task.examples("test")
  assert [row["id"] for row in rows] == list(range(20))
  assert [row["prompt"] for row in rows] == [task.prompt(e) for e in examples]
  scored = task.score(examples, [row["completion"] for row in rows])
  np.testing.assert_array_equal(scored["reward"], [row["score"] for row in rows])
  assert results["accuracy"] == pytest.approx(scored["correct"].mean())
  assert results["stderr"] == pytest.approx(
      math.sqrt(results["accuracy"] * (1 - results["accuracy"]) / 20))
  assert results["num_examples"] == 20 and all(row["nfe"] == 2 for row in rows)
  # Wilson's interval holds more than one value even at 0 of 20: 3.84 / (20 + 3.84).
  assert results["interval_low"] <= results["accuracy"] < results["interval_high"]
  if not scored["correct"].any():
    assert results["interval_high"] == pytest.approx(0.1611, abs=1e-4)
  assert json.loads((tmp_path / "results.json").read_text()) == results
  assert results["task"]["noun"] == task.noun
  config = json.loads((tmp_path / "config.json").read_text())["config"]
  assert config["task"]["name"] == cfg.task.name and config["mode"] == "eval"


@pytest.mark.slow
def test_a_cache_measures_final_answers_only_and_says_so(base, tmp_path, capsys):
  fields = dict(sampler__block_length=4, sampler__steps=4)  # a step a block: the cache is exact
  found = {cache: modes.run("eval", _config(base, sampler__cache=cache, **fields),
                            str(tmp_path / cache)) for cache in ("none", "dual")}
  assert set(found["none"]) == set(found["dual"]) and found["none"]["over_denoising"] is not None
  assert found["dual"]["over_denoising"] is None
  assert "over-denoising is not measured" in capsys.readouterr().out
  none, dual = (_lines(tmp_path / cache) for cache in ("none", "dual"))
  for a, b in zip(none, dual):
    assert b.pop("best_of_steps") is None and a.pop("best_of_steps") is not None
    assert a == b


@pytest.mark.slow
def test_an_evaluation_cut_short_decodes_only_what_is_left(base, tmp_path, monkeypatch):
  cfg = _config(base, sampler__temperature=1.0)
  modes.run("eval", cfg, str(tmp_path / "whole"))
  real, calls = files.PartialRows.add, []

  def dies(self, number, row):
    real(self, number, row)
    if number == 11:
      raise KeyboardInterrupt

  monkeypatch.setattr(files.PartialRows, "add", dies)
  with pytest.raises(KeyboardInterrupt):
    modes.run("eval", cfg, str(tmp_path / "cut"))
  monkeypatch.setattr(files.PartialRows, "add",
                      lambda self, number, row: (calls.append(number), real(self, number, row)))
  results = modes.run("eval", cfg, str(tmp_path / "cut"))
  assert calls == list(range(12, 20))
  assert _lines(tmp_path / "cut") == _lines(tmp_path / "whole")
  assert modes.run("eval", cfg, str(tmp_path / "cut")) == results and len(calls) == 8
  monkeypatch.setattr(evaluation, "checksum", types.SimpleNamespace(of_items=lambda items: "other"))
  modes.run("eval", cfg, str(tmp_path / "cut"))  # behind the same path
  assert len(calls) == 8 + 20


@pytest.mark.slow
def test_a_draw_belongs_to_its_problem_whatever_the_batches(base, tmp_path):
  found = []
  for size in (8, 16):
    cfg = _config(base, sampler__temperature=1.0, batch_size=size)
    modes.run("eval", cfg, str(tmp_path / str(size)))
    found.append([row["completion"] for row in _lines(tmp_path / str(size))])
  assert found[0] == found[1] and len(set(found[0])) > 10


@pytest.mark.parametrize("changes, message", [
    (dict(num_examples=-1), "num_examples must be a whole number of at least 0"),
    (dict(prompt_format="html"), "prompt_format is 'html'; choose from text, chat"),
    (dict(system="Be brief."), "set prompt_format to chat"),
    (dict(sampler__gen_length=8), "have 16 tokens, sampler.gen_length is 8"),
    (dict(prompt_format="chat"), "set prompt_format to text"),
])
def test_bad_settings_are_one_line_before_anything_is_written(changes, message, base, tmp_path):
  with pytest.raises(ValueError, match=message):
    modes.run("eval", _config(base, **changes), str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arg", ["gsm8k", "math500,d1", "countdown,llada", "sudoku"])
def test_the_papers_settings_need_a_checkpoint(arg, tmp_path):
  cfg = eval_config.get_config(arg)
  assert cfg.prompt_format == "chat" and cfg.sampler.gen_length % cfg.sampler.block_length == 0
  problems = tmp_path / "problems.jsonl"
  answer = "#### 2" if cfg.task.name == "gsm8k" else "2"
  problems.write_text(json.dumps({"question": "1+1?", "problem": "1+1?", "answer": answer}) + "\n")
  if cfg.task.name in ("gsm8k", "math"):
    cfg.task.update(path=str(problems), test_path=str(problems))
  with pytest.raises(ValueError, match="init.checkpoint is empty .* give a checkpoint"):
    modes.run("eval", cfg, str(tmp_path / "run"))
  with pytest.raises(ValueError, match="takes one of gsm8k, math500"):
    eval_config.get_config("gsm9k")


def test_a_chat_has_the_system_s_message_first():
  tokenizer = chat.tokenizer_lib.build("asset:chat_bpe512.json", chat_template="asset:chat.jinja")
  prompts = evaluation.task_eval.encode_prompts(["Hi."], tokenizer, prompt_format="chat",
                                                system="Be brief.")
  said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
  np.testing.assert_array_equal(prompts.tokens[0], chat.encode_prompt(tokenizer, said))
