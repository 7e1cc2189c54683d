"""How frames travel: `base` says what a transport promises, the others keep it."""
