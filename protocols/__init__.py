"""What is said: messages, signed frames, sealed boxes, transports. SPEC.md says what the bytes are."""
