"""Which places a replica takes, played against a row of queues without a broker."""

from hypothesis import given
from hypothesis import strategies as st

from warren_shared.amqp.queue_claim import FIRST_WINDOW, QueueClaim

ROW = tuple(f"model.phone.{number}" for number in range(10_000))


class Broker:
    """A row of ``size`` queues of which ``taken`` have a consumer; counts what it is asked."""

    def __init__(self, size: int, taken: set[int]) -> None:
        self.size = size
        self.taken = {ROW[number] for number in taken}
        self.questions = self.channels = 0

    def serve(self, places: QueueClaim) -> bool:
        """Do for ``places`` what a session does; whether it got all that it wanted."""
        while not places.complete:
            if queues := places.to_ask():
                self.questions += 1
                self.answer(places, queues)
            elif (queue := places.next()) is None:
                return False
            elif queue in self.taken:
                self.channels += 1
                places.taken()
            elif queue not in ROW[: self.size]:
                self.channels += 1
                if not places.missing():
                    return False
            else:
                places.got()
        return True

    def answer(self, places: QueueClaim, queues: tuple[str, ...]) -> None:
        for queue in queues:
            if queue not in ROW[: self.size]:
                self.channels += 1
                places.missing()
                return
            if places.answered(int(queue in self.taken)):
                return


@given(st.integers(1, 200), st.sets(st.integers(0, 199)), st.integers(1, 20))
def test_the_first_free_places_are_taken_and_no_others(
    size: int, taken: set[int], wanted: int
) -> None:
    free = [ROW[number] for number in range(size) if number not in taken]
    broker, places = Broker(size, taken), QueueClaim(ROW, wanted)
    assert broker.serve(places) == (len(free) >= wanted)
    assert places.held == free[:wanted]
    if len(free) < wanted:
        there = f"of {size} places from model.phone.0 on only {len(free)} are free"
        none = f"all {size} places from model.phone.0 on are taken"
        assert (there if free else none) in places.shortage()


def test_the_place_behind_a_thousand_is_found_in_a_few_questions_and_one_channel() -> None:
    broker, places = Broker(1001, set(range(1000))), QueueClaim(ROW)
    assert broker.serve(places)
    assert places.held == ["model.phone.1000"]
    assert broker.questions <= 6
    assert broker.channels <= 1


def test_the_first_place_costs_one_question() -> None:
    broker, places = Broker(10_000, set()), QueueClaim(ROW)
    assert broker.serve(places)
    assert (broker.questions, broker.channels) == (1, 0)


def test_who_comes_back_takes_the_places_that_were_its_own_without_asking() -> None:
    broker, places = Broker(100, set()), QueueClaim(ROW, 2, (ROW[40], ROW[7]))
    assert broker.serve(places)
    assert places.held == [ROW[40], ROW[7]]
    assert broker.questions == 0


def test_who_comes_back_and_finds_its_place_taken_or_gone_takes_the_first_that_is_free() -> None:
    for size, taken in ((100, {0, 40}), (30, {0})):
        broker, places = Broker(size, taken), QueueClaim(ROW, 1, (ROW[40],))
        assert broker.serve(places)
        assert places.held == [ROW[1]]


def test_one_that_was_faster_is_given_way_for_longer_and_longer_but_not_for_ever() -> None:
    places = QueueClaim(ROW)
    waits = []
    for _ in range(100):
        places.to_ask()
        for _ in range(FIRST_WINDOW):
            places.answered(0)
        assert places.next() == ROW[0]
        waits.append(places.taken())
    assert max(waits[:3]) < 0.02
    assert max(waits) <= 1
    assert max(waits[50:]) > 0.1


def test_a_row_that_is_not_there_is_a_mistake_and_not_a_fleet_without_places() -> None:
    places = QueueClaim(ROW)
    places.to_ask()
    assert not places.missing()


def test_a_client_of_its_own_has_one_place_and_asks_for_none() -> None:
    places = QueueClaim(("model.alfa",))
    assert not places.to_ask()
    assert places.next() == "model.alfa"
    assert places.taken() == 0.0
    assert places.next() is None
    assert "model.alfa is taken" in places.shortage()
