"""The two nodes. Each is a pure `step(state, event) -> (state, effects)` with a thin shell that runs the effects.

events.py        what can happen to a node, and what a node can want
site.py          the site's machine          coordinator.py   the coordinator's machine, with coordinator_state.py,
                                             coordinator_target.py and coordinator_end.py
site_target.py   its target network          averaging.py     how a round's updates become models
store.py         what survives a kill        shell.py         runs effects: sockets, gate, trainer, store
trainer.py       the trainer's door; worker.py is the process behind it
membership.py    which files say who a node is and whom it believes
enrolment.py     what an operator does to a node's folder: found, invite, admit, pin, change keys
introductions.py who may speak: greetings, and folders that went back to an older copy
pilot.py         a node's folder from its operator's files
vitals.py        how a node is doing; log.py and health.py tell it to others on its machine
checks.py        what the doctor sees on one machine; comparison.py and consultation.py, among all of them
wiring.py        the one place that picks a study's transport and joins a node's parts
"""
