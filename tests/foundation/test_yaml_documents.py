"""YAML that is small as a file and large in memory is refused before it takes memory."""

from pathlib import Path

import peak_memory
import pytest

from apm_analytics.foundation import yaml_documents
from apm_analytics.foundation.errors import BadParameter

READ = """
import sys
from pathlib import Path
from apm_analytics.foundation import yaml_documents
yaml_documents.documents(Path(sys.argv[1]), getattr(yaml_documents, sys.argv[2]))
"""


def levels(first: str, one: str) -> str:
    """Return nine levels, each with ten aliases of the one before."""
    lines = [f"a0: &a0 {first}"]
    for level in range(1, 10):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        keys = ", ".join(f"k{number}: *a{level - 1}" for number in range(10))
        lines.append(f"a{level}: &a{level} {one.format(aliases=aliases, keys=keys)}")
    return "\n".join(lines)


BOMBS = {
    "lists of aliases": (levels("[x]", "[{aliases}]"), "100,000 entries"),
    "mappings of aliases": (levels("{k: v}", "{{{keys}}}"), "100,000 entries"),
    "merged aliases": (levels("{k: v}", "{{<<: [{aliases}]}}"), "100,000 entries"),
    "aliases in many documents": (
        "\n---\n".join(["\n".join(levels("[x]", "[{aliases}]").splitlines()[:5])] * 500),
        "100,000 entries",
    ),
    "an alias of itself": ("a: &a [*a]", "50 levels"),
    "a merged alias of itself": ("a: &a {<<: *a}", "50 levels"),
    "nested lists": ("[" * 100_000, "50 levels"),
    "nested mappings": ("{a: " * 100_000, "50 levels"),
    "nested lines": ("".join(" " * depth + "a:\n" for depth in range(1_000)), "50 levels"),
    "nested dashes": ("- " * 100_000, "50 levels"),
    "many items": ("[" + "a," * 300_000 + "]", "100,000 entries"),
    "many documents": ("--- a\n" * 150_000, "100,000 entries"),
    "a long file": ("#" * 5_000_000, "4,194,304 characters"),
    "a long number": ("a: " + "9" * 1_000_000, "64 may be"),
    "a number of base 60": ("a: 1" + ":59" * 300_000, "64 may be"),
    "a long tag": ("a: !" + "x" * 1_000_000 + " b", "not YAML"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_within_200_mib(tmp_path: Path, bomb: str) -> None:
    text, reason = BOMBS[bomb]
    file = tmp_path / "bomb.yaml"
    file.write_text(text)
    peak, failure, _ = peak_memory.run(READ, str(file), "Loader")
    assert failure.startswith(f"BadParameter: {file}:") and reason in failure
    assert len(failure) < 1_000
    assert peak < 200  # measured: 85 MiB at most


def test_a_loader_of_texts_has_the_same_limits(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(BOMBS["lists of aliases"][0])
    peak, failure, _ = peak_memory.run(READ, str(file), "TextLoader")
    assert "100,000 entries" in failure and peak < 200


def test_aliases_of_ordinary_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("base: &base {level: 1}\nmore:\n- *base\n- {<<: *base, name: b}\n")
    assert yaml_documents.read(file).data["more"] == [{"level": 1}, {"level": 1, "name": "b"}]


@pytest.mark.parametrize(
    "value",
    ["!!bool 7", "!!int x", '!!int ""', '!!float "-"', "!!timestamp x", "!!binary é", "!!set [a]"],
)
def test_a_value_that_does_not_fit_its_tag_is_refused_with_its_line(
    tmp_path: Path, value: str
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(f"a: {value}\n")
    with pytest.raises(BadParameter, match=rf"{file}:1: "):
        yaml_documents.read(file)


@pytest.mark.parametrize("text", ["? [a]\n: b\n", "{{a: b}: c}\n"])
def test_a_key_that_is_no_text_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    with pytest.raises(BadParameter, match=r":1: found a (sequence|mapping) as a key"):
        yaml_documents.read(file)


def test_a_character_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text('a: "\\UFFFFFFFF"\n')
    with pytest.raises(BadParameter, match="cannot read"):
        yaml_documents.read(file)
