"""Run tables are read strictly: whatever cannot be trusted is refused by line and column."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_tables import PLAIN, row, write_table

from llmsim.calibration.table import COLUMNS, OPTIONAL, MeasuredRun, read_runs
from llmsim.core.errors import InputError

HEADER = ",".join(PLAIN)
GOOD = ",".join(str(v) for v in PLAIN.values())


def refused(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_runs(path)
    return str(caught.value)


def changed(**cells: object) -> str:
    return HEADER + "\n" + GOOD + "\n" + ",".join(str(v) for v in row(id="b", **cells).values()) + "\n"


def test_rows_come_back_as_they_stand(tmp_path: Path) -> None:
    runs = read_runs(write_table(tmp_path / "runs.csv", [row(), row(id="b", notes="two\nlines"), row(id="c")]))
    assert [run.id for run in runs] == ["a", "b", "c"]
    assert [run.line for run in runs] == [2, 3, 5]
    assert runs[1]["notes"] == "two\nlines"
    assert runs[0].step_time_s == 4.0
    assert runs[0].memory_gib is None
    assert runs[0].out_of_memory is None


def test_byte_order_mark_and_carriage_returns_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER + "\r\n" + GOOD + "\r\n").encode())
    assert read_runs(path)[0].values == {k: str(v) for k, v in PLAIN.items()}


def test_throughput_stands_for_the_step_time() -> None:
    cells = {**{k: str(v) for k, v in PLAIN.items()}, "step_time_s": "", "tokens_per_s_per_device": "4096"}
    assert MeasuredRun(2, cells).step_time_s == 16 * 8192 / (4096 * 8)


def test_group_is_the_id_where_there_is_none() -> None:
    assert MeasuredRun(2, {"id": "a", "group": ""}).group == "a"


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("n_devices", "-8"),
        ("n_devices", "0"),
        ("n_devices", "8.5"),
        ("n_devices", "1e300"),
        ("n_devices", "99999999"),
        ("n_devices", "eight"),
        ("n_devices", "1_000"),
        ("n_devices", ""),
        ("step_time_s", "nan"),
        ("step_time_s", "inf"),
        ("step_time_s", "-1"),
        ("step_time_s", "0"),
        ("step_time_s", "1e30"),
        ("step_time_s", "4,0"),
        ("sequence_parallel", "maybe"),
        ("model", ""),
    ],
)
def test_bad_cells_are_refused_by_line_and_column(tmp_path: Path, column: str, cell: str) -> None:
    text = changed(**{column: f'"{cell}"'})
    message = refused(tmp_path / "runs.csv", text)
    assert f"line 3, {column}" in message
    assert cell in message


@pytest.mark.parametrize(("column", "cell"), [("memory_kind", "peak"), ("out_of_memory", "yes")])
def test_words_outside_of_the_vocabulary_are_refused(tmp_path: Path, column: str, cell: str) -> None:
    path = write_table(tmp_path / "runs.csv", [row(**{column: cell})])
    with pytest.raises(InputError, match=rf"line 2, {column}"):
        read_runs(path)


def test_a_line_that_is_cut_off_names_the_column(tmp_path: Path) -> None:
    text = changed()
    at = text.rindex("zero1")
    assert "line 3, sequence_parallel" in refused(tmp_path / "runs.csv", text[:at] + "zero1")


def test_an_open_quote_names_the_line_where_it_opens(tmp_path: Path) -> None:
    assert "line 3" in refused(tmp_path / "runs.csv", HEADER + "\n" + GOOD + '\n"b,g,llama')


def test_a_line_with_cells_too_many_is_refused(tmp_path: Path) -> None:
    assert "line 2, after step_time_s" in refused(tmp_path / "runs.csv", HEADER + "\n" + GOOD + ",1\n")


def test_the_same_id_twice_names_both_lines(tmp_path: Path) -> None:
    message = refused(tmp_path / "runs.csv", "\n".join([HEADER, GOOD, GOOD.replace("a,", "b,", 1), GOOD]))
    assert "line 4, id" in message
    assert "line 2" in message


def test_headers(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    assert "lacks the column precision" in refused(path, HEADER.replace(",precision,", ",precison,") + "\n" + GOOD)
    assert "measures nothing" in refused(path, HEADER.replace("step_time_s", "seconds") + "\n" + GOOD)
    assert "is there twice" in refused(path, HEADER.replace("optimizer", "recompute") + "\n" + GOOD)
    assert "nearest: sharding" in refused(path, HEADER.replace("sharding", "shardin") + "\n" + GOOD)


def test_a_column_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(f"{HEADER},who\n{GOOD},me\n")
    assert read_runs(path)[0]["who"] == "me"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (HEADER.encode(), "no rows"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not UTF-8"),
        (HEADER.encode() + b"\n\x00\x01", "line 2"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refused(tmp_path / "runs.csv", content)


def test_directories_and_missing_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(InputError, match="cannot be read"):
            read_runs(path)


def test_columns_are_those_of_the_data() -> None:
    data = Path(__file__).parents[1] / "validation" / "training_runs.csv"
    header = data.read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header[: len(COLUMNS)] == list(COLUMNS)
    assert set(header[len(COLUMNS) :]) <= set(OPTIONAL)


@pytest.mark.parametrize(
    ("column", "cell"),
    [("offload_activations", "1.5"), ("offload_activations", "half"), ("packed", "maybe"), ("scale_up_domain", "0.5")],
)
def test_optional_columns_are_checked(tmp_path: Path, column: str, cell: str) -> None:
    path = write_table(tmp_path / "runs.csv", [row(**{column: cell})], (*COLUMNS, column))
    with pytest.raises(InputError, match=f"line 2, {column}"):
        read_runs(path)
