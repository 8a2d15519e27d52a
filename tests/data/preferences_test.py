"""Pairs of answers: their rows, and what is refused."""

import json
import pathlib

import numpy as np
import pytest

from mdx import assets
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib

import make_preferences

BYTE = tokenizer_lib.build("byte")
CHAT = tokenizer_lib.build("asset:chat_bpe512.json", chat_template="asset:chat.jinja")


def _rows(tmp_path, records, tokenizer=BYTE, **fields):
  path = tmp_path / "pairs.jsonl"
  path.write_text("".join(json.dumps(x) + "\n" for x in records))
  cfg = dict(dict(length=48, packing="pad"), **fields, source=dict(
      name="preferences", path=str(path), holdout_every=0))
  return next(iter(pipeline.build(cfg, tokenizer, split="train", batch_size=len(records), seed=0,
                                  shuffle=False, repeat=False, drop_remainder=False)))


def test_a_row_has_the_prompt_before_each_answer_and_scores_the_answers_alone(tmp_path):
  batch = _rows(tmp_path, [{"prompt": "ab", "chosen": "cde", "rejected": "f"}])
  for tokens, mask, segments, answer in (
      ("tokens", "loss_mask", "segment_ids", "cde"),
      ("other", "other_loss_mask", "other_segment_ids", "f")):
    ids = np.concatenate([BYTE.encode("ab" + answer), [BYTE.eos_id]])
    np.testing.assert_array_equal(batch[tokens][0], np.pad(
        ids, (0, 48 - len(ids)), constant_values=BYTE.pad_id))
    place = np.arange(48)
    np.testing.assert_array_equal(batch[mask][0], (place >= 2) & (place < len(ids)))
    np.testing.assert_array_equal(batch[segments][0], place < len(ids))


def test_of_a_conversation_the_last_answer_alone_counts(tmp_path):
  prompt = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "Spell ox."}]
  batch = _rows(tmp_path, [{"prompt": prompt, "chosen": "O-X.", "rejected": "o-x."}], CHAT)
  decode = lambda name, mask: CHAT.decode(batch[name][0][batch[mask][0]])
  assert decode("tokens", "loss_mask").strip().startswith("O-X.")
  assert decode("other", "other_loss_mask").strip().startswith("o-x.")
  assert "Hello!" in CHAT.decode(batch["tokens"][0])


@pytest.mark.parametrize("record, message", [
    ({"prompt": "a", "chosen": "b"}, "line 1: no field 'rejected' but prompt, chosen"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 1: chosen and rejected are the same"),
    ({"prompt": "a", "chosen": "", "rejected": "b"}, "line 1: chosen must be a text that is not"),
    ({"prompt": "a", "chosen": "b", "rejected": 3}, "line 1: rejected must be a text"),
    ({"prompt": [], "chosen": "b", "rejected": "c"}, "line 1, prompt: expected a list of messages"),
    ({"prompt": "a", "chosen": "b" * 60, "rejected": "c"}, "more than length 48")])
def test_pairs_without_meaning_are_refused_in_one_line(record, message, tmp_path):
  with pytest.raises(ValueError, match=message) as error:
    _rows(tmp_path, [record])
  assert "\n" not in str(error.value)


def test_the_packaged_pairs_are_those_of_the_script():
  assert pathlib.Path(assets.path("preferences.jsonl")).read_text() == make_preferences.text()
