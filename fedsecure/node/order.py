"""Which rounds an honest coordinator can open next, as far as a site can tell by itself.

A round closes when every site of the cohort is done with it, or at its deadline. So a round that this site was not done
with stays open until its deadline, or for ever where it has none; unless the site said that it leaves. From the last
round that it was sent a site knows therefore

    without a deadline      which round comes next: the one after it, once the site is done with it
    with one                how long each round that it missed was open at least

It does not know where a study stands that it comes to with a new folder, or comes back to after it left. What is left
to a coordinator that does not keep to the order is in fedsecure/privacy/THREATS.md.
"""

from __future__ import annotations

from typing import Final

from fedsecure.config import Study
from fedsecure.plan import deadline_of, places

Place = tuple[int, int]  # stage, round
NEVER: Final[Place] = (-1, -1)
TRAVEL_S: Final = 60.0  # that a frame may be on its way
LEFT_OUT: Final = "a round that has no deadline waits for every site: leaves one out that this site was not done with"
TOO_SOON: Final = "a round waits for every site until its deadline: leaves out rounds that were not open for so long"


def objection(study: Study, sent: Place, done: bool, waited: float | None, asked: Place) -> str:
    """Why the round `asked` cannot be open yet; empty if it can, or if nobody can tell.

    sent: the last round that this site was sent, NEVER if none since it last left; done: whether it is, or may be, done
    with it; waited: seconds since it was sent, None where the process that it was sent to has ended.
    """
    if sent == NEVER:
        return ""
    missed = [deadline_of(study, *place) for place in places(study) if sent < place < asked]
    if None in missed or (not done and asked > sent and deadline_of(study, *sent) is None):
        return LEFT_OUT
    if waited is not None and waited + TRAVEL_S < sum(deadline for deadline in missed if deadline is not None):
        return TOO_SOON
    return ""
