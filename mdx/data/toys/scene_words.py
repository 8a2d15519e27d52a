"""Words of small drawn scenes.

Contents: COLOURS, SHAPES, PLACES, PROMPT, TOKENIZER, Objects, answer.
"""

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
SHAPES = ("disk", "square", "cross", "triangle")
PLACES = ("upper-left", "upper-right", "lower-left", "lower-right")
PROMPT, _AND = "describe", "and"
TOKENIZER = "symbols:" + " ".join([PROMPT, _AND, *COLOURS, *SHAPES, *PLACES])
Objects = list[tuple[int, int, int]]  # numbers of a colour, a shape and a place


def answer(objects: Objects) -> str:
  """The text of a scene."""
  names = [[list(COLOURS)[colour], SHAPES[shape], PLACES[place]]
           for colour, shape, place in objects]
  return "".join(_AND.join("".join(words) for words in names))
