"""Identity files, signatures, rosters. Nobody sent them: what is wrong with them is their operator's to mend."""

from __future__ import annotations

import hashlib

from world import IDENTITIES, ROSTER, Case

from keys.encoding import prefixed


def identity_vectors() -> list[Case]:
    member = IDENTITIES["site-a"]
    signing, sealing, channel = (key.hex() for key in member.raw)
    keys = f"signing {signing}\nsealing {sealing}\nchannel {channel}\n"
    good = f"fedsecure identity v1\n{keys}fingerprint {member.fingerprint}\n"
    public = dict(zip(("signing", "sealing", "channel"), (key.hex() for key in member.public.keys), strict=True))
    cases = [{"name": "valid", "expect": "ok", "file": good, "public": public, "fingerprint": member.fingerprint}]
    for name, file in {
        "empty": "",
        "another version": good.replace("v1", "v2"),
        "last line feed missing": good[:-1],
        "carriage returns": good.replace("\n", "\r\n"),
        "line behind": good + "\n",
        "key line missing": good.replace(f"channel {channel}\n", ""),
        "key lines exchanged": f"fedsecure identity v1\nsealing {sealing}\nsigning {signing}\n"
        + good.split("\n", 3)[3],
        "key in capitals": good.replace(sealing, sealing.upper()),
        "key one digit short": good.replace(signing, signing[:-1]),
        "key with blanks": good.replace(signing, signing[:2] + " " + signing[2:]),
        "one bit of a key": good.replace(signing, f"{int(signing, 16) ^ 1:064x}"),
        "another's fingerprint": good.replace(member.fingerprint, IDENTITIES["site-b"].fingerprint),
        "not ASCII": good.replace("signing", "sign\u0131ng"),
        "longer than any identity file": good + "x" * 2000,
    }.items():
        cases.append({"name": name, "expect": "IdentityError", "rule": "the identity file is damaged", "file": file})
    return cases


def signature_vectors() -> list[Case]:
    signature = IDENTITIES["site-a"].sign(b"label", b"data")
    fields = {"signer": "site-a", "label": b"label".hex(), "data": b"data".hex(), "signature": signature.hex()}
    order = 2**252 + 27742317777372353535851937790883648493  # of the base point: RFC 8032 demands S below it
    malleable = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    changes = {
        "another signer": {"signer": "site-b"},
        "another label": {"label": b"lab".hex()},
        "bytes moved from data to label": {"label": b"labeld".hex(), "data": b"ata".hex()},
        "another data": {"data": b"date".hex()},
        "one byte short": {"signature": signature[:-1].hex()},
        "one byte long": {"signature": signature.hex() + "00"},
        "empty": {"signature": ""},
        "S not reduced": {"signature": malleable.hex()},
    }
    refused = [{"name": name, **fields, **change, "expect": "InvalidSignature"} for name, change in changes.items()]
    return [{"name": "valid", **fields, "expect": "ok"}, *refused]


def roster_vectors() -> list[Case]:
    good = ROSTER.to_bytes().decode()
    heading, coordinator, a, b, c, _ = good.split("\n")
    digest = hashlib.sha256(prefixed(b"fedsecure/roster/v1", good.encode())).hexdigest()
    cases = [{"name": "valid", "expect": "ok", "file": good, "digest": digest}]
    keys = dict(zip(("signing", "sealing", "channel"), a.split(" ")[2:], strict=True))
    order_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"  # an Edwards point of order 8

    def add(name: str, rule: str, *lines: str) -> None:
        cases.append({"name": name, "expect": "RosterError", "rule": rule, "file": "\n".join(lines)})

    row, form = "a line of the roster is not", "not in its one canonical form"
    add("empty", "empty", "")
    add("only a heading", "empty", heading, "")
    add("no site", "no site", heading, coordinator, "")
    add("another version", form, heading.replace("v1", "v2"), coordinator, a, b, c, "")
    add("no coordinator", form, heading, a, b, c, "")
    add("two coordinators", form, heading, coordinator, a.replace("site ", "coordinator "), b, c, "")
    add("coordinator below", form, heading, a, coordinator, b, c, "")
    add("sites out of order", form, heading, coordinator, b, a, c, "")
    add("carriage returns", form, *(line + "\r" for line in (heading, coordinator, a)), "")
    add("last line feed missing", form, heading, coordinator, a, b, c)
    add("empty line", row, heading, coordinator, "", a, b, c, "")
    add("two blanks", row, heading, coordinator, a.replace(" ", "  "), b, c, "")
    add("a name stands twice", "a name stands twice", heading, coordinator, a, a, b, "")
    add("name in capitals", "a name has 1 to 32", heading, coordinator, a.replace("site-a", "Site-a"), b, "")
    add("name of 33 characters", "a name has 1 to 32", heading, coordinator, a.replace("site-a", "a" * 33), b, "")
    add("two keys", row, heading, coordinator, a.rsplit(" ", 1)[0], b, "")
    add("four keys", row, heading, coordinator, f"{a} {keys['channel']}", b, "")
    add("key of 31 bytes", row, heading, coordinator, a[:-2], b, "")
    add("key in capitals", form, heading, coordinator, a[:-64] + a[-64:].upper(), b, "")
    for use, key in keys.items():
        twice = b.replace(b.split(" ")[2 + list(keys).index(use)], key)
        add(f"{use} key of another member", "a key stands twice", heading, coordinator, a, twice, "")
    crossed = b.replace(b.split(" ")[4], keys["sealing"])
    add("a key in another use", "a key stands twice", heading, coordinator, a, crossed, "")
    add("one key for two uses", row, heading, coordinator, a.replace(keys["channel"], keys["sealing"]), "")
    for use, key in keys.items():
        add(f"{use} key of zeros", row, heading, coordinator, a.replace(key, "00" * 32), "")
        add(f"{use} key above the field", row, heading, coordinator, a.replace(key, "ff" * 31 + "7f"), "")
    for name, point in {"order 1": "01" + "00" * 31, "order 8": order_8}.items():
        add(f"signing key of {name}", row, heading, coordinator, a.replace(keys["signing"], point), "")
    return cases
