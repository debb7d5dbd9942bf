"""No exercise asks for what the reader has just seen: solutions against the code shown before them."""

import ast
import builtins
import io
import keyword
import re
import textwrap
import tokenize

import pytest

from minigam.course import notebooks

pytest.importorskip("jupytext", reason="needs jupytext and nbclient (the group `test`)")

RUN = 14  # tokens in a row that count as the same code
MOST = 0.55  # share of a solution that may stand above it; 02.4, at 0.53, combines what is shown
MENDED = {"03_2"}  # the exercise is to mend a rule that is shown
LIBRARIES = {"np", "ops", "math", "sequence"}
LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENDMARKER,
}
SOURCES = notebooks.sources()


def tokens(code: str) -> list[str]:
    """Return the tokens of some code without comments and docstrings. A name that its author chose is "n"."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    result, before = [], ""
    for token in tokenize.generate_tokens(io.StringIO(ast.unparse(tree)).readline):
        if token.type in LAYOUT:
            continue
        text = token.string
        fixed = keyword.iskeyword(text) or hasattr(builtins, text) or text in LIBRARIES or before == "."
        result.append("n" if token.type == tokenize.NAME and not fixed else text)
        before = text
    return result


def runs(code: list[str]) -> set[tuple[str, ...]]:
    return {tuple(code[i : i + RUN]) for i in range(len(code) - RUN + 1)}


def share(solution: list[str], shown: set[tuple[str, ...]]) -> float:
    """Return the share of a solution's tokens that lie in a run which was shown."""
    covered = set()
    for i in range(len(solution) - RUN + 1):
        if tuple(solution[i : i + RUN]) in shown:
            covered.update(range(i, i + RUN))
    return len(covered) / max(1, len(solution))


def body(exercise: str) -> str:
    """Return what is between # SOLUTION and # END, as code of its own."""
    parts = re.findall(r"# SOLUTION\n(.*?)^ *# END", exercise + "\n", re.S | re.M)
    return "\n".join(f"def f():\n{textwrap.indent(textwrap.dedent(part), '    ')}" for part in parts)


def shares(source) -> dict[str, float]:
    """Return for each exercise the share of its solution that stands above it, or in notebook 00."""
    notebook = notebooks.read(source)
    exercises, shown, result = iter(notebooks.exercises(notebook)), set(), {}
    for cell in notebooks.read(SOURCES[0]).cells if source != SOURCES[0] else []:
        if cell.cell_type == "code":
            shown |= runs(tokens(cell.source))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if "exercise" in cell.metadata.get("tags", ()):  # the reader's own code is not shown
                result[next(exercises).number] = share(tokens(body(cell.source)), shown)
            else:
                shown |= runs(tokens(cell.source))
    return result


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_no_solution_stands_above_its_exercise(source):
    offenders = {
        number: round(s, 2) for number, s in shares(source).items() if s > MOST and number not in MENDED
    }
    assert offenders == {}


def test_a_copy_with_other_names_and_comments_is_found():
    shown = (
        "mean = lambda z: z.mean(axis=-1, keepdims=True)\nc = x - mean(x)\nr = np.sqrt(mean(c * c) + eps)\n"
    )
    copied = "m = lambda a: a.mean(axis=-1, keepdims=True)  # mine\nk = u - m(u)\nd = np.sqrt(m(k * k) + e)\n"
    other = "c = x - x.mean(-1, keepdims=True)\nreturn_value = c / (c * c).mean(-1, keepdims=True) ** 0.5\n"
    assert share(tokens(copied), runs(tokens(shown))) == 1.0
    assert share(tokens(other), runs(tokens(shown))) < MOST
