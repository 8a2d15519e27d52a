"""Questions that are answered by searching a corpus, of files.

Contents: Search, INSTRUCTION.

Reference: the format of questions with contexts is HotpotQA's (Yang et al. 2018, arXiv:1809.09600).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

from mdx.tasks import problems
from mdx.tasks.search import agent as agent_lib
from mdx.tasks.search import answered
from mdx.tasks.search import documents as documents_lib
from mdx.tasks.search import tools

INSTRUCTION = (
    "Answer the question. You may think inside <think> and </think>. To look something up, write "
    "<search> query </search>; what is found comes inside <information> and </information>. Search "
    "as often as you need, then give the answer alone inside <answer> and </answer>.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(answered.Answered):
  """Questions with a search; the reward is that of `tasks.search.agent`.

  Attributes:
    path: .jsonl file (.xz and .gz too) with fields question and answer, a text or a list of them.
    test_path: file of the test split; "" takes it from `path`. Whether a question of `path` is for
      training or validation depends on its text.
    corpus: .jsonl file of documents with id, text and, where it is, title; "" = the paragraphs
      that the questions have in `context`.
    tool: `name` and fields of `tasks.search.tools`.
    count: documents of a reply.
    max_chars: of a reply.
    seconds: that the tool may take for the queries of a turn.
    reward: recall, penalised, f1 or exact.
    format_weight, answer_weight: of the two parts of the reward.
    instruction: before the question.
  """
  path: str
  test_path: str = ""
  corpus: str = ""
  tool: Mapping[str, Any] = dataclasses.field(default_factory=lambda: dict(name="bm25"))
  count: int = 3
  max_chars: int = 1500
  seconds: float = 60.0
  reward: str = "penalised"
  format_weight: float = 0.1
  answer_weight: float = 0.9
  instruction: str = INSTRUCTION

  noun: ClassVar[str] = "questions with a search"
  rules: ClassVar[str] = ("An answer is right if it is the reference without case, punctuation and "
                          "articles.")

  def __post_init__(self):
    problems.check_files(self, "{\"question\": ..., \"answer\": ...}")
    self._unread  # pylint: disable=pointless-statement  (its fields are checked)

  @functools.cached_property
  def _unread(self) -> agent_lib.Agent:
    """The agent; its tool has no corpus yet."""
    return agent_lib.Agent(
        tool=tools.build(self.tool), count=self.count, max_chars=self.max_chars,
        seconds=self.seconds, reward=self.reward, format_weight=self.format_weight,
        answer_weight=self.answer_weight)

  @functools.cached_property
  def agent(self) -> agent_lib.Agent:
    """The agent, its tool over the corpus."""
    paths = [path for path in (self.path, self.test_path) if path]
    documents = documents_lib.read(self.corpus) if self.corpus else documents_lib.of_contexts(
        row for path in paths for row in problems.read_rows(path))
    if not documents and self.tool["name"] in tools.TOOLS:
      raise ValueError("config.task.corpus is empty, and the questions have no \"context\"; give a "
                       ".jsonl file with one {\"id\": ..., \"text\": ...} a line.")
    self._unread.tool.build(documents)
    return self._unread

  def examples(self, split: str) -> list[dict[str, Any]]:
    """Returns [{"prompt", "answer", "key", "golds"}]."""
    self.agent  # pylint: disable=pointless-statement  (a corpus that is none is said first)
    return problems.cached(self, split, functools.partial(problems.read, self, self._read_file))

  def _read_file(self, path: str) -> list[dict[str, Any]]:
    found = []
    for where, row in problems.read_rows(path):
      question = problems.field(where, row, "question").strip()
      golds = row.get("answer")
      golds = [golds] if isinstance(golds, str) else golds
      if not isinstance(golds, list) or not golds or not all(
          isinstance(x, str) and x.strip() for x in golds):
        raise ValueError(f"{where}: \"answer\" must be a text or a list of texts, got "
                         f"{row.get('answer')!r:.60}; correct the row, or take it out.")
      prompt = f"{self.instruction}\nQuestion: {question}\n" if self.instruction else question
      found.append({"prompt": prompt, "answer": golds[0], "golds": golds,
                    "key": " ".join(question.split())})
    return found
