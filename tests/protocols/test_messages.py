from __future__ import annotations

import typing
from unittest import mock

import msgspec
import pytest

from protocols import messages
from protocols.codec import encode
from protocols.messages import Kind, Message, Role, SealedBox, WeightUpdate, Wrap, kind_of, role_of

ALL = typing.get_args(Message)


def bare(cls: type[msgspec.Struct]) -> typing.Any:
    """Something that passes for an instance: enough to ask for its type."""
    return mock.Mock(spec=cls)


def test_the_union_is_all_there_is() -> None:
    tagged = {
        cls
        for cls in vars(messages).values()
        if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and cls.__struct_config__.tag is not None
    }
    assert tagged == set(ALL)
    assert len({cls.__struct_config__.tag for cls in ALL}) == len(ALL) == 31


def test_each_message_has_one_kind_and_one_sender() -> None:
    table = {cls.__name__: (kind_of(bare(cls)), role_of(bare(cls))) for cls in ALL}
    assert table == {
        "Hello": (Kind.CONTROL, Role.SITE),
        "RoundDone": (Kind.CONTROL, Role.SITE),
        "Leave": (Kind.CONTROL, Role.SITE),
        "StudyClosed": (Kind.CONTROL, Role.COORDINATOR),
        "WeightUpdate": (Kind.RELEASE, Role.SITE),
        "FeatureBank": (Kind.RELEASE, Role.SITE),
        "PrototypeSum": (Kind.RELEASE, Role.SITE),
        "MetricReport": (Kind.RELEASE, Role.SITE),
        "RoundOpen": (Kind.PUBLISH, Role.COORDINATOR),
        "BankRelay": (Kind.PUBLISH, Role.COORDINATOR),
        "TargetUpdate": (Kind.RELEASE, Role.SITE),
        "DistanceReport": (Kind.RELEASE, Role.SITE),
        "TargetModel": (Kind.PUBLISH, Role.COORDINATOR),
        "WantTarget": (Kind.CONTROL, Role.SITE),
        "AskTargets": (Kind.CONTROL, Role.COORDINATOR),
        "SecAggOpen": (Kind.PUBLISH, Role.COORDINATOR),
        "AdvertiseKeys": (Kind.SHARE, Role.SITE),
        "Keyset": (Kind.SHARE, Role.COORDINATOR),
        "ShareKeys": (Kind.SHARE, Role.SITE),
        "RelayShares": (Kind.SHARE, Role.COORDINATOR),
        "MaskedInput": (Kind.RELEASE, Role.SITE),
        "Survivors": (Kind.SHARE, Role.COORDINATOR),
        "ConsistencyCheck": (Kind.SHARE, Role.SITE),
        "UnmaskRequest": (Kind.SHARE, Role.COORDINATOR),
        "UnmaskShares": (Kind.SHARE, Role.SITE),
        "SumResult": (Kind.PUBLISH, Role.COORDINATOR),
        "ResultAgreement": (Kind.SHARE, Role.SITE),
        "AgreedResult": (Kind.SHARE, Role.COORDINATOR),
        "LogHead": (Kind.SHARE, Role.SITE),
        "LogHeads": (Kind.SHARE, Role.COORDINATOR),
        "LogWitness": (Kind.SHARE, Role.SITE),
    }


def test_what_is_no_message_has_no_kind() -> None:
    for stranger in (b"bytes", Wrap("north", bytes(80))):
        with pytest.raises(AssertionError):
            kind_of(stranger)  # type: ignore[arg-type]  # what must fail
        with pytest.raises(AssertionError):
            role_of(stranger)  # type: ignore[arg-type]


def test_control_holds_no_float_array_or_free_text() -> None:
    """Anything wider would be a way out past the gate."""
    for cls in ALL:
        if kind_of(bare(cls)) is Kind.CONTROL:
            for field in msgspec.inspect.type_info(cls).fields:  # type: ignore[union-attr]
                assert isinstance(
                    field.type, msgspec.inspect.IntType | msgspec.inspect.BoolType | msgspec.inspect.EnumType
                ), f"{cls.__name__}.{field.name}"


def test_messages_do_not_print_what_they_hold() -> None:
    update = WeightUpdate(0, 0, bytes(32), b"patient!")
    box = SealedBox("north", b"patient!" * 2, (Wrap("south", bytes(80)),), bytes(64))
    assert repr(update) == "WeightUpdate()"
    assert f"{box} {box!r} {[box]} {box.wraps}" == "SealedBox() SealedBox() [SealedBox()] (Wrap(),)"


def test_messages_do_not_change() -> None:
    with pytest.raises(AttributeError):
        WeightUpdate(0, 0, bytes(32), b"").round = 1  # type: ignore[misc]  # what must fail


@pytest.mark.parametrize(
    "invalid",
    [
        WeightUpdate(-1, 0, bytes(32), b""),
        WeightUpdate(0, 2**31, bytes(32), b""),
        WeightUpdate(0, 0, bytes(31), b""),
        messages.Leave("bored"),  # type: ignore[arg-type]  # what must fail
        messages.MetricReport(0, 0, bytes(4 * 1025)),
        messages.BankRelay(0, 0, "a/b", SealedBox("a/b", bytes(16), (Wrap("south", bytes(80)),), bytes(64))),
    ],
)
def test_nothing_invalid_is_encoded(invalid: Message) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  msgspec's texts; that it is refused is the point
        encode(invalid)
