r"""Surface forms of mathematics: one way of writing for what LaTeX, Unicode and plain text write.

Contents: normal, ascii_formula.

Convention: the normal form is LaTeX with * and / as operators, its "frac" for all built-up
fractions, ASCII digits without separators of thousands, and no spacing, sizes or mathematics
delimiters. Nothing here computes; the time is linear in the text.
"""

from __future__ import annotations

import re

_SAME = {
    "-": "−–—‐‑‒―﹣－➖", "*": "×·⋅∙•∗＊✕✖⨯╳・", "/": "÷∕⁄／➗", "+": "＋➕", "=": "＝",
    "(": "（", ")": "）", "[": "［", "]": "］", ".": "．", ",": "，",
    "%": "％", "!": "！", "^": "＾",
    " ": "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000",
    "": "\u200b\u200c\u200d\u2060\u2061\u2062\ufeff", "$": "＄€£¥₹",
    "\\pi ": "π", "\\infty ": "∞", "\\cup ": "∪", "\\cap ": "∩", "\\sqrt": "√", "\\pm ": "±",
    "\\le ": "≤⩽", "\\ge ": "≥⩾", "\\ne ": "≠", "\\in ": "∈", "^\\circ ": "°º", "\\approx ": "≈"}
_CHARACTERS = {ord(c): written for written, characters in _SAME.items() for c in characters}
_CHARACTERS |= {0xFF10 + i: str(i) for i in range(10)}
_CHARACTERS |= {ord(c): f"\\frac{{{a}}}{{{b}}}" for c, a, b in (
    ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5),
    ("⅗", 3, 5), ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅐", 1, 7), ("⅛", 1, 8), ("⅜", 3, 8),
    ("⅝", 5, 8), ("⅞", 7, 8), ("⅑", 1, 9), ("⅒", 1, 10))}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_BASES = {name: str(i) for i, name in enumerate(
    "two three four five six seven eight nine ten eleven twelve".split(), 2)} | {"sixteen": "16"}
_END = r"(?![a-zA-Z])"
_RULES = tuple((re.compile(pattern), written) for pattern, written in (
    (r"\\\*", "*"), (r"`|\\(?:(?:display|text|script)style|[Ll]arge|LARGE|[Hh]uge|small|normalsize)"
     + _END, ""),
    (r"-\s?\\?\$", "-"), (r"(?<!\\)\\[()\[\]]|\\?\$", " "), (r"\\%", "%"),
    (r"\\(?:boxed|fbox|mathbf|boldsymbol|bm|ensuremath)" + _END, ""),
    (r"\\(?:text(?:bf|it|rm|sf|normal)|[mh]box)" + _END, r"\\text"),
    (r"\\(?:mathrm|mathsf|rm)\s?(?=\{\s*[a-zA-Z]{2})", r"\\text"),
    (r"\\(?:left|right|middle)\s?\.", ""),
    (r"\\(?:left|right|middle|[bB]igg?[lrm]?)" + _END, ""),
    (r"\\l(?:paren|group)" + _END, "("), (r"\\r(?:paren|group)" + _END, ")"),
    (r"\\lbrack" + _END, "["), (r"\\rbrack" + _END, "]"),
    (r"\\lbrace" + _END, r"\\{"), (r"\\rbrace" + _END, r"\\}"),
    (r"(?<!\\)\\!|\{\}", ""), (r"\{,\}", ","),
    (r"(?<!\\)\\[,;:> ]|\\(?:q?quad|(?:thin|med|thick|en)space)" + _END + r"|~", " "),
    (r"\s+", " "),
    (r"<=|\\leqs?(?:lant)?" + _END, r"\\le "), (r">=|\\geqs?(?:lant)?" + _END, r"\\ge "),
    (r"!=|\\neq" + _END, r"\\ne "), (r"\\(?:times|cdot|ast)" + _END, "*"), (r"\\div" + _END, "/"),
    (r"(?<=[0-9]) ?[xX] ?(?=10 ?\^)", "*"),
    (r" ?([*/^=]) ?", r"\1"), (r"\{([-+*/=])\}", r"\1"),
    (r"\\[dtc]frac" + _END, r"\\frac"), (r"\\frac ?([0-9]|\\pi)", r"\\frac{\1}"),
    (r"(\\frac ?\{[^{}]{0,99}\}) ?([0-9])", r"\1{\2}"), (r"\\frac ?\{", r"\\frac{"),
    (r"\{([^{}\\]{1,99})\\over" + _END + r"([^{}]{1,99})\}", r"\\frac{\1}{\2}"),
    (r"^([^{}\\]{1,99})\\over" + _END + r"([^{}\\]{1,99})$", r"\\frac{\1}{\2}"),
    (r"\^ ?\{? ?\\circ" + _END + r" ?\}?|\\degree" + _END, r"^\\circ "),
    (r"(?<=[0-9])'(?=[0-9]{3}(?![0-9]))", ""),
    (r"\\not ?=", r"\\ne "), (r"\\text ?\{ ?i ?\}", "i"),
    (r"\\[hv]?phantom ?\{[^{}]{0,99}\}|\\tag ?\{[^{}]{0,99}\}", ""),
    (r"\\(?:text)?color ?\{[a-zA-Z]{0,20}\}", ""), (r"\\[hv]space\*? ?\{[^{}]{0,20}\}", " "),
    (r"\\checkmark|✓|✔|✅", "")))
# Not within brackets, where a comma lists.
_THOUSANDS = re.compile(r"(?<![0-9.,_^(\[])(?<!\\\{)[0-9]{1,3}(?:,[0-9]{3}){1,12}"
                        r"(?![0-9]|,[0-9]|[)\]]|\\\}|\.[0-9]+,)")
_GROUPS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3}){1,12}(?![0-9])")
_MIXED = re.compile(r"(?<![0-9.,/*^_)}a-zA-Z])([0-9]{1,12})(?: ?\\frac\{([0-9]{1,12})\}\{([0-9]"
                    r"{1,12})\}| ([0-9]{1,12})/([0-9]{1,12})(?![0-9/.^!]))")
_RECURRING = re.compile(r"(?<![0-9.])([0-9]{0,30})\.([0-9]{0,30})\\(?:overline|bar) ?"
                        r"\{([0-9]{1,30})\}")
_BASE = re.compile(r"_ ?\{? ?(?:\\text ?)?\{? ?([0-9]{1,3}|[a-z]{3,7})(?![a-z0-9]) ?\}? ?\}?")
_BOXED = re.compile(r"\\(?:boxed|fbox) ?\{|\{")
_LEAD = re.compile(r"^\\text ?\{ ?(?:the )?(?:final )?answer(?: is)? ?:? ?\}"
                   r"|^(?:\*\*|#+ ?)?(?:(?:so|thus|therefore|hence),? )?(?:the )?"
                   r"(?:final )?answer(?: ?(?:\*\*)?[:=](?:\*\*)?| is:?)|^=", re.IGNORECASE)


def _mixed(match: re.Match) -> str:
  whole, above, below = match[1], match[2] or match[4], match[3] or match[5]
  if int(above) >= int(below):
    return match[0]
  return f"({whole}+\\frac{{{above}}}{{{below}}})"


def _recurring(match: re.Match) -> str:
  """0.1\\overline{6} as the fraction (16 - 1)/90."""
  whole, start, period = match[1] or "0", match[2], match[3]
  above = int(whole + start + period) - int(whole + start)
  return f"\\frac{{{above}}}{{{'9' * len(period)}{'0' * len(start)}}}"


def _base(match: re.Match) -> str:
  base = _BASES.get(match[1], match[1])
  return f"_{{{base}}}" if base.isdigit() else match[0]


def _is_one_group(inner: str, text: str) -> bool:
  """Whether the last brace of a text closes its first one."""
  depth = 0
  for match in re.finditer(r"\\.|[{}]", inner, re.DOTALL):
    depth += (match[0] == "{") - (match[0] == "}")
    if depth < 0:
      return False
  return depth == 0 and text.endswith("}")


def normal(text: str) -> str:
  """Rewrites a short answer to the normal form; meanings that differ stay apart.

  Mixed numbers become sums, "2 1/2" that of 2 and a built-up fraction; "1 000", "1,000" and
  "1{,}000" become 1000; currency signs go; "Answer:" before and a full stop behind go.
  """
  text = re.sub("[⁰¹²³⁴-⁹⁻⁺]+", lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
  text = re.sub("[₀-₉]+", lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
  text = text.translate(_CHARACTERS).strip()
  while (inner := _BOXED.match(text)) and _is_one_group(text[inner.end():-1], text):
    text = text[inner.end():-1].strip()
  if len(text) > 4 and text.startswith("**") and text.endswith("**"):
    text = text[2:-2]
  for pattern, written in _RULES:
    text = pattern.sub(written, text)
  text = _LEAD.sub("", text.strip()).strip()
  text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
  text = _GROUPS.sub(lambda m: m[0].replace(" ", ""), text)
  text = _RECURRING.sub(_recurring, text)
  text = _MIXED.sub(_mixed, text)
  text = _BASE.sub(_base, text)
  return text.strip().rstrip(" .,;:")


def ascii_formula(text: str) -> str:
  """The normal form with built-up fractions as ((a)/(b)) and groups in parentheses.

  Products without a sign next to parentheses get their *. Text that is no arithmetic stays as it
  is; whether the parentheses match is for the reader to find.
  """
  parts, open_groups, position = [], [], 0
  for match in re.finditer(r"\\frac\{|\\[{}]|\{|\}", text):
    if match.start() < position:
      continue
    parts.append(text[position:match.start()])
    position = match.end()
    if match[0] == "\\frac{":
      parts.append("((")
      open_groups.append("above")
    elif match[0] == "{":
      parts.append("(")
      open_groups.append("group")
    elif match[0] == "}":
      kind = open_groups.pop() if open_groups else "group"
      if kind == "above" and (follows := re.compile(r" ?\{").match(text, position)):
        parts.append(")/(")
        open_groups.append("below")
        position = follows.end()
      else:
        parts.append({"below": "))", "above": "?", "group": ")"}[kind])  # "?" reads as nothing
    else:
      parts.append(match[0])
  joined = "".join([*parts, text[position:]])
  return re.sub(r"(?<=[0-9)!]) ?(?=\()|(?<=\)) ?(?=[0-9.])", "*", joined)
