"""`fedsecure roster`: who takes part, agreed among institutions. See docs/keys.md for the whole ceremony."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsecure.cli import passphrases
from fedsecure.cli.keys import Folder

if TYPE_CHECKING:
    from keys.edition import Edition
    from keys.trust import Pin, Trust

app = typer.Typer(
    help="Found a federation, invite and revoke sites, sign and verify rosters. A roster is a text file that is passed "
    "from site to site; most institutions must sign each version, and it holds for at most 90 days.",
    no_args_is_help=True,
)


_MAXIMUM = 1 << 16  # bytes of a request


class Why(StrEnum):
    """keys.edition.Reason, without loading it for the help."""

    COMPROMISED = "key-compromised"
    LOST = "key-lost"
    LEFT = "left"
    EXPELLED = "expelled"


RosterFile = Annotated[Path, typer.Argument(metavar="ROSTER", help="The roster's file.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask: the fingerprints have been compared.")]
Minimum = Annotated[int, typer.Option(min=1, help="Of how many institutions sites that this node pins must sign.")]


@app.callback()
def _roster() -> None:
    """Found a federation, invite and revoke sites, sign and verify rosters."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The coordinator's name: a-z, 0-9 and -.")],
    institution: Annotated[str, typer.Argument(help="Who answers for the coordinator.")],
    out: Annotated[Path, typer.Option(help="The new roster's file.")] = Path("roster"),
    minimum: Minimum = 2,
    folder: Folder = Path(),
) -> None:
    """Found a federation with this node as its coordinator. Its roster holds once sites have joined and signed."""
    from fedsecure.node.enrolment import found_trust
    from fedsecure.node.membership import IDENTITY, now
    from keys import keystore
    from keys.amend import found
    from keys.edition import Member
    from keys.trust import Pin, Trust

    public = keystore.stored(folder / IDENTITY).public
    edition = found(name, Member(institution, public), now())
    pins = {name: Pin(institution, public.fingerprint)}
    found_trust(folder, Trust(edition.federation, name, minimum, pins))
    _write(out, edition.to_bytes())
    typer.echo(f"federation {edition.federation.hex()}, coordinated by {name} ({public.fingerprint})")


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="The new site's name.")],
    institution: Annotated[str, typer.Argument(help="The institution that answers for it.")],
    out: Annotated[Path, typer.Option(help="The invitation's file. It is a secret.")],
    folder: Folder = Path(),
) -> None:
    """Invite a site. The invitation holds once, for 14 days.

    Its file is a secret: hand it over or encrypt it. Read this node's fingerprint out by telephone.
    """
    from fedsecure.node.enrolment import invite as make

    invitation = make(folder, name, institution, out)
    typer.echo(f"invitation for {name} of {institution}, until {invitation.expires:%Y-%m-%d %H:%M} UTC: {out}")
    typer.echo(f"it names this node's fingerprint {invitation.host.fingerprint}")


@app.command()
def join(
    invitation: Annotated[Path, typer.Argument(help="The invitation's file.")],
    out: Annotated[Path, typer.Option(help="The request, for whoever invited.")] = Path("request"),
    minimum: Minimum = 2,
    folder: Folder = Path(),
    yes: Yes = False,
    passphrase_file: passphrases.File = None,
) -> None:
    """Answer an invitation: pin whoever invited, and make a request that is bound to the invitation."""
    from fedsecure.node.enrolment import found_trust, load_own
    from fedsecure.node.membership import now, read_secret
    from keys.enrolment import Invitation, JoinRequest
    from keys.trust import Pin, Trust

    given = Invitation.from_bytes(read_secret(invitation, "invitation"))
    host = given.host
    typer.echo(f"invited as {given.name} of {given.institution}")
    typer.echo(f"by {host.name} of {host.institution}, fingerprint {host.fingerprint}")
    _confirm(yes, "Has its operator read this fingerprint out to you?")
    identity, _ = load_own(folder, passphrases.present(passphrase_file))
    request = JoinRequest.make(given, identity, now())
    own = Pin(given.institution, identity.fingerprint)
    pins = {given.name: own, host.name: Pin(host.institution, host.fingerprint)}
    _write(out, request.to_bytes())  # first: a folder that belongs to a federation joins no other
    found_trust(folder, Trust(given.federation, given.name, minimum, pins))
    typer.echo(f"own fingerprint {identity.fingerprint}")
    typer.echo(f"request {out}; delete the invitation")


@app.command()
def admit(
    roster: RosterFile,
    requests: Annotated[list[Path], typer.Argument(help="Requests to join, or to change keys.")],
    folder: Folder = Path(),
) -> None:
    """Make the next version of ROSTER, with those who ask for it. Uses their invitations up and pins them here."""
    from fedsecure.node.enrolment import admit as put
    from fedsecure.node.membership import read_edition

    edition = read_edition(roster)
    for request in requests:
        edition = put(folder, edition, _read(request))
        _write(roster, edition.to_bytes())  # each at once: its invitation is used up whatever becomes of the next
    _tell(edition, None)


@app.command()
def renew(roster: RosterFile) -> None:
    """Make the next version of ROSTER with nothing changed but its dates."""
    from fedsecure.node.membership import now, read_edition
    from keys import amend

    edition = amend.renew(read_edition(roster), now())
    _write(roster, edition.to_bytes())
    _tell(edition, None)


@app.command()
def revoke(
    roster: RosterFile,
    name: Annotated[str, typer.Argument(help="The site to revoke.")],
    reason: Annotated[Why, typer.Option(help="Why. Stands in the roster for good.")],
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%SZ"], help="Since when, UTC. Default: now.")
    ] = None,
) -> None:
    """Make the next version of ROSTER without a site. It holds once most of the present institutions have signed."""
    from fedsecure.node.membership import now, read_edition
    from keys import amend
    from keys.edition import Reason

    moment = now()
    at = moment if since is None else since.replace(tzinfo=UTC)
    edition = amend.revoke(read_edition(roster), name, Reason(reason.value), at, moment)
    _write(roster, edition.to_bytes())
    _tell(edition, None)


@app.command()
def sign(
    roster: RosterFile,
    folder: Folder = Path(),
    yes: Yes = False,
    passphrase_file: passphrases.File = None,
) -> None:
    """Add this site's signature to ROSTER, after all checks that one site can make alone.

    To sign is to vouch: these are separate institutions, and these are their keys.
    """
    from fedsecure.node.enrolment import load_own
    from fedsecure.node.membership import load_trust, now, read_edition

    trust, edition = load_trust(folder), read_edition(roster)
    trust.review(edition, now())
    _tell(edition, trust)
    _confirm(yes, "Have you compared these fingerprints with their operators?")
    wanted = edition.members[trust.me].public
    identity, _ = load_own(folder, passphrases.present(passphrase_file), wanted)
    edition = edition.signed(trust.me, identity)
    _write(roster, edition.to_bytes())
    signed, all_of_them = len(edition.signers), len(edition.institutions)
    typer.echo(f"signed; now {signed} of {all_of_them} institutions have, and it takes {all_of_them // 2 + 1}")


@app.command()
def show(roster: RosterFile, folder: Folder = Path()) -> None:
    """Show what ROSTER says, and which of it this node has pinned. Nothing is verified."""
    from fedsecure.node.membership import TRUST, load_trust, read_edition

    trust = load_trust(folder) if (folder / TRUST).exists() else None
    _tell(read_edition(roster), trust)


@app.command()
def verify(
    roster: RosterFile,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:INSTITUTION:FINGERPRINT", help="A member whose fingerprint was compared. Repeatable."
        ),
    ] = None,
    minimum: Annotated[
        int | None, typer.Option(min=1, help="From now on, of how many institutions pinned sites must sign.")
    ] = None,
    folder: Folder = Path(),
) -> None:
    """Check ROSTER in full, and act on it from now on. An older version is refused ever after."""
    from fedsecure.node.enrolment import ask_for, pin_member, promote
    from fedsecure.node.membership import accept, read_edition

    edition = read_edition(roster)
    for text in pin or ():
        pin_member(folder, *_pin(text))
    if minimum is not None:
        ask_for(folder, minimum)
    trust = accept(folder, edition)
    promote(folder, trust)
    _tell(edition, trust)
    typer.echo(f"accepted: version {edition.version}, until {edition.expires:%Y-%m-%d %H:%M} UTC")


def _tell(edition: Edition, trust: Trust | None) -> None:
    """The edition as a person compares it."""
    pins = {} if trust is None else trust.pins
    typer.echo(f"version {edition.version}, {edition.issued:%Y-%m-%d} to {edition.expires:%Y-%m-%d}")
    for name, member in edition.members.items():
        notes = ["coordinator" if name == edition.coordinator else "site"]
        notes += ["signed"] * (name in edition.signatures) + ["new keys"] * (name in edition.rotated)
        if trust is not None:
            held = name in pins and pins[name].fingerprint == member.public.fingerprint
            notes.append("pinned" if held else "NOT PINNED")
        typer.echo(f"  {name:12} {member.institution:16} {member.public.fingerprint}  {', '.join(notes)}")
    for entry in edition.revoked:
        typer.echo(f"  {entry.name:12} {entry.institution:16} {entry.public.fingerprint}  revoked, {entry.reason}")


def _pin(text: str) -> tuple[str, Pin]:
    from fedsecure.errors import SettingsError
    from keys.trust import Pin

    name, *rest = text.split(":")
    if len(rest) != 2:
        raise SettingsError("--pin is written NAME:INSTITUTION:FINGERPRINT")
    return name, Pin(*rest)


def _confirm(yes: bool, question: str) -> None:
    if not yes:
        typer.confirm(question, abort=True)


def _read(path: Path) -> bytes:
    from fedsecure.errors import SettingsError

    try:
        with path.open("rb") as file:
            return file.read(_MAXIMUM)
    except OSError as error:
        raise SettingsError(f"cannot read the request: {error.strerror}") from None


def _write(path: Path, raw: bytes) -> None:
    from fedsecure.errors import SettingsError
    from fedsecure.files import write_atomic

    try:
        write_atomic(path, raw)
    except OSError as error:
        raise SettingsError(f"cannot write the file: {error.strerror}") from None
