"""Texts: when case counts, and dates, times and measures as such."""

import pytest

from rewards.grading.words import moment, same_words


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        ("Paris", "PARIS"),
        ("ox", "OX"),
        ("tv", "TV"),
        ("No", "no"),
        ("Room 5B", "room 5B"),
        ("A dog", "a dog"),
        ("10 - 12", "10-12"),
        ("7:00", "07:00"),
        ("7:00", "7 o'clock"),
        ("2:45 PM", "14:45"),
        ("July 4, 1776", "4 July 1776"),
        ("July 4, 1776", "1776-07-04"),
        ("2023年5月6日", "2023-05-06"),
        ("12:00 PM", "noon"),
        ("3:4", "3 to 4"),
        ("the third", "3rd"),
        ("Eiffel Tower", "The Eiffel Tower"),
        ("baseball bat", "A baseball bat"),
        ("a dog", "dog"),
    ],
)
def test_two_texts_say_the_same(gold: str, given: str) -> None:
    assert same_words(gold, given)


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        ("AaBb", "aabb"),
        ("AABB", "aabb"),
        ("NiO", "NIO"),
        ("Co", "CO"),
        ("Room 5B", "room 5b"),
        ("5 Nm", "5 nm"),
        ("box A", "box a"),
        ("7:00", "7:00 PM"),
        ("3:4", "3:40"),
        ("July 4, 1776", "July 5, 1776"),
        ("A minor", "minor"),
        ("B", "A B"),
        ("3:4", "4 to 3"),
    ],
)
def test_two_texts_differ(gold: str, given: str) -> None:
    assert not same_words(gold, given)


@pytest.mark.parametrize("text", ["25:00", "7:60", "7", "May", "Maybe 4, 1776", "4/7/1776"])
def test_what_is_no_date_and_no_time(text: str) -> None:
    assert moment(text) is None
