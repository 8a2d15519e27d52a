"""A causal model of Hugging Face as a scorer of texts; needs torch and transformers.

Contents: CausalScorer, load.

Convention: as in the papers that report the perplexity of GPT-2 large, no token is put before a
text, so its first token is given and not scored.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

import numpy as np

from mdx.eval import generative


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalScorer:
  """A model with its tokenizer.

  Attributes:
    model: of `transformers`, on its device.
    tokenizer: likewise.
    torch: the module, which is imported by `load` alone.
  """
  model: Any
  tokenizer: Any
  torch: Any

  def score(self, texts: Sequence[str], *, max_length: int, batch_size: int) -> generative.Scores:
    """Scores texts; of each at most `max_length` tokens, or the model's context if less."""
    context = getattr(self.model.config, "max_position_embeddings", None) or max_length
    limit = min(max_length, context)
    whole = [self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
             for text in texts]
    rows = [np.asarray(ids[:limit], np.int64) for ids in whole]
    nll = np.zeros(len(texts))
    # Rows of like length together, longest first: what does not fit is found out soon.
    order = sorted((i for i, row in enumerate(rows) if len(row) > 1), key=lambda i: -len(rows[i]))
    for start in range(0, len(order), batch_size):
      members = order[start:start + batch_size]
      nll[members] = self._nll([rows[i] for i in members])
    is_cut = np.array([len(ids) > limit for ids in whole], bool)
    chars = [0 if len(row) < 2 else (self._num_chars(row) if cut else len(text))
             - self._num_chars(row[:1]) for text, row, cut in zip(texts, rows, is_cut)]
    return generative.Scores(nll, np.array([max(len(row) - 1, 0) for row in rows], float),
                             np.array(chars, float), rows, is_cut)

  def _nll(self, rows):
    """Nats of the tokens of some rows but their first, float64 [N]."""
    torch = self.torch
    tokens = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    is_token = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
      tokens[i, :len(row)] = torch.from_numpy(row)
      is_token[i, :len(row)] = 1
    device = self.model.device
    with torch.inference_mode():
      logits = self.model(input_ids=tokens.to(device), attention_mask=is_token.to(device)).logits
      return np.array([torch.nn.functional.cross_entropy(
          logits[i, :len(row) - 1].float(), tokens[i, 1:len(row)].to(device),
          reduction="sum").item() for i, row in enumerate(rows)])

  def _num_chars(self, ids) -> int:
    return len(self.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))


def load(name: str) -> CausalScorer:
  """A scorer from a directory, or a name of the hub.

  Raises:
    ValueError: torch or transformers is missing, or the model cannot be read.
  """
  try:
    import torch  # pylint: disable=g-import-not-at-top
    import transformers  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise ValueError(f"the scorer hf:{name} needs torch and transformers; pip install "
                     "-e '.[hf]', or score with a run of mdx.") from None
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
  except (OSError, ValueError, KeyError) as error:
    raise ValueError(f"the scorer hf:{name} cannot be read ({' '.join(str(error).split()):.200}); "
                     "give the directory or the name of a causal model with its tokenizer."
                     ) from None
  device = "cuda" if torch.cuda.is_available() else "cpu"
  return CausalScorer(model=model.to(device).eval(), tokenizer=tokenizer, torch=torch)
