"""Configurations: what is read, what is refused and with which words, and what is written back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from nanotorch.training.config.command_line import read_request
from nanotorch.training.config.help import help_text, json_schema, markdown_tables
from nanotorch.training.config.positions import key_lines
from nanotorch.training.config.reader import Flag, load
from nanotorch.training.config.schema import describe
from nanotorch.training.config.sections import Config, differences
from nanotorch.training.config.writer import to_toml, toml_value
from nanotorch.training.errors import InputError

REPOSITORY = Path(__file__).parent.parent
MINIMAL = '[data]\nsource = "iris"\n'


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def mistakes(path: Path, text: str, *flags: str) -> list[str]:
    """The lines about a configuration, without the closing one and the folder's name."""
    write(path / "a.toml", text)
    with pytest.raises(InputError) as refused:
        read_request([str(path / "a.toml"), *flags])
    return [line.replace(f"{path}/", "") for line in refused.value.lines[:-1]]


def test_every_mistake_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    text = MINIMAL + (
        'tst = 0.5\n[optimizer]\nname = "adam"\nmomentum = 0.9\nlr = "fast"\n'
        '[schedule]\nname = "cosin"\n'
    )
    assert mistakes(tmp_path, text, "--training.epochs", "0") == [
        "a.toml:3: data.tst: unknown key; did you mean `data.test`?",
        'a.toml:7: optimizer.lr: expected number (> 0), given "fast"',
        "a.toml:6: optimizer.momentum: `momentum` belongs to optimizer `sgd` or `rmsprop`, "
        "not `adam`",
        'a.toml:9: schedule.name: expected "constant" or "step" or "multistep" or "exponential" or '
        '"cosine" or "cosine_restarts" or "linear" or "one_cycle" or "plateau", given "cosin"; '
        'did you mean "cosine"?',
        "command line: training.epochs: expected integer (>= 1), given 0",
    ]


def test_a_bad_value_in_the_file_is_told_though_a_flag_hides_it(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, MINIMAL + '[optimizer]\nlr = "fast"\n', "--optimizer.lr", "0.1")
    assert line == 'a.toml:4: optimizer.lr: expected number (> 0), given "fast"'


def test_numbers_in_quotes_are_not_numbers_in_a_file(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, MINIMAL + '[training]\nepochs = "64"\n')
    assert line.endswith('expected integer (>= 1), given "64"')


def test_a_variant_chosen_by_flag_does_not_drop_given_keys(tmp_path: Path) -> None:
    text = MINIMAL + '[optimizer]\nname = "sgd"\nmomentum = 0.9\n'
    (line,) = mistakes(tmp_path, text, "--optimizer.name", "adam")
    assert line.startswith("a.toml:5: optimizer.momentum: `momentum` belongs to optimizer `sgd`")


def test_a_variant_chosen_by_flag_has_its_own_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", MINIMAL)
    config = read_request([str(path), "--optimizer.name", "adam"]).configs[0]
    assert config.optimizer.lr == 0.001


@pytest.mark.parametrize(
    ("flag", "value", "read"),
    [
        ("optimizer.lr", "0.5", 0.5),
        ("optimizer.lr", "1", 1.0),
        ("optimizer.lr", "1e-3", 0.001),
        ("training.shuffle", "false", False),
        ("model.freeze", '["weight"]', ["weight"]),
        ("data.source", "digits", "digits"),
        ("data.source", '"digits"', "digits"),
        ("name", "5", "5"),
        ("data.target", "-1", -1),
        ("data.target", "species", "species"),
        ("optimizer.name", "adam", "adam"),
        ("output.folder", "5", "5"),
        ("penalty.l2", "0", 0.0),
    ],
)
def test_flags_are_read_as_toml_or_as_text(
    flag: str, value: str, read: object, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.toml", MINIMAL)
    for words in ([f"--{flag}", value], [f"--{flag}={value}"]):
        found: object = read_request([str(path), *words]).configs[0]
        for part in flag.split("."):
            found = getattr(found, part)
        assert found == read
        assert type(found) is type(read)


def test_a_line_of_an_array_is_not_taken_for_a_table(tmp_path: Path) -> None:
    text = MINIMAL + '[model]\nfreeze = [\n["weight"]\n, ["bias"], # no end: [\n]\nhiden = 3\n'
    path = write(tmp_path / "a.toml", text)
    with pytest.raises(InputError) as refused:
        load(path)
    line = text.splitlines().index("hiden = 3") + 1
    assert any(f"a.toml:{line}: model.hiden: unknown key" in told for told in refused.value.lines)


def test_the_name_is_that_of_the_file_unless_it_is_given(tmp_path: Path) -> None:
    assert load(write(tmp_path / "some-name.toml", MINIMAL)).name == "some-name"
    assert load(write(tmp_path / "b.toml", 'name = "other"\n' + MINIMAL)).name == "other"


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda p: p.stem
)
def test_shipped_configurations_are_read_and_every_key_has_a_comment(path: Path) -> None:
    load(path)
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            assert "#" in line, line


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda p: p.stem
)
def test_a_resolved_configuration_reads_back_as_itself(path: Path, tmp_path: Path) -> None:
    config = load(path)
    again = load(write(tmp_path / "again.toml", to_toml(config)))
    assert again == config
    assert to_toml(again) == to_toml(config)


def test_groups_and_tables_survive_the_writing(tmp_path: Path) -> None:
    flags = [
        Flag(("optimizer", "groups"), '[{parameters = ["bias"], lr = 0.5}]'),
        Flag(("model", "unfreeze_at"), '{"a.*" = 3}'),
        Flag(("model", "freeze"), '["a.*", "q\\"uote"]'),
    ]
    config = load(write(tmp_path / "a.toml", MINIMAL), flags)
    assert load(write(tmp_path / "b.toml", to_toml(config))).model == config.model
    assert load(tmp_path / "b.toml").optimizer == config.optimizer


scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text("ab. \"'", min_size=1), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(values)
def test_any_value_is_written_as_toml_that_reads_back(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


def test_lines_are_found_behind_arrays_and_long_text() -> None:
    text = 'a = [\n  1,\n  2]\nb = """\n[c]\nd = 1\n"""\n[e]\nf = 1\n[[g]]\nh.i = 2\n"j k" = 3\n'
    assert key_lines(text) == {
        ("a",): 1,
        ("b",): 4,
        ("e",): 8,
        ("e", "f"): 9,
        ("g",): 10,
        ("g", "h", "i"): 11,
        ("g", "j k"): 12,
    }


def test_differences_name_the_dotted_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", MINIMAL)
    one, other = load(path), load(path, [Flag(("optimizer", "name"), "adam")])
    assert set(differences(one, other)) >= {"optimizer.name", "optimizer.lr", "optimizer.momentum"}
    assert differences(one, one) == {}


# --- help and documentation ----------------------------------------------------------------------


def test_help_tells_type_range_default_and_meaning() -> None:
    text = help_text("train.py")
    assert "--training.epochs  integer (>= 1); default 100\n      passes over" in text
    assert '--optimizer.name  "sgd" or "adam"' in text
    assert "; default 0.0; sgd only" in text


def test_every_key_has_a_meaning_in_words() -> None:
    for key in describe():
        assert len(key.meaning.split()) >= 2, key.name
        assert key.accepts != "value", key.name


def test_the_documentation_is_that_of_the_models() -> None:
    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    assert markdown_tables() in page, "run scripts/document_config.py"


def test_the_schema_is_json_and_knows_the_sections() -> None:
    schema = json.loads(json_schema())
    assert set(schema["properties"]) == set(Config.model_fields)


def test_help_and_schema_end_the_process_well(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "--schema"):
        with pytest.raises(SystemExit) as ended:
            read_request(["configs/a.toml", flag])
        assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out
