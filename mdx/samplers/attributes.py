"""Attributes of whole texts that a search may be conditioned on, and classifiers of what will be.

Contents: ATTRIBUTES, Attribute, Children, Classifier, save, load.

Convention: a text has the tokens before its first end of text, or all of its free positions. A
*child* of a prefix is the prefix and one more token; it is final if the token ends the text or no
position is left.

Reference: Yoshida et al. 2023, arXiv:2311.08817 (conditional mode search, attribute-conditioned
beam search).
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx.utils import files

ATTRIBUTES = ("none", "non_empty", "length", "complete")


class Children(NamedTuple):
  """Children of B prefixes, by their last token, bool [B, V] each.

  Attributes:
    is_final: whether the text ends with it.
    is_possible: whether the text, if final, has the attribute, or a longer one may still have it.
  """
  is_final: jax.Array
  is_possible: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribute:
  """A property of a text.

  Attributes:
    name: "none": every text; "non_empty": at least one token; "length": exactly `length` tokens;
      "complete": an end of text, after one of `last_ids` if there are any.
    length: number of tokens of "length".
    last_ids: ids that a complete text may end with; () = any.
    end_ids: ids that end a text.
    mask_id: id that is no token of a text.
  """
  name: str
  length: int
  last_ids: tuple[int, ...]
  end_ids: tuple[int, ...]
  mask_id: int

  def __post_init__(self):
    if self.name not in ATTRIBUTES:
      raise ValueError(f"sampler.attribute is {self.name!r}; choose from {', '.join(ATTRIBUTES)}."
                       + config_lib.did_you_mean(str(self.name), ATTRIBUTES))
    if self.name == "length" and self.length < 1:
      raise ValueError("sampler.attribute length needs sampler.attribute_length of at least 1, got "
                       f"{self.length}.")
    if self.name in ("non_empty", "complete") and not self.end_ids:
      raise ValueError(f"sampler.attribute {self.name} needs a tokenizer with an end-of-text id.")

  def children(self, vocab_size: int, number: jax.Array, left: jax.Array,
               last: jax.Array) -> Children:
    """Returns what each next token makes of prefixes.

    Args:
      vocab_size: V.
      number: int32 [B], tokens of each prefix.
      left: int32 [B], free positions after that of the next token.
      last: int32 [B], last token of each prefix, -1 of an empty one.
    """
    token = jnp.arange(vocab_size)[None]
    is_end = jnp.isin(token, jnp.array(self.end_ids or (-1,)))
    is_final = is_end | (left == 0)[:, None]
    length = number[:, None] + ~is_end
    is_possible = jnp.broadcast_to(token != self.mask_id, is_final.shape)
    if self.name == "non_empty":
      is_possible &= length > 0
    elif self.name == "length":
      is_reachable = (length <= self.length) & (self.length <= number + 1 + left)[:, None]
      is_possible &= jnp.where(is_final, length == self.length, is_reachable)
    elif self.name == "complete":
      closes = jnp.isin(last, jnp.array(self.last_ids))[:, None] if self.last_ids else True
      is_possible &= jnp.where(is_final, is_end & closes, True)
    return Children(is_final, is_possible)

  def holds(self, tokens: np.ndarray) -> np.ndarray:
    """Returns whether texts int32 [N, G] have the attribute, bool [N], on the host."""
    is_end = np.isin(tokens, self.end_ids)
    length = np.where(is_end.any(axis=1), is_end.argmax(axis=1), tokens.shape[1])
    if self.name == "non_empty":
      return length > 0
    if self.name == "length":
      return length == self.length
    if self.name == "complete":
      last = np.where(length > 0, tokens[np.arange(len(tokens)), np.maximum(length - 1, 0)], -1)
      return is_end.any(axis=1) & (np.isin(last, self.last_ids) if self.last_ids else True)
    return np.ones(len(tokens), bool)


class Classifier(NamedTuple):
  """Logit of an attribute of the eventual text, of a hidden state and the token drawn from it.

  (hidden down) up[:, token] + bias[token], of rank r.

  Attributes:
    down: float32 [D, r].
    up: float32 [r, V].
    bias: float32 [V].
  """
  down: Any
  up: Any
  bias: Any

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Returns the logits of all next tokens, float32 [..., V], of hidden states [..., D]."""
    found = hidden.astype(jnp.float32) @ self.down @ self.up
    return found + jnp.broadcast_to(self.bias, found.shape)


def save(path: str | pathlib.Path, classifier: Classifier, facts: Mapping[str, Any]) -> None:
  """Writes a classifier as .npz, with facts: the model's checksum and the attribute."""
  with files.replacing(path) as new, open(new, "wb") as file:
    np.savez(file, **{k: np.asarray(v) for k, v in classifier._asdict().items()},
             **{k: np.asarray(v) for k, v in facts.items()})


def load(path: str | pathlib.Path) -> tuple[Classifier, dict[str, Any]]:
  """Returns a classifier and its facts; ValueError if there is none."""
  try:
    with np.load(path) as file:
      found = {k: file[k] for k in file.files}
    return (Classifier(*(found.pop(k) for k in Classifier._fields)),
            {k: v.tolist() for k, v in found.items()})
  except (OSError, KeyError, ValueError) as error:
    raise ValueError(f"sampler.classifier {path} is no classifier of attributes ({error}); leave "
                     "it empty, and mode sample fits one.") from None
