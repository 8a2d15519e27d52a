"""Tasks in files of a user, and the sizes of their rows."""

import pathlib
import pickle
import re

import pytest

from mdx import tasks
from mdx.configs import eval as eval_config
from mdx.configs import mdpo
from mdx.data import task_rows
from mdx.data import tokenizer as tokenizer_lib
from mdx.tasks import sudoku

_PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "howto" / "own_task.md"
SUMS = re.search(r"^```python\n(.*?)^```", _PAGE.read_text(encoding="utf-8"), re.M | re.S)[1]


def _file(folder, text=SUMS, name="sums.py"):
  (folder / name).write_text(text)
  return str(folder / name)


def test_the_file_of_the_page_sets_tokenizer_lengths_and_rollouts(tmp_path):
  path = _file(tmp_path)
  config = mdpo.get_config(f"task={path},wd1")
  base = config.init.base
  assert config.task.name == base.data.source.task.name == path and config.objective.name == "wd1"
  assert base.tokenizer.path == "symbols:+ 0 1 2 3 4 5 6 7 8 9 ="
  assert (base.data.length, config.rollout.sampler.gen_length) == (4 + 5, 5)
  assert config.eval.nfe == (2, 4) and config.rollout.sampler.steps == 2
  config = eval_config.get_config(f"task={path}")
  assert (config.sampler.gen_length, config.sampler.steps, config.task.name) == (5, 2, path)
  assert mdpo.get_config(f"llada_8b,task={path}").task.to_dict() == {"name": path}
  with pytest.raises(ValueError, match="takes one of sudoku, countdown, llada_8b or task=FILE.py"):
    mdpo.get_config(f"countdown,task={path}")


def test_a_task_of_a_file_has_fields_and_can_be_pickled(tmp_path):
  path = _file(tmp_path)
  task = tasks.build({"name": path, "largest": 9})
  assert len({e["sum"] for split in ("train", "validation", "test")
              for e in task.examples(split)}) == 19 and task.blank == ""
  assert pickle.loads(pickle.dumps(task)) == task == tasks.build({"name": path, "largest": 9})
  with pytest.raises(ValueError, match="has no field 'larges'; its fields are largest"):
    tasks.build({"name": path, "larges": 9})


@pytest.mark.parametrize("size", [dict(unique=True, in_place=True), dict(unique=False)])
def test_measured_sizes_of_sudoku_are_those_that_it_states(size):
  task = sudoku.Sudoku(size=4, min_givens=4, max_givens=6, num_train=40, num_validation=5,
                       num_test=5, **size)
  assert task_rows.measured(task) == task_rows.of_task(task)

  class Silent:  # the same problems without symbols
    blank = task.blank
    examples, prompt, score, training_pairs = (
        task.examples, task.prompt, task.score, task.training_pairs)
  found, stated = task_rows.measured(Silent()), task_rows.of_task(task)
  assert found[1:] == stated[1:]
  ours, theirs = (tokenizer_lib.build(x.tokenizer) for x in (found, stated))
  assert ours.vocab_size == theirs.vocab_size


def test_texts_with_spaces_are_written_in_characters_or_bytes(tmp_path):
  path = _file(tmp_path, SUMS.replace(':03d}="', ':03d} ="'))
  assert mdpo.get_config(f"task={path}").init.base.tokenizer.path == "char"
  path = _file(tmp_path, SUMS.replace(':03d}="', ':03d} \N{RIGHTWARDS ARROW}"'), "bytes.py")
  assert mdpo.get_config(f"task={path}").init.base.data.length == 3 + 1 + 3 + 5


_WRONG = [
    ('"correct": correct', '"corect": correct', "score must give 'correct' for each of 64 answers"),
    ("int(a) + int(b) == total", "int(a) * int(b) == total", "score calls the answer '00[+]01' of '001=' wrong"),
    ("== split]", "== split or n == 7]", "the problem '007=' is in train and in validation"),
    ("  def score", "  def scores", "expected one class with examples, prompt, score, got Sums"),
    ("  def training_pairs", "  def pairs", "Sums has no training_pairs"),
    ("@dataclasses.dataclass(frozen=True, kw_only=True)", "", "Sums is no dataclass"),
    ("== split]", "== split != 'test']", "the test split has no examples"),
    ("  largest: int = 99", "  largest: int = 99\n  symbols = tuple('0123456789=')",
     "'[+]00' does not begin with one of the 11 symbols"),
    ("  largest: int = 99", "  largest: int = 99\n  symbols = tuple('0123456789=+')\n"
     "  prompt_length = 4\n  answer_length = 4", "answer_length is 4, and the longest has 5"),
    ("import dataclasses", "import dataclasses\n1 / 0", "sums.py' fails: ZeroDivisionError"),
]


@pytest.mark.parametrize("old, new, message", _WRONG)
def test_a_task_that_does_not_fit_is_refused_in_one_line(old, new, message, tmp_path):
  assert old in SUMS
  path = _file(tmp_path, SUMS.replace(old, new))
  with pytest.raises(ValueError, match=message) as error:
    mdpo.get_config(f"task={path}")
  assert "\n" not in str(error.value)


def test_a_missing_file_is_named():
  with pytest.raises(ValueError, match="task file 'nowhere.py' does not exist"):
    mdpo.get_config("task=nowhere.py")
