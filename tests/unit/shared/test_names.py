"""Names: who may be called what, and who may speak for whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_shared.naming import (
    RESERVED_USERS,
    USER_PATTERN,
    fleet_member,
    is_client_id,
    is_user_name,
    mailbox,
    speaks_for,
)

users = st.from_regex(USER_PATTERN, fullmatch=True)


@pytest.mark.parametrize("name", ["a", "0", "hospital-a", "site_7", "x" * 64])
def test_lower_case_words_are_names(name: str) -> None:
    assert is_user_name(name)
    assert is_client_id(name)


@pytest.mark.parametrize(
    "name",
    ["", "A", "-a", "_a", "a.b", "a b", "a/b", "a#", "ä", "a\n", "x" * 65, *sorted(RESERVED_USERS)],
)
def test_what_could_be_mistaken_for_something_else_is_not_a_name(name: str) -> None:
    assert not is_user_name(name)


@pytest.mark.parametrize("client", ["phone.", "phone.01", "phone.-1", "phone.1.2", "phone.1000000"])
def test_a_replica_has_one_spelling(client: str) -> None:
    assert not is_client_id(client)


@given(users, st.integers(0, 999_999))
def test_a_user_speaks_for_itself_and_for_its_replicas(user: str, number: int) -> None:
    member = fleet_member(user, number)
    assert is_client_id(member)
    assert speaks_for(user, user)
    assert speaks_for(user, member)
    assert not speaks_for(member, user)


@given(users, users, st.integers(0, 999_999))
def test_nobody_speaks_for_another(user: str, other: str, number: int) -> None:
    for client in (other, fleet_member(other, number)):
        assert speaks_for(user, client) == (user == other)


@pytest.mark.parametrize("user", ["phon", "phone2", "p", "", "hone", "phone."])
def test_a_name_that_is_part_of_another_is_another(user: str) -> None:
    assert not speaks_for(user, "phone")
    assert not speaks_for(user, "phone.1")
    assert not speaks_for("phone", user)


@given(users, st.text(max_size=20))
def test_no_text_is_a_client_of_two_users(user: str, text: str) -> None:
    if speaks_for(user, text):
        assert is_client_id(text)
        assert text.partition(".")[0] == user


def test_a_mailbox_bears_its_clients_name() -> None:
    assert mailbox(fleet_member("phone", 17)) == "model.phone.17"
