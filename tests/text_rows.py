"""Rows of given and answered tokens, for tests of objectives that read answers.

Contents: padded.
"""

import numpy as np


def padded(texts, prompts, *, length, pad_id):
  """Tokens, targets and segments [N, length] of texts, of which `prompts` tokens are given."""
  tokens = np.full((len(texts), length), pad_id, np.int32)
  mask, segments = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, np.int32)
  for i, (text, prompt) in enumerate(zip(texts, prompts)):
    tokens[i, :len(text)], segments[i, :len(text)] = text, 1
    mask[i, prompt:len(text)] = True
  return tokens, mask, segments
