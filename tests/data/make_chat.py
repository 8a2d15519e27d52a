"""Writes mdx/assets/chat.jsonl: 480 short conversations, from lists and rules.

Contents: question, conversations, text. Run: python tests/data/make_chat.py > mdx/assets/chat.jsonl
"""

import json
import random

_NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen sixteen seventeen eighteen nineteen twenty").split()
_OPPOSITES = ("hot cold,big small,up down,left right,open closed,fast slow,wet dry,high low,light "
              "dark,early late,full empty,near far,old new,loud quiet,soft hard,rich poor,long "
              "short,thick thin,first last,clean dirty").split(",")
_ANIMALS = ("a cow=moo,a duck=quack,a cat=meow,a dog=woof,a sheep=baa,a horse=neigh,a hen=cluck,"
            "a frog=croak,an owl=hoot,a bee=buzz").split(",")
_WORDS = ("river stone garden window copper lantern bridge market violin harbor thunder pocket "
          "candle forest mirror basket winter silver feather anchor").split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def question(draw):
  """A question and its answer."""
  kind = draw.randrange(6)
  if kind == 0:
    a, b = draw.randrange(11), draw.randrange(11)
    ask = draw.choice(["What is {} plus {}?", "Add {} and {}.", "How much is {} plus {}?"])
    return ask.format(_NUMBERS[a], _NUMBERS[b]), f"It is {_NUMBERS[a + b]}."
  if kind == 1:
    pair = draw.choice(_OPPOSITES).split()
    a, b = pair if draw.random() < 0.5 else pair[::-1]
    ask = draw.choice(["What is the opposite of {}?", "Tell me the opposite of {}."])
    return ask.format(a), f"The opposite of {a} is {b}."
  if kind == 2:
    animal, sound = draw.choice(_ANIMALS).split("=")
    return f"What does {animal} say?", f"{animal.capitalize()} says {sound}."
  if kind == 3:
    word = draw.choice(_WORDS)
    return draw.choice(["Spell {}.", "How do you spell {}?"]).format(word), "-".join(word) + "."
  if kind == 4:
    i, step = draw.randrange(7), draw.choice([1, -1])
    ask = "Which day comes {} {}?".format("after" if step > 0 else "before", _DAYS[i])
    return ask, f"{_DAYS[(i + step) % 7]}."
  i = draw.randrange(2, 10)
  return f"Count to {_NUMBERS[i]}.", ", ".join(_NUMBERS[1:i + 1]) + "."


def conversations(num: int = 480) -> list[dict]:
  """The conversations, each a line of the file."""
  draw, made = random.Random(7), []
  for _ in range(num):
    messages, loud = [], draw.random() < 0.2
    if loud:
      messages.append(("system", "Answer in capital letters."))
    if draw.random() < 0.2:
      messages += [("user", draw.choice(["Hello!", "Good day."])), ("assistant", "Hello! Ask me.")]
    for _ in range(draw.choice([1, 1, 2])):
      ask, answer = question(draw)
      messages += [("user", ask), ("assistant", answer)]
    if draw.random() < 0.15:
      messages += [("user", "Thank you."), ("assistant", "You are welcome.")]
    made.append({"messages": [
        {"role": role, "content": text.upper() if loud and role == "assistant" else text}
        for role, text in messages]})
  return made


def text() -> str:
  """The file."""
  return "".join(json.dumps(x) + "\n" for x in conversations())


if __name__ == "__main__":
  print(text(), end="")
