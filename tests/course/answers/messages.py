"""What the checks say of the wrong answers: the names of the answers and the messages, not their code."""

from importlib import import_module
from pathlib import Path

import answers
from minigam.course import check
from minigam.course.judge import NotYet


def all_of_them() -> dict[str, list[dict[str, str]]]:
    """Return {exercise NN_K: [{"answer": its name in words, "message": what its check says}]}."""
    for module in sorted(Path(__file__).parent.glob("nb*.py")):
        import_module(f"answers.{module.stem}")
    result: dict[str, list[dict[str, str]]] = {}
    for wrong in answers.WRONG:
        try:
            getattr(check, f"ex_{wrong.number}")(*wrong.answers)
        except NotYet as e:
            message = str(e).partition(": ")[2]
        if "still to be written" in message:  # no answer
            continue
        names = [getattr(answer, "__name__", "").replace("_", " ") for answer in wrong.answers]
        named = " and ".join(n for n in names if n and n != "<lambda>") or "another one"
        result.setdefault(wrong.number, []).append({"answer": named, "message": " ".join(message.split())})
    return dict(sorted(result.items()))
