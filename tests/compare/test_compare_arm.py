"""Policies as a person names them."""

from __future__ import annotations

import re

import pytest

from server.compare.arm import Arm, parse_arm, parse_arms
from server.gateway.policy import Policy, PolicyChange


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("fifo", PolicyChange(order="fifo")),
        ("plain-shortest", PolicyChange(order="shortest", ageing_s=0.0)),
        ("plain-priority:max-queue=9", PolicyChange(order="priority", ageing_s=0.0, max_queue=9)),
        ("fifo:max-in-flight=4,overload=shed", PolicyChange(order="fifo", max_in_flight=4, overload="shed")),
        ("fair:ageing=off", PolicyChange(order="fair", ageing_s=0.0)),
        (
            "shortest:ageing=2.5,limit=tokens,token-budget=900,deadline=off,during-restart=reject",
            PolicyChange(order="shortest", ageing_s=2.5, limit="tokens", token_budget=900, deadline_s=0.0, hold=False),
        ),
    ],
)
def test_an_arm_is_an_order_and_settings(text: str, change: PolicyChange) -> None:
    assert parse_arm(text) == Arm(text, change)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("fastest", "names no order; there are fifo, shortest, priority, fair, plain-shortest"),
        ("plain-fifo", "names no order"),
        ("", "names no order"),
        ("fifo:colour=red", "'colour' in 'fifo:colour=red' is no setting; there are ageing, limit"),
        ("fifo:max-queue=many", "'max-queue=many' in"),
        ("fifo:overload", "'overload' in"),
        ("fifo:max-queue=1,max-queue=2", "stands twice"),
        ("plain-shortest:ageing=3", "without ageing"),
    ],
)
def test_what_is_no_arm_is_refused_in_a_sentence(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        parse_arm(text)


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        (["fifo"], "Give 2 to 6 policies"),
        (["fifo"] * 7, "Give 2 to 6 policies"),
        (["fifo", "shortest", "fifo"], "`fifo` and `fifo` are the same policy"),
        (["fifo", "fifo:ageing=9"], "`fifo` and `fifo:ageing=9` are the same policy"),
        (["plain-fair", "fair:ageing=off"], "are the same policy"),
        (["shortest", "shortest:ageing=30"], "are the same policy"),
        (["fifo", "fair:max-in-flight=0"], "max in-flight must be at least 1"),
    ],
)
def test_arms_differ(texts: list[str], part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        parse_arms(texts)


def test_arms_share_all_that_they_do_not_name() -> None:
    base = Policy(order="fair", ageing_s=None, overload="shed", max_queue=7, max_in_flight=64, deadline_s=9.0)
    common = {"overload": "shed", "max_queue": 7, "deadline_s": 9.0}
    assert parse_arm("fifo").policy(base, 4) == Policy(order="fifo", max_in_flight=4, **common)
    assert parse_arm("shortest").policy(base, 4) == Policy(order="shortest", ageing_s=30.0, max_in_flight=4, **common)
    plain = parse_arm("plain-shortest:max-in-flight=2,deadline=off").policy(base, 4)
    assert plain == Policy(order="shortest", ageing_s=None, max_in_flight=2, overload="shed", max_queue=7)


def test_ageing_is_the_one_in_force_where_there_is_one() -> None:
    assert parse_arm("shortest").policy(Policy(ageing_s=5.0), 4).ageing_s == 5.0


def test_a_whole_policy_makes_any_policy_this_one() -> None:
    odd = Policy(order="fair", ageing_s=None, overload="shed", deadline_s=4.0, hold=False, keep_alive_s=1.0)
    for policy in (Policy(), odd, Policy(limit="tokens", token_budget=5)):
        assert odd.changed(policy.whole()) == policy
        assert policy.changed(odd.whole()) == odd
