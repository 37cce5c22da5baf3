"""What is said of each of many rows: the same on all databases, however they are told."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Double, String, Text, insert, select, update

from database_fixtures import KINDS, new_place
from flask_outbox.mail.say import TEXT_MOST
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.statements import Each
from flask_outbox.outbox.tables import rate
from heard import heard
from outbox_mail import EPOCH

WRITE = Each(
    {"name": String(), "next_at": Double(), "slow": Double(), "reason": Text()},
    lambda given: (
        update(rate)
        .where(rate.c.name == given["name"])
        .values(next_at=given["next_at"], slow=given["slow"], reason=given["reason"])
    ),
)
READ = select(rate.c.name, rate.c.next_at, rate.c.slow, rate.c.reason)
NAMES = [f"{number:03}" for number in range(250)]
ALIKE = [*"aAäáiK%\\'", "ss", "ß", "", "\N{LATIN SMALL LETTER DOTLESS I}", "\N{KELVIN SIGN}"]
TEXTS = (
    "",
    " ",
    "ends with a blank ",
    'it\'s "quoted" and `ticked`',
    "\\ \\n \\\\ \\u0041 \\",
    "100 %, %s, %(name)s, %%",
    ":name ::text ? ; -- # /* */",
    "[1, null] {}",
    "null",
    "\N{PILE OF POO} ä ß \N{LATIN SMALL LETTER DOTLESS I}",
    "\t\r\n\x01\x7f",
)


@pytest.fixture
def outbox(place):
    outbox = Outbox(place, busy=5.0)
    yield outbox
    outbox.close()


def a_row(name, next_at=0.5, slow=None, reason="why"):
    return {"name": name, "next_at": next_at, "slow": slow, "reason": reason}


def put(outbox, names):
    others = {"slowed_at": 0.0, "closed_until": 0.0, "written_at": 0.0}
    with outbox.begin() as connection:
        connection.execute(insert(rate), [{**a_row(each), **others} for each in names])


def write(outbox, rows):
    with outbox.begin() as connection:
        return WRITE.run(connection, rows)


def read(outbox):
    with outbox.read() as connection:
        return {each["name"]: {**each} for each in connection.execute(READ).mappings()}


def test_each_row_gets_its_own_values_and_the_others_stay_as_they_are(outbox):
    put(outbox, NAMES)
    rows = {each: a_row(each, float(each), reason=f"of {each}") for each in NAMES[1:]}
    assert write(outbox, [*rows.values()]) == len(rows)
    assert read(outbox) == {NAMES[0]: a_row(NAMES[0]), **rows}


def test_rows_are_counted_that_were_found_changed_or_not(outbox):
    put(outbox, NAMES)
    rows = [a_row(each) for each in (*NAMES, "absent")]
    assert write(outbox, rows) == len(NAMES)


def test_one_row_is_as_good_as_many(outbox):
    put(outbox, NAMES[:2])
    assert write(outbox, [a_row(NAMES[0], 1.5)]) == 1
    assert read(outbox) == {NAMES[0]: a_row(NAMES[0], 1.5), NAMES[1]: a_row(NAMES[1])}


def test_texts_and_nothing_at_all_come_through_as_they_are(outbox):
    put(outbox, NAMES)
    rows = {
        name: a_row(name, slow=slow, reason=text)
        for name, (text, slow) in zip(
            NAMES, ((text, slow) for text in TEXTS for slow in (None, 0.0, 1.5)), strict=False
        )
    }
    assert write(outbox, [*rows.values()]) == len(rows)
    found = read(outbox)
    assert {each: found[each] for each in rows} == rows


def test_names_that_only_look_alike_are_different_ones(outbox):
    put(outbox, ALIKE)
    rows = {each: a_row(each, float(number)) for number, each in enumerate(ALIKE)}
    assert write(outbox, [*rows.values()]) == len(ALIKE)
    assert read(outbox) == rows


def test_no_bit_of_a_number_is_lost(outbox):
    put(outbox, NAMES)
    numbers = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 1e22, 1e23, 2.0**53 - 1, 1 / 3, -0.5]
    numbers += [EPOCH + number * number / 7 for number in range(len(NAMES))]
    rows = {name: a_row(name, number) for name, number in zip(NAMES, numbers, strict=False)}
    write(outbox, [*rows.values()])
    assert read(outbox) == rows


# --- on servers ---


@pytest.fixture(params=KINDS[1:])
def on_server(request, tmp_path):
    outbox = Outbox(new_place(request, request.param, tmp_path), busy=5.0)
    yield outbox
    outbox.close()


@pytest.mark.parametrize("count", [2, 3, 250])
def test_it_waits_for_no_row_but_its_own(on_server, count):
    put(on_server, NAMES[:count])
    theirs, *ours = NAMES[:count]
    lock = select(rate.c.name).where(rate.c.name == theirs).with_for_update()
    with on_server.begin() as connection, ThreadPoolExecutor(1) as others:
        assert connection.execute(lock).all()
        rows = [a_row(each, 1.5) for each in ours]
        # A planner that reads the whole of a small table would wait for that row.
        assert others.submit(write, on_server, rows).result(20) == len(ours)


def test_many_rows_are_few_statements(mariadb, request, tmp_path):
    outbox = Outbox(new_place(request, "mariadb", tmp_path))
    counts = "SHOW SESSION STATUS WHERE Variable_name IN ('Com_update', 'Com_update_multi')"
    put(outbox, NAMES)
    with outbox.begin() as connection:
        before = connection.exec_driver_sql(counts).all()
        WRITE.run(connection, [a_row(each, 1.5) for each in NAMES])
        after = connection.exec_driver_sql(counts).all()
    outbox.close()
    assert 0 < sum(int(count) for _, count in after) - sum(int(count) for _, count in before) <= 3


def test_numbers_go_as_texts_since_mysql_reads_those_of_json_inexactly(mariadb, request, tmp_path):
    outbox = Outbox(new_place(request, "mariadb", tmp_path))
    told = []
    with heard(outbox, lambda _, terms: told.append(terms)):
        write(outbox, [a_row("a", 0.1 + 0.2, slow=None), a_row("b", 1e23)])
    outbox.close()
    (rows,) = [json.loads(each["rows"]) for each in told if each and "rows" in each]
    assert [each["next_at"] for each in rows] == ["0.30000000000000004", "1e+23"]


def test_long_texts_fit_into_a_small_packet(mariadb, request, tmp_path):
    url = new_place(request, "mariadb", tmp_path)
    mariadb.ask("SET GLOBAL max_allowed_packet = 1048576")
    outbox = Outbox(url)
    try:
        names = [str(number) for number in range(700)]
        put(outbox, names)
        rows = {each: a_row(each, reason="\N{PILE OF POO}" * TEXT_MOST) for each in names}
        assert write(outbox, [*rows.values()]) == len(names)
        assert read(outbox) == rows
    finally:
        outbox.close()
        mariadb.ask("SET GLOBAL max_allowed_packet = 67108864")
