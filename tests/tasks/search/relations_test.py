"""The knowledge base: what is held out, and solved problems that its search confirms."""

import numpy as np
import pytest

from mdx import tasks
from mdx.data import chat
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.tasks import problems

TASK = tasks.build(dict(name="relations", num_ramp=60))
TOKENIZER = tokenizer_lib.build("symbols:" + " ".join(TASK.symbols),
                                chat_template="asset:agent.jinja")


def _texts(split, stage):
  return ["".join(m["content"] for m in messages) for messages in TASK.trajectories(split, stage)]


def test_no_text_of_training_names_a_held_out_entity_and_every_syllable_is_trained():
  names = {split: set(TASK._names[split]) for split in problems.SPLITS}
  assert sum(map(len, names.values())) == 256 and min(map(len, names.values())) >= 10
  trained = "\n".join(_texts("train", "questions") + _texts("train", "ramp"))
  assert not [name for name in names["test"] | names["validation"] if name in trained]
  tested = set(TOKENIZER.encode("".join(_texts("test", "questions"))).tolist())
  assert tested <= set(TOKENIZER.encode(trained.replace("\n", "")).tolist())
  assert not {e["prompt"] for e in TASK.examples("train")} & {
      e["prompt"] for e in TASK.examples("test")}


@pytest.mark.parametrize("stage", ["ramp", "questions"])
def test_the_search_confirms_every_solution_within_the_stated_lengths(stage):
  for messages in TASK.trajectories("test", stage)[:12]:
    transcript, size = "", lambda text: len(TOKENIZER.encode(text))
    for message in messages[1:]:
      if message["role"] == "tool":
        assert TASK.reply([{}], [transcript]) == [message["content"]]
        assert size(message["content"]) <= TASK.reply_length
      elif "<search>" in message["content"]:
        assert size(message["content"]) <= TASK.turn_length
      transcript += message["content"]
    assert TASK.reply([{}], [transcript]) == [None]
    if stage == "questions":
      assert size(messages[0]["content"]) == TASK.prompt_length


def test_solved_questions_are_right_and_a_verbose_answer_is_worth_half():
  examples, texts = TASK.examples("test"), []
  for messages in TASK.trajectories("test", "questions"):
    texts.append("".join(m["content"] for m in messages[1:]))
  found = TASK.score(examples, texts)
  assert found["correct"].all() and np.allclose(found["reward"], 1.0)
  assert (TASK.measures(examples, texts)["searches"] == 2).all()
  gold = examples[0]["answer"]
  wordy = TASK.score(examples[:1], [f"<answer>Kaban,{gold}</answer>"])
  assert float(wordy["reward"][0]) == pytest.approx(0.1 + 0.9 / 2) and not wordy["correct"][0]


@pytest.mark.parametrize("least, most", [(1, 1), (2, 2), (3, 3), (1, 3)])
def test_a_curriculum_has_the_masks_that_it_asks_for(least, most):
  task = tasks.build(dict(name="relations", num_ramp=40, min_masks=least, max_masks=most,
                          last_rate=0.0))
  rows = task.trajectories("train", "ramp")
  masks = [messages[0]["content"].count("[mask]") for messages in rows]
  assert set(masks) == set(range(least, most + 1))
  for number, messages in zip(masks, rows):
    assert sum(m["role"] == "tool" for m in messages) == number
    assert messages[-1]["content"].count(",") == number - 1


def test_what_the_tool_says_is_no_target():
  cfg = dict(name="trajectories", task=dict(name="relations", num_ramp=20), stage="questions")
  messages = sources.build(cfg).records("train")[0]["messages"]
  tokens, is_given = chat.encode(TOKENIZER, messages)
  written = "".join(m["content"] for m in messages if m["role"] == "assistant")
  assert TOKENIZER.decode(tokens[~is_given]) == written
  assert tokens[-1] == TOKENIZER.eos_id and not is_given[-1] and is_given[:7].all()
  assert TOKENIZER.decode(tokens) == "".join(m["content"] for m in messages)
  for fields, message in ((dict(stage="both"), "stage is 'both'; choose from ramp, questions"),
                          (dict(task=dict(name="sudoku")), "solves no problem itself"),
                          (dict(task=dict(name="relations", max_masks=4)), "max_masks must lie"),
                          (dict(task=dict(name="relations", reward="bleu")), "reward is 'bleu'")):
    with pytest.raises(ValueError, match=message):
      sources.build(cfg | fields)
