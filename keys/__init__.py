"""Who is who: identities, the roster, and sealing to one member. Knows no message and no tensor."""
