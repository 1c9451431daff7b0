"""Whatever holds one of the things that are looked for is found, wherever it stands among the program's objects."""

from __future__ import annotations

import gc

from thetabox.models.fakes import TOGETHER, _holding


class Thing:
    pass


class Holder:
    def __init__(self, thing: Thing) -> None:
        self.thing = thing


def test_every_holder_is_found():
    things = [Thing() for _ in range(3)]
    # More than several chunks, so that holders stand at every place of one.
    holders = [[things[n % 3]] for n in range(5 * TOGETHER)] + [Holder(things[0])]
    found = {id(one) for one in _holding({id(thing) for thing in things}, gc.get_objects())}
    assert {id(one) for one in holders[:-1]} <= found
    assert found & {id(holders[-1]), id(vars(holders[-1]))}


def test_the_same_as_the_collector_finds():
    thing = Thing()
    holders = [{"a": thing}, (thing, 1), {thing}, Holder(thing)]
    known = {id(one) for one in gc.get_referrers(thing)} - {id(holders)}
    assert known <= {id(one) for one in _holding({id(thing)}, gc.get_objects())} | {id(locals())}
    assert not {id(one) for one in _holding({id(Thing())}, gc.get_objects())} & {id(one) for one in holders}
