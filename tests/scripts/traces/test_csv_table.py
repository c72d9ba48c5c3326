"""Tables with named columns become accesses, whatever order and separators they have."""

from pathlib import Path

import pytest

from guest.access_line import WrongLineError
from scripts.traces.csv_table import MEANINGS, import_csv
from scripts.traces.found import Found, Wishes

FILE = Path(__file__).parent / "files" / "accesses.csv"


def found(text: str, **wished: str) -> list[Found]:
    """Return what rows tell of."""
    lines = iter(text.splitlines(keepends=True))
    return list(import_csv(lines, Wishes(columns=tuple(wished.items()), page_bytes=2 << 20)))


def test_a_file_is_imported() -> None:
    """Columns are known by their names, and numbers by how they are written."""
    assert found(FILE.read_text(encoding="utf-8")) == [
        Found(0x5123, 12_500, "thread vcpu 0", "ram"),
        Found(0x2000, 13_000, "thread vcpu 1", "ram", is_write=True),
        Found(0, 20_000, "thread vcpu 0", "rom"),
    ]


@pytest.mark.parametrize(
    ("text", "access"),
    [
        ("address\n0x10\n", Found(16)),
        ("page;x;vcpu\n3;;63\n", Found(6 << 20, owner=63)),
        ("Addr\tRW\n16\t1\n\n", Found(16, is_write=True)),
        ('address,"time"\n16,1.5e-3\n', Found(16, 1_500_000)),
        ("address,t_ns,type\n16,7,LOAD\n", Found(16, 7)),
        ("address,time-ms,write\n16,0.000001,true\n", Found(16, 1, is_write=True)),
        ("cpu,addr,address,vcpu\n1,2,3,4\n", Found(3, owner=4)),
        ("timestamp,address\n1796059275.029362999,1\n", Found(1, 1796059275029362999)),
    ],
)
def test_columns_have_several_names(text: str, access: Found) -> None:
    """Those that other tools give them, in any case."""
    assert found(text) == [access]


def test_a_column_may_be_named_by_the_user() -> None:
    """Then no other is looked for."""
    text = "address,where,when\n1,0x2000,3\n"
    assert found(text, address="where", time="when") == [Found(0x2000, 3 * 10**9)]
    with pytest.raises(WrongLineError, match="no column is named 'there'"):
        found(text, address="there")
    assert "address" in MEANINGS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neither an address nor a page"),
        ("time,vcpu\n1,1\n", "neither an address nor a page"),
        ("address,time,time_ns\n1,1,1\n", "more than one time"),
        ("address,vcpu\n1\n", "1 columns, and the header 2"),
        ("address\n-1\n", "'-1' is not an address"),
        ("address\n0x10000000000000000\n", "is not an address"),
        ("address\n18446744073709551616\n", "is not an address"),
        ("page\n18446744073709551615\n", "is not a page index"),
        ("address,vcpu\n1,64\n", "'64' is not a vCPU"),
        ("address,vcpu\n1,\u0661\n", "is not a vCPU"),
        ("address,time\n1,-1\n", "is not a time"),
        ("address,time\n1,nan\n", "is not a time"),
        ("address,time\n1,1e999999999\n", "is not a time"),
        ("address,time\n1,9999999999\n", "is not a time"),
        ("address,time\n1,\n", "is not a time"),
        ("address,access\n1,maybe\n", "'maybe' is neither a read nor a write"),
        ('address\n"1\n', "unexpected end of data"),
    ],
)
def test_a_wrong_row_is_refused(text: str, reason: str) -> None:
    """The reason quotes the cell."""
    with pytest.raises(WrongLineError, match=reason):
        found(text)


def test_a_tiny_time_is_zero() -> None:
    """It is below a nanosecond, however it is written."""
    assert found("address,time\n1,1e-999999999\n") == [Found(1, 0)]
