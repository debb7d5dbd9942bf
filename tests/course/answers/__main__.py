"""Write what the checks say of the wrong answers, for the teacher's guide: `python tests/course/answers`."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1])]

from answers import messages  # noqa: E402
from minigam.course.classroom import MISTAKES  # noqa: E402
from minigam.files import write_json  # noqa: E402

write_json(MISTAKES, messages.all_of_them())
