"""Episodes of several turns: rows, replies, and a run of RL with a tool."""

import dataclasses
import json
import types as python_types

import jax
import numpy as np
import pytest
import tiny

from mdx import modes
from mdx import samplers
from mdx import sharding
from mdx import tasks
from mdx.configs import mdpo as mdpo_config
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import task_decoder
from mdx.eval import tasks as task_eval
from mdx.networks import transformer
from mdx.objectives.diffusion import masked as diffusion
from mdx.rl import episodes
from mdx.samplers import trajectory
from mdx.utils import rng

TOKENIZER = tokenizer_lib.build("symbols:. 1 2 3 4")
G, R, MASK, EOS, PAD = 4, 3, TOKENIZER.mask_id, TOKENIZER.eos_id, TOKENIZER.pad_id


@dataclasses.dataclass(frozen=True)
class Calculator:
  """A tool says the sum of a turn's digits, modulo 4; right if the second turn repeats it."""
  blank = ""
  num: int = 16

  def examples(self, split):
    """Two digits each."""
    del split
    return [{"prompt": "12"[: 1 + i % 2] + "3", "answer": ""} for i in range(self.num)]

  def prompt(self, example):
    """The digits."""
    return example["prompt"]

  def reply(self, examples, transcripts):
    """The sum twice and a dot; nothing where a turn begins with 4."""
    assert len(examples) == len(transcripts)
    return [None if text.startswith("4") else f"{self.value(text)}{self.value(text)}."
            for text in transcripts]

  def value(self, text):
    """The tool's answer to a text."""
    return str(sum(int(c) for c in text if c.isdigit()) % 4 + 1)

  def score(self, examples, completions):
    """Share of the digits that equal the last one."""
    del examples
    reward = np.array([sum(c == t[-1] for c in t) / 20 if t else 0 for t in completions], np.float32)
    return {"reward": reward, "correct": reward > 0.2}


class _Scripted:
  """A decoder of turns that writes given tokens, and keeps the rows it was asked for."""

  def __init__(self, turns):
    self.turns, self.asked, self.run = turns, [], None
    self.mesh = self.home = None

  def decode(self, params, rows, iteration, *, start, turn):
    """The tokens of a turn where rows have masks."""
    del params, iteration
    self.asked.append(rows)
    canvas = np.asarray(rows["canvas"])[:, start:]
    free = canvas == MASK
    tokens = np.where(free, self.turns[turn], canvas).astype(np.int32)
    number = np.where(free, 0, -1).astype(np.int32)
    return trajectory.Trajectory(tokens, number, free * np.float32(0.5), free * np.float32(-1.0),
                                 free.any(axis=1).astype(np.int32), free)


def _ids(text):
  return TOKENIZER.encode(text).tolist()


def test_replies_follow_turns_and_what_ends_early_is_padding(monkeypatch):
  monkeypatch.setattr(sharding, "place_batch", lambda rows, mesh, **k: rows)
  turns = np.array([[_ids("12") + [EOS, EOS], _ids("4321")],
                    [_ids("3") + [EOS] * 3, _ids("1111")]])
  decoder = _Scripted(turns)
  prompts = task_eval.encode_prompts(["13", "3"], TOKENIZER)
  sampler = python_types.SimpleNamespace(gen_length=G, mask_id=MASK)
  found = episodes.Episodes(decoder, prompts, sampler, Calculator(), [{}, {}], TOKENIZER,
                            max_turns=2, max_reply_length=R)
  record, rows = found(None, np.array([0, 1]), 0)
  assert found.answer_length == record.tokens.shape[1] == 2 * G + R
  # The first row: "12" and an end, "44.", "3" and its tail. The second stops: it begins with 4.
  np.testing.assert_array_equal(record.tokens, [
      _ids("12") + [EOS, PAD] + _ids("44.") + _ids("3") + [EOS] * 3,
      _ids("4321") + [PAD] * (R + G)])
  np.testing.assert_array_equal(rows["segment_ids"], [
      [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1] + [0] * 7])
  np.testing.assert_array_equal(rows["positions"][0], [0, 1, 2, 3, 4, 0, 5, 6, 7, 8, 9, 10, 11])
  np.testing.assert_array_equal(rows["is_action"], [
      [0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1] + [0] * 7])
  np.testing.assert_array_equal(record.is_free, [
      [1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1], [1] * 4 + [0] * 7])
  np.testing.assert_array_equal(record.nfe, [2, 1])
  assert found.texts(record.tokens, rows["segment_ids"]) == ["1244.3", "4321"]
  # The second turn saw the first and the reply, and no masks in the row that was over.
  assert (decoder.asked[1]["canvas"][0, -G:] == MASK).all()
  assert not (decoder.asked[1]["canvas"][1] == MASK).any()


@pytest.mark.slow
def test_an_episode_of_one_turn_is_the_row_of_a_decoder():
  spec = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=24, max_length=32,
                                 vocab_size=TOKENIZER.vocab_size, scan_layers=False)
  objective = diffusion.MaskedDiffusion(network=spec.network(), mask_id=MASK)
  params = objective.init(rng.root(0))
  sampler = samplers.build(dict(name="confidence", gen_length=G, steps=2), objective,
                           mask_id=MASK, eos_id=EOS)
  prompts = task_eval.encode_prompts(["13", "3"], TOKENIZER)
  mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
  decoder = task_decoder.TaskDecoder(objective, sampler, prompts, mesh, name="rollout", seed=3,
                                     record="commits")
  one = episodes.Episodes(decoder, prompts, sampler, Calculator(), [{}, {}], TOKENIZER,
                          max_turns=1, max_reply_length=R)
  with jax.set_mesh(mesh):
    (record, rows), (found, more) = (f(params, np.array([0, 1]), 5) for f in (decoder, one))
  for name in ("tokens", "step", "confidence", "log_prob", "nfe", "is_free"):
    np.testing.assert_array_equal(getattr(record, name), getattr(found, name))
  np.testing.assert_array_equal(rows["positions"], more["positions"])


class _Stopped(Calculator):
  """A calculator whose turns end at a dot."""
  stops = (".",)


def test_a_turn_ends_at_a_stop_also_the_last_one(monkeypatch):
  monkeypatch.setattr(sharding, "place_batch", lambda rows, mesh, **k: rows)
  turns = np.array([[_ids("1.23"), _ids("12.4")], [_ids("3.") + [EOS, EOS], _ids("1111")]])
  decoder = _Scripted(turns.transpose(1, 0, 2))
  prompts = task_eval.encode_prompts(["13", "3"], TOKENIZER)
  sampler = python_types.SimpleNamespace(gen_length=G, mask_id=MASK)
  found = episodes.Episodes(decoder, prompts, sampler, _Stopped(), [{}, {}], TOKENIZER,
                            max_turns=2, max_reply_length=R)
  record, rows = found(None, np.array([0, 1]), 0)
  np.testing.assert_array_equal(record.tokens, [
      _ids("1.") + [PAD, PAD] + _ids("22.") + _ids("12.") + [PAD],
      _ids("3.") + [PAD, PAD] + _ids("44.") + _ids("1111")])
  np.testing.assert_array_equal(rows["is_action"][:, 2:], [
      [1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1]])
  np.testing.assert_array_equal(record.is_free, rows["is_action"][:, 2:])
  np.testing.assert_array_equal(rows["segment_ids"][0, 2:], [1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0])
  assert found.turns(record.tokens, rows["segment_ids"])[0] == [
      episodes.Turn("assistant", "1."), episodes.Turn("tool", "22."),
      episodes.Turn("assistant", "12.")]
  assert episodes.most_written(found, 11) == 2 * G and episodes.most_written(None, 11) == 11


def test_special_tokens_never_come_from_a_reply_and_text_without_ids_is_one_line():
  decoder, sampler = _Scripted([]), python_types.SimpleNamespace(gen_length=G, mask_id=MASK)
  make = lambda tokenizer, text: episodes.Episodes(
      decoder, task_eval.encode_prompts([text], tokenizer), sampler, Calculator(), [{}], tokenizer,
      max_turns=2, max_reply_length=R)
  for name in ("byte", "asset:chat_bpe512.json"):
    tokenizer = tokenizer_lib.build(name)
    text = "".join(tokenizer.special_texts) + "<answer>"
    ids = make(tokenizer, "a")._encoded(text)
    assert not np.isin(ids, [*tokenizer.special_ids, *tokenizer.special_texts.values()]).any()
    assert tokenizer.decode(ids) == text
  with pytest.raises(ValueError, match="cannot write the reply 'x' of Calculator") as error:
    make(TOKENIZER, "1")._encoded("x")
  assert "\n" not in str(error.value)


def test_a_window_longer_than_the_model_is_one_line():
  prompts = task_eval.encode_prompts(["13", "3"], TOKENIZER)
  sampler = python_types.SimpleNamespace(gen_length=G, mask_id=MASK)
  check = lambda length: episodes.check_window(prompts, sampler, tasks.build(dict(
      name="relations")), max_turns=3, max_reply_length=R, max_length=length)
  check(2 + 3 * G + 2 * R)
  with pytest.raises(ValueError, match="3 turns of 4 tokens with replies of 3 between them, behind "
                     "prompts of 2, make 20 positions, more than the model's 19; lower max_turns"):
    check(19)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """Workdir of a base model that has hardly been trained."""
  path = tmp_path_factory.mktemp("base")
  cfg = tiny.changed(mdpo_config.get_config().init.base, {
      "steps": 2, "batch_size": 8, "network.num_layers": 1, "network.width": 16,
      "network.num_heads": 2, "network.mlp_width": 16, "eval.final_samples": 1})
  with cfg.unlocked():
    cfg.data.source.task.update(num_train=40, num_validation=8, num_test=8)
  modes.run("train", cfg, str(path))
  return path


def _config(base, **changes):
  cfg = mdpo_config.get_config("diffu_grpo")
  cfg.init.checkpoint = str(base)
  with cfg.unlocked():
    cfg.task = dict(name="calculator")
  return tiny.changed(cfg, {
      "updates": 2, "rollout.num_prompts": 4, "rollout.group_size": 2, "eval.num_examples": 8,
      "eval.batch_size": 8, "eval.nfe": (2,), "eval.remasking": ("low_confidence",),
      "eval.curve_nfe": 2, "rollout.sampler.steps": 2, "rollout.sampler.gen_length": 6,
      "log_steps": 1, "eval_steps": 2, "checkpoint_steps": 2, "rollout.max_turns": 2,
      "rollout.max_reply_length": 3} | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.mark.parametrize("cache", ["none", pytest.param("dual", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_tool_of_two_turns_is_learned_from(cache, base, tmp_path, monkeypatch):
  monkeypatch.setitem(tasks.TASKS, "calculator", Calculator)
  results = modes.run("rl", _config(base, rollout__sampler__cache=cache), str(tmp_path))
  lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  train = [x for x in lines if x["kind"] == "train"]
  assert len(train) == 2
  assert all(np.isfinite(x["loss"]) and x["grad_norm"] > 0 for x in train)
  rollouts = [x for x in lines if x["kind"] == "rollout"]
  assert max(x["nfe"] for x in rollouts) > 2  # of more than one turn
  assert results["table"][0]["over_denoising"] is None


@pytest.mark.slow
def test_several_turns_need_a_task_that_replies(base, tmp_path):
  cfg = mdpo_config.get_config("diffu_grpo")
  cfg.init.checkpoint = str(base)
  with cfg.unlocked():
    cfg.task.update(num_train=40, num_validation=8, num_test=8)
  with pytest.raises(ValueError, match="needs a task that replies to answers, which Sudoku"):
    modes.run("rl", tiny.changed(cfg, {"rollout.max_turns": 2}), str(tmp_path / "run"))
