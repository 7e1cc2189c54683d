"""What left, provably: a Merkle tree of one leaf a message, and signed heads of it. SPEC.md says what the bytes are."""
