"""Rows of texts are their prompts, cut where they must be, and say what is pooled."""

import types

import numpy as np
import pytest

from mdx.eval import embedders

_BEGIN, _END = (100,), (101,)
_TOKENIZER = types.SimpleNamespace(vocab_size=256, encode=lambda text: np.array(
    [ord(c) for c in text], np.int32))


def _row(text, prompt="{text}", max_length=20, **fields):
  """The row as text, "<" and ">" around it, and what is counted of it."""
  row, = embedders.rows_of([text], prompt, embedders.Settings.of(fields), _TOKENIZER, begin=_BEGIN,
                           end=_END, max_length=max_length)
  shown = "".join({100: "<", 101: ">"}.get(i, chr(i)) for i in row.ids)
  return shown, "".join(c for c, keep in zip(shown, row.counted) if keep), row.is_cut


@pytest.mark.parametrize("options, expected", [
    (dict(), ("<Fox>", "<Fox>", False)),
    (dict(lower_case=True, prompt="A: {text}"), ("<a: fox>", "<a: fox>", False)),
    (dict(prompt="A: {text}", include_prompt=False), ("<A: Fox>", "Fox>", False)),
    (dict(include_prompt=False), ("<Fox>", "<Fox>", False)),
    (dict(max_length=4), ("<Fo>", "<Fo>", True)),
    (dict(prompt="A{text}BC", max_length=7), ("<AFoBC>", "<AFoBC>", True)),
    (dict(prompt="A{text}BC", pooling="suffix"), ("<AFoxBC>", "BC", False)),
    (dict(attention="echo"), ("<Fox Fox>", " Fox", False)),
    (dict(attention="echo", max_length=7), ("<FoFo>", "Fo", True)),
    (dict(pooling="special(ids=(33, 63))"), ("<Fox!?>", "<Fox!?>", False))])
def test_a_row_is_its_prompt_cut_and_says_what_is_counted(options, expected):
  assert _row("Fox", **options) == expected


def test_prompts_stand_before_texts_unless_they_say_where():
  settings = embedders.Settings.of(dict(prompts={"query": "q: ", "title": ["{text}?", "t "]},
                                        default_kind="query"))
  assert settings.prompts_of("") == settings.prompts_of("query") == ("q: {text}",)
  assert settings.prompts_of("title") == ("{text}?", "t {text}")
  assert settings.prompts_of("document") == ("{text}",)


def test_an_empty_row_and_what_is_no_text_are_refused():
  with pytest.raises(ValueError, match="text 1 is 7; expected a text"):
    embedders.rows_of(["a", 7], "{text}", embedders.Settings(), _TOKENIZER, begin=(), end=(),
                      max_length=9)
  with pytest.raises(ValueError, match="text 0 is empty"):
    embedders.rows_of([""], "{text}", embedders.Settings(), _TOKENIZER, begin=(), end=(),
                      max_length=9)


def test_embeddings_of_length_0_stay_0():
  found = embedders.finished(np.array([[0.0, 0.0], [3.0, 4.0]]), embedders.Settings(normalize=True))
  np.testing.assert_allclose(found, [[0, 0], [0.6, 0.8]], rtol=1e-6)
