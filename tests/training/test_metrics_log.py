"""metrics.jsonl keeps one line of a kind and step, and costs as much at its end as at its beginning."""

from pathlib import Path
from typing import Any

from loopway.training.metrics_log import MetricsLog, read_metrics


class Counted(dict):
    """A line that counts how often it is looked at."""

    looks = 0

    def __getitem__(self, key: str) -> Any:
        Counted.looks += 1
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        Counted.looks += 1
        return super().__contains__(key)


def test_a_line_looks_at_a_few_others_however_many_there_are(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    for step in range(1, 501):
        log.append(Counted(step=step, loss=1.0 / step))
        assert (log.last("loss"), log.last("validation_loss")) == (1.0 / step, None)
    assert Counted.looks < 20 * 500
    assert [line["step"] for line in read_metrics(log.path)] == [*range(1, 501)]


def test_a_step_has_one_line_of_each_kind_also_after_a_resume(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    lines = [{"step": 1, "loss": 2.0}, {"step": 1, "validation_loss": 3.0}, {"step": 2, "loss": 1.0}]
    for line in lines:
        log.append(line)
    again = MetricsLog(log.path, 1)
    assert (again.last("loss"), again.last("validation_loss")) == (2.0, 3.0)
    again.append({"step": 1, "validation_loss": 9.0})
    again.append({"step": 1, "loss": 9.0})
    again.append(lines[2])
    assert read_metrics(log.path) == lines and again.last("loss") == 1.0
