"""Secure aggregation: a sum of the sites' vectors that shows nobody one of them. SPEC.md, THREATS.md.

manifest   what a sum is about, what a site checks before it takes part
graph      who shares masks with whom
keyset     the keys of one sum, and the masks that follow from them
shares     secrets dealt to others, sealed, committed to, put together again
client     a site's steps, one state type each
server     the coordinator's steps
ledger     what a site must have on disk before each of its steps
"""
