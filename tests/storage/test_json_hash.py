"""The hash that lakes store of settings: fixed, and the same in any order of names."""

from storage.json_hash import json_hash


def test_the_hash_of_a_json_value_is_the_one_that_lakes_have_stored() -> None:
    """The expected digits are those that the functions gave which this one replaced."""
    assert json_hash({"b": [1, 0.5, None, True], "a": {"ä": "x"}}) == "406374632ce07e75"
    assert json_hash({"a": 1, "b": 2}) == json_hash({"b": 2, "a": 1}) != json_hash({"a": 2, "b": 1})
