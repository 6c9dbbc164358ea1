from pathlib import Path

import pytest
import yaml

from loopway.errors import ConfigError
from loopway.training.config.yaml_files import apply_overrides, merge, parse_yaml, read_yaml, to_yaml


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text, value", [("6e-4", 6e-4), ("1E5", 1e5), ("-.5e-3", -5e-4), ("6.0e-4", 6e-4)])
def test_scientific_notation_is_a_number(text: str, value: float) -> None:
    assert parse_yaml(text, "") == value


@pytest.mark.parametrize("text", ["2+4R2+2", "e5", "1e", "4+8+8+4"])
def test_layouts_and_names_stay_text(text: str) -> None:
    assert parse_yaml(text, "") == text


@pytest.mark.parametrize(
    "text, value", [("010", 10), ("1:00", "1:00"), ("yes", "yes"), ("2024-13-45", "2024-13-45")]
)
def test_values_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    assert parse_yaml(text, "") == value


def test_merge_keys_work_and_what_stands_beside_them_wins() -> None:
    text = "small: &small {layout: 4, recurrence: base}\nmesh: {<<: *small, recurrence: mesh}"
    assert parse_yaml(text, "")["mesh"] == {"layout": 4, "recurrence": "mesh"}


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "a:\n  mesh: {x: 1}\n  base: {x: 2}\n  mesh: {x: 3}\n",
            "f.yaml, line 4: the key 'mesh' is given twice",
        ),
        ("\na: !!int x", "line 2: not valid YAML: 'x' is no int"),
        ("a: !!bool x", "line 1: not valid YAML: 'x' is no bool"),
        ("a: !!int ''", "line 1: not valid YAML: '' is no int"),
        ('a: "\\U00110000"', "f.yaml: not valid YAML: .*chr"),
        ('a"b: 1\na"b: 2', "line 2: the key 'a\"b' is given twice"),
        ("a: !!set {x, y}", "line 1: not valid YAML: .*set"),
        ("a: !!python/object/apply:os.system [exit]", "line 1: not valid YAML: .*os.system"),
        (f"a: 0x{'f' * 5000}", "line 1: not valid YAML: a number of more than 63 bits"),
        (f"a: 1\nb: {'9' * 5000}", "line 2: not valid YAML: '9+ is no int"),
        (f"a: {'[' * 3000}", "line 1: not valid YAML: more than 50 levels"),
        (BOMB, r"line \d+: not valid YAML: more than 20,000 values"),
        ("a: &a [*a]", r"line 1: not valid YAML: \*a holds itself"),
        ("- 1\n" * 30_000, "line 20000: not valid YAML: more than 20,000 values"),
        ("x" * 300_000, "f.yaml: not valid YAML: more than 262,144 characters"),
    ],
    ids=range(15),
)
def test_what_no_config_holds_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_yaml(text, "f.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


ODD_TEXTS = [
    "09",
    "-09",
    "0o17",
    "0_9",
    "+.5",
    "-_",
    "._",
    "1e5",
    "6e-4",
    "1:00",
    "yes",
    "null",
    "2024-01-02",
    "",
    "a: b",
    "é\n",
]


def test_what_is_written_reads_as_it_was_in_yaml_1_2_and_1_1() -> None:
    content = {text: [text, {"x": text}] for text in ODD_TEXTS} | {"numbers": [1, 2.5, 1e-5, True, None]}
    written = to_yaml(content)
    assert parse_yaml(written, "") == content == yaml.safe_load(written)


def test_an_anchor_used_again_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    assert parse_yaml("a: &x 1\nb: &x 2\nc: *x", "") == {"a": 1, "b": 2, "c": 2}
    assert capfd.readouterr().err == ""


def test_extended_files_lie_under_the_file_that_extends_them_mapping_by_mapping(tmp_path: Path) -> None:
    write(tmp_path, "base/run.yaml", "training: {max_steps: 5, seed: 1}\ndata: {train: [a, b]}")
    child = write(tmp_path, "child.yaml", "extends: base/run.yaml\ntraining: {seed: 2}\ndata: {train: [c]}")
    grandchild = write(tmp_path, "grandchild.yaml", "extends: child.yaml\nmodel: {layout: 4}")
    assert read_yaml(child) == {"training": {"max_steps": 5, "seed": 2}, "data": {"train": ["c"]}}
    assert read_yaml(grandchild) == read_yaml(child) | {"model": {"layout": 4}}


def test_files_that_extend_each_other_in_a_circle_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml")
    write(tmp_path, "b.yaml", "extends: a.yaml")
    with pytest.raises(ConfigError, match=r"circle: a.yaml -> b.yaml -> a.yaml"):
        read_yaml(tmp_path / "a.yaml")


def test_a_chain_of_files_without_end_is_an_error(tmp_path: Path) -> None:
    for number in range(1200):
        write(tmp_path, f"{number}.yaml", f"extends: {number + 1}.yaml")
    with pytest.raises(ConfigError, match="followed through 50 files"):
        read_yaml(tmp_path / "0.yaml")


def test_a_missing_extended_file_is_named_with_who_wants_it(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "extends: gone.yaml")
    with pytest.raises(ConfigError, match=r"gone.yaml \(extended by .*a.yaml\)"):
        read_yaml(path)


def test_a_syntax_error_names_file_and_line_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "model:\n  layout: 4\n bad: [1\n")
    with pytest.raises(ConfigError, match=r"a.yaml, line 3: not valid YAML") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="expected `key: value` lines"):
        read_yaml(write(tmp_path, "a.yaml", text))


def test_a_binary_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="not a text file"):
        read_yaml(tmp_path / "a.yaml")


def test_overrides_are_yaml_values_at_dotted_keys() -> None:
    config = {"training": {"max_steps": 5}}
    changed = apply_overrides(
        config, ["training.max_steps=7", "training.learning_rate=1e-3", "data.train=[a, b]"]
    )
    assert changed == {"training": {"max_steps": 7, "learning_rate": 1e-3}, "data": {"train": ["a", "b"]}}
    assert config == {"training": {"max_steps": 5}}


@pytest.mark.parametrize(
    "override, message",
    [
        ("training.max_steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("a..b=3", "expected key=value"),
        ("training.max_steps.more=3", "training.max_steps is the value 5, it has no fields"),
        ("a=[1", "not valid YAML"),
        (f"{'a.' * 5000}a=1", "expected key=value"),
    ],
)
def test_an_override_that_makes_no_sense_is_an_error(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"training": {"max_steps": 5}}, [override])


def test_merging_changes_neither_side() -> None:
    base, over = {"a": {"b": [1]}}, {"a": {"c": [2]}}
    merge(base, over)["a"]["b"].append(3)
    assert (base, over) == ({"a": {"b": [1]}}, {"a": {"c": [2]}})
