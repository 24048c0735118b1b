"""References of pictures in rows: their forms, and addresses that are refused."""

import pytest
from test_pictures import picture, web

from pipelines.ingest.pictures.fetch import _public
from pipelines.ingest.pictures.references import data_uri, references
from pipelines.sources.cells import Refused
from storage.reasons import Reason


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("172.16.3.4", False),
        ("192.168.1.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:0a00:0001::1", False),
        ("64:ff9b::a00:1", False),
    ],
)
def test_only_public_addresses_are_public(address: str, public: bool) -> None:
    assert _public(address) is public


@pytest.mark.parametrize("url", ["ftp://host/a.jpg", "http://", "http://host:99999/a.jpg", "http://[::1/a.jpg"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Refused) as refused:
        web().get(url)
    assert refused.value.reason == "image_address"


def test_an_address_or_data_that_cannot_be_read_says_what_to_do() -> None:
    with pytest.raises(
        Refused, match="is not an http or https address: copy the picture to such an address, or beside"
    ):
        web().get("ftp://host/a.jpg")
    for text in ("data:image/png;base64,@@@", "data:nothing"):
        with pytest.raises(Refused, match="write it whole"):
            data_uri(text, 99)
    assert Reason.IMAGE_ADDRESS.remedy.startswith("correct the address; a host that is not public, add to")


@pytest.mark.parametrize(
    ("cell", "told"),
    [(3, "a number, 3, names no picture"), (True, "a boolean, true, names no picture")],
)
def test_a_value_that_names_no_picture_is_told_as_in_json(cell: object, told: str) -> None:
    assert [str(each) for each in references(cell)] == [f"image_reference_unknown: {told}"]


def test_references_are_found_in_every_form() -> None:
    data = picture()
    assert references([data, {"bytes": None, "path": "b.jpg"}, "c.jpg", None, ""]) == [data, "b.jpg", "c.jpg"]
    assert references(float("nan")) == references(None) == references([]) == []
