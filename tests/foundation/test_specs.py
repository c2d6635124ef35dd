"""Spec files: what is refused, and at which line."""

from pathlib import Path

import pytest

from apm_analytics.foundation import specs
from apm_analytics.foundation.errors import BadParameter


class Watch(specs.Spec):
    name: str
    level: float = 0.5


class File(specs.Spec):
    watches: tuple[Watch, ...] = ()


def write(folder: Path, text: str) -> Path:
    file = folder / "watches.yaml"
    file.write_text(text)
    return file


def test_a_file_that_fits_is_read(tmp_path: Path) -> None:
    file = write(tmp_path, "watches:\n- name: a\n- {name: b, level: 0.9}\n")
    assert specs.load(file, File).watches == (Watch(name="a"), Watch(name="b", level=0.9))


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    assert specs.load(write(tmp_path, "# nothing yet\n"), File) == File()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("watches:\n- name: a\n- name: b\n  levle: 1\n", 4, "watches.1.levle: found 1"),
        ("watches:\n- name: a\n- level: 1\n", 3, "watches.1.name: field required"),
        ("watches:\n- name: a\n  level: high\n", 3, "watches.0.level: found 'high'"),
        ("watches:\n- name: a\n  name: b\n", 3, "name is on line 2 already"),
        ("watches:\n- name: [a\n", 3, "not YAML"),
        ("5\n", 1, "found 5"),
        ("watches: []\n---\nwatches: []\n", 3, "a second document"),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(BadParameter) as caught:
        specs.load(file, File)
    assert f"{file}:{line}: " in str(caught.value)
    assert message in str(caught.value)


def test_an_alias_that_holds_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="an alias contains itself"):
        specs.load(write(tmp_path, "watches: &a [*a]\n"), File)


def test_every_misfit_is_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, "watches:\n- nam: a\n- name: b\n  level: high\n")
    with pytest.raises(BadParameter) as caught:
        specs.load(file, File)
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="cannot read"):
        specs.load(tmp_path / "none.yaml", File)
