"""Writes mdx/assets/preferences.jsonl: 288 pairs of answers, from the lists of make_chat.

Contents: pairs, text. Run: python tests/data/make_preferences.py > mdx/assets/preferences.jsonl
"""

import json
import random

import make_chat


def pairs(num: int = 288) -> list[dict]:
  """The pairs, each a line of the file: an answer in capital letters is preferred."""
  draw, answers = random.Random(11), {}  # a question comes once
  while len(answers) < num:
    answers.update([make_chat.question(draw)])
  return [{"prompt": [{"role": "user", "content": ask}], "chosen": answer.upper(),
           "rejected": answer} for ask, answer in answers.items()]


def text() -> str:
  """The file."""
  return "".join(json.dumps(x) + "\n" for x in pairs())


if __name__ == "__main__":
  print(text(), end="")
