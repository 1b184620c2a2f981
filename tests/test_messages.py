"""Texts that people see are plain English: none of a few phrases that a native technical writer would not write.

`python -m tests.test_messages` lists every text that has one, with its place.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("signer", "catalog", "stager", "deployer")
PHRASES = re.compile(r" is no | is none\b|(?<!-)\b(?:whoever|somebody|nobody)\b", re.IGNORECASE)


def documented(node: ast.AST) -> bool:
    """Whether a function's docstring is shown to people: a command's help, a route's description."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
        isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) for one in node.decorator_list
    )


def texts(path: Path) -> list[tuple[int, str]]:
    """Texts of a file that people may see, with their lines: strings that are no docstrings, help, whole templates."""
    if path.suffix != ".py":
        return list(enumerate(path.read_text().splitlines(), start=1))
    tree = ast.parse(path.read_text())
    silent: set[int] = set()
    inside: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else ():
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and not documented(node):
                silent.add(id(one.value))
        if isinstance(node, ast.JoinedStr):
            inside |= {id(one) for one in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values]
            found.append((node.lineno, "".join(parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent | inside:
            found.append((node.lineno, node.value))
    return found


def offending() -> list[tuple[str, int, str]]:
    """Every text with such a phrase: file, line, text."""
    paths = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*")) if path.suffix in SUFFIXES]
    return [
        (str(path.relative_to(ROOT)), line, " ".join(text.split()))
        for path in paths
        for line, text in texts(path)
        if PHRASES.search(f" {text} ")
    ]


SUFFIXES = {".py", ".html", ".js"}


def test_the_phrases_are_seen_where_people_see_them(tmp_path: Path) -> None:
    """In messages, formatted or not, and in help; not in what is for programmers."""
    (tmp_path / "sample.py").write_text(
        '"""Nobody reads this."""\n\n'
        'NAME = "star"\n"""Whoever it is."""\n\n'
        '@app.command("x")\ndef x():\n    """Ask somebody."""\n    raise Error(f"{NAME} is no image")\n\n'
        'def y():\n    """Whoever calls."""\n    print("it is none")\n'
    )
    found = [line for line, text in texts(tmp_path / "sample.py") if PHRASES.search(f" {text} ")]
    assert sorted(found) == [8, 9, 13]


def test_messages_are_plain_english() -> None:
    """No text that people see has one of the phrases; `python -m tests.test_messages` lists those that have."""
    assert offending() == []


if __name__ == "__main__":
    for file, line, text in offending():
        print(f"{file}:{line}: {text}")  # noqa: T201 - it is what this is run for
