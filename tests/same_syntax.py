"""Show that a change concerns only words: the code without docstrings and strings is the same.

    python -m tests.same_syntax [BEFORE [AFTER]]

It compares the syntax trees of each Python file before and after. Comments are not in a syntax
tree. BEFORE and AFTER are Git revisions. BEFORE is HEAD by default. AFTER is the working tree by
default. With `--docstrings` only docstrings may differ: all other strings must be the same. It
prints each file that differs, and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def tree(source: str, *, keep_strings: bool = False) -> str:
    """Return the syntax tree of a module as text, without docstrings, with each string empty.

    A docstring is any string that is a statement, so one below a constant counts as well. Adjacent
    strings, and the texts inside an f-string, are one empty string.

    keep_strings: keep all strings but docstrings.
    """
    parsed = ast.parse(source)
    for node in ast.walk(parsed):
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                kept = [one for one in statements if not _is_text(one)]
                setattr(node, name, kept)
    if not keep_strings:
        parsed = _Blank().visit(parsed)
    return ast.dump(parsed)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


class _Blank(ast.NodeTransformer):
    """Replaces every string by an empty one, and each f-string by the values in it."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        values = [one for one in node.values if isinstance(one, ast.FormattedValue)]
        return ast.JoinedStr([self.generic_visit(one) for one in values])  # type: ignore[list-item]


def differing(before: str, after: str | None, *, keep_strings: bool = False) -> list[str]:
    """Return the Python files whose syntax trees differ between two revisions, with the reason.

    after: None means the working tree.
    """
    revisions = [before] if after is None else [before, after]
    changed = _git("diff", "--name-status", "--no-renames", *revisions, "--", "*.py").splitlines()
    found = []
    for line in changed:
        status, path = line.split("\t")
        if status != "M":
            found.append(f"{path}: added or removed")
            continue
        old = _git("show", f"{before}:{path}")
        new = _git("show", f"{after}:{path}") if after else Path(path).read_text("utf-8")
        if tree(old, keep_strings=keep_strings) != tree(new, keep_strings=keep_strings):
            found.append(f"{path}: the code differs")
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    given = [one for one in sys.argv[1:] if one != "--docstrings"]
    first, *rest = given or ["HEAD"]
    wrong = differing(first, rest[0] if rest else None, keep_strings="--docstrings" in sys.argv)
    print("\n".join(wrong) or "only words differ")
    sys.exit(bool(wrong))
