"""docs/retrofit.md gives the figures of the newest stored run of benchmarks/retrofit.py."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "retrofit.md").read_text(encoding="utf-8").partition("## On a real model")[2]
RESULT = json.loads(
    max((ROOT / "benchmarks" / "results").glob("*-retrofit.json")).read_text(encoding="utf-8")
)


@pytest.mark.parametrize("model", RESULT["asked"]["held_out_loss"])
def test_the_page_says_what_each_model_was_measured_to_give(model: str) -> None:
    asked = {name: values[model] for name, values in RESULT["asked"].items()}
    title = re.escape(model).replace("healed\\ ", "healed, ")
    (row,) = re.findall(rf"^\| (?:the )?`?{title}`?[^|]* \| (.*) \|$", PAGE, re.MULTILINE)
    assert (
        row
        == f"{asked['held_out_loss']:.3f} | {100 * asked['lambada']:.1f} ± {100 * asked['lambada_error']:.1f}"
    )


def test_the_page_shows_the_course_of_healing() -> None:
    for name, course in RESULT["healing"].items():
        losses = " | ".join(f"{loss:.3f}" for _, loss in course["validation"])
        assert f"| with {name} | {losses} |" in PAGE
