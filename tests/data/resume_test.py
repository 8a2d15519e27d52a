"""Batches and iterator states are those of mdx f2e3b4f, so that its checkpoints resume."""

import hashlib
import json
import pathlib

import numpy as np
import pytest

from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib

# States after five batches, and digests of the next four, made by mdx f2e3b4f from CASES.
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "data_states.json"
_TEXTS = tuple(f"the text of number {i} " * (1 + i % 4) for i in range(60))
_MEMORY = dict(name="memory", documents=_TEXTS)
_CHAT = dict(name="chat", path="asset:chat.jsonl")
_SUDOKU = dict(name="task", task=dict(name="sudoku", num_train=40, num_validation=5, num_test=5))
_STRUCTURE = dict(name="structure", documents=dict(name="grammar", num_documents=9,
                                                   num_validation=9, num_paragraphs=2))
_MIXED = [dict(source=_MEMORY, weight=1.0), dict(source=_CHAT, weight=2.0)]
# name -> (tokenizer, data config)
CASES = {
    **{f"text-{packing}": ("byte", dict(length=120, source=_MEMORY, packing=packing))
       for packing in ("concat", "first_fit", "pad", "crop")},
    "joined": ("byte", dict(length=64, source=_MEMORY, isolate_documents=False, num_shards=2)),
    "chat": ("chat", dict(length=256, source=_CHAT, packing="first_fit", fill="eos_multiple",
                          too_long="skip")),
    "chat-together": ("chat", dict(length=256, source=_CHAT, packing="pad", fill="eos_together",
                                   too_long="skip")),
    "mixture": ("chat", dict(length=256, mixture=_MIXED, packing="first_fit", too_long="skip")),
    "mixture-together": ("chat", dict(length=256, mixture=_MIXED, packing="pad",
                                      fill="eos_together", too_long="skip")),
    "answered": ("byte", dict(length=48, source=_SUDOKU, packing="pad", fill="eos")),
    "parts": ("grammar", dict(length=32, source=_STRUCTURE, packing="pad")),
    "dated": ("news", dict(length=32, source=dict(name="news", num_documents=40), packing="crop")),
    "labelled": ("byte", dict(length=80, source=dict(name="packaged", task="intent", num_train=50),
                              packing="pad", too_long="cut", labels=(
                                  "AddToPlaylist", "BookRestaurant", "GetWeather", "PlayMusic",
                                  "RateBook", "SearchCreativeWork", "SearchScreeningEvent"))),
}


def _build(name):
  tokenizer, cfg = CASES[name]
  tokenizer = (tokenizer_lib.build("asset:chat_bpe512.json", chat_template="asset:chat.jinja")
               if tokenizer == "chat" else tokenizer_lib.build(tokenizer))
  return pipeline.build(cfg, tokenizer, split="train", batch_size=4, seed=3)


def _digest(batch) -> str:
  """Of names, types, shapes and values."""
  found = hashlib.sha256()
  for name, value in sorted(batch.items()):
    found.update(f"{name} {value.dtype} {value.shape}".encode())
    found.update(np.ascontiguousarray(value).tobytes())
  return found.hexdigest()[:16]


@pytest.mark.parametrize("name", CASES)
def test_a_state_of_an_older_mdx_continues_with_the_next_batch(name):
  stored = json.loads(GOLDEN.read_text())[name]
  iterator = iter(_build(name))
  for _ in range(5):
    next(iterator)
  assert json.loads(json.dumps(iterator.get_state())) == stored["state"]
  assert [_digest(next(iterator)) for _ in range(4)] == stored["batches"]
  fresh = iter(_build(name))
  fresh.set_state(stored["state"])
  assert [_digest(next(fresh)) for _ in range(4)] == stored["batches"]
