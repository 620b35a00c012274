"""What was evaluated is evaluated again only after it was forgotten."""

import torch

from models.recent_blocks import RecentBlocks


class Evaluate:
    def __init__(self):
        self.asked = []

    def __call__(self, places):
        self.asked.append(places.tolist())
        return places[:, None, None] * torch.ones(1, 2, 3)


def get(recent, evaluate, *places, level=0):
    found = recent.get(level, torch.tensor(places, dtype=torch.int64), evaluate)
    assert torch.equal(found, Evaluate()(torch.tensor(places, dtype=torch.int64)))
    return evaluate.asked[-1]


def test_no_blocks_are_given_and_nothing_is_kept_without_room():
    evaluate = Evaluate()
    assert get(RecentBlocks(0), evaluate) == []
    none = RecentBlocks(5)
    assert get(none, evaluate, 1, 2) == [1, 2] and get(none, evaluate, 1, 2) == [1, 2]


def test_blocks_are_evaluated_once_while_there_is_room_for_them_and_those_of_each_level_apart():
    recent, evaluate = RecentBlocks(3 * 6), Evaluate()
    assert get(recent, evaluate, 1, 4) == [1, 4]
    assert get(recent, evaluate, 1, 2, 4) == [2]
    assert get(recent, evaluate, 1, level=1) == [1]
    # The one asked for longest ago, of three, was forgotten.
    assert get(recent, evaluate, 2, 4) == []
    assert get(recent, evaluate, 1) == [1]
    recent.forget()
    assert get(recent, evaluate, 4, 5) == [4, 5]


def test_what_is_given_may_be_changed_by_who_takes_it():
    recent, evaluate = RecentBlocks(100), Evaluate()
    for _ in range(2):
        recent.get(0, torch.tensor([3]), evaluate).zero_()
    assert get(recent, evaluate, 3) == []


def test_any_blocks_in_any_order_come_back_right_and_no_more_are_kept_than_have_room():
    generator, recent, evaluate = torch.Generator().manual_seed(0), RecentBlocks(5 * 6), Evaluate()
    for _ in range(100):
        n = int(torch.randint(0, 9, (), generator=generator))
        asked = torch.randperm(12, generator=generator)[:n].tolist()
        get(recent, evaluate, *asked)
        assert sorted(recent._slots.values()) == list(range(len(recent._slots))) and len(recent._slots) <= 5
